"""Connections that end in the middle of a call: the sync fails as one to be tried again, and the next one ends right."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from minirag_pipelines.core.database import Transaction
from minirag_pipelines.core.errors import DatabaseUnavailable, VectorStoreUnavailable
from minirag_pipelines.core.vector_store import TIMEOUT_S, VectorStore
from tests.proxies import Fault, Proxy
from tests.states import Chroma, state_of
from tests.workbench import Workbench
from tests.worlds import Worlds

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]


@pytest.fixture
def chroma_proxy(chroma_url: str) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", int(chroma_url.rsplit(":", 1)[1])) as proxy:
        yield proxy


@pytest.fixture
def postgres_proxy(database_url: str) -> Iterator[Proxy]:
    parts = conninfo_to_dict(database_url)
    with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
        yield proxy


CHROMA_FAULTS: list[list[tuple[Fault, bytes]]] = [
    [("cut before", b"/upsert"), ("cut after", b"/upsert"), ("hang", b"/upsert"), ("late", b"/upsert")],
    [("cut before", b"/delete"), ("cut after", b"/delete"), ("hang", b"/delete"), ("late", b"/delete")],
    [("cut before", b"/count"), ("cut after", b"/collections "), ("hang", b"/collections "), ("hang", b"/identity")],
]


@pytest.mark.parametrize("faults", CHROMA_FAULTS)
def test_a_cut_connection_to_chroma_loses_nothing(
    worlds: Worlds, chroma_proxy: Proxy, faults: list[tuple[Fault, bytes]]
) -> None:
    for tenant_id in ("calm", "acme"):
        assert worlds.run(tenant_id).finished
    for fault, request in faults:
        worlds.change(new_chunker=False)
        assert worlds.run("calm").finished
        chroma_proxy.arm(fault, request)
        ended = worlds.starter.run(worlds.workbench, chroma_url=chroma_proxy.url, timeout_s=2)
        assert chroma_proxy.struck.is_set(), (fault, request)
        assert (ended.error, ended.retryable) == ("VectorStoreUnavailable", True), (fault, request)
        if fault == "late":
            chroma_proxy.release()
        assert worlds.run().finished
        worlds.check_index()


def test_a_chroma_that_does_not_answer_is_given_up_before_vectors_are_retired(chroma_proxy: Proxy) -> None:
    assert TIMEOUT_S < 60
    for request in (b"/heartbeat", b"/identity"):
        chroma_proxy.arm("hang", request)
        with pytest.raises(VectorStoreUnavailable, match="does not answer in time"):
            VectorStore(chroma_proxy.url, timeout_s=0.5).heartbeat()


def test_a_delete_that_arrives_after_the_next_sync_is_made_good(worlds: Worlds, chroma_proxy: Proxy) -> None:
    workbench = worlds.workbench
    for tenant_id in ("calm", "acme"):
        assert worlds.run(tenant_id).finished
    path = worlds.folders["acme"] / "1.txt"
    text = path.read_text()
    path.unlink()
    chroma_proxy.arm("late", b"/delete")
    ended = worlds.starter.run(workbench, chroma_url=chroma_proxy.url, timeout_s=1)
    assert ended.error == "VectorStoreUnavailable"
    path.write_text(text)
    assert worlds.run().finished
    chroma_proxy.release()
    assert worlds.run().restored == 1
    worlds.check_index()


def test_a_commit_whose_acknowledgement_is_lost_is_not_done_twice(
    worlds: Worlds, postgres_proxy: Proxy, database_url: str
) -> None:
    lost = make_conninfo(database_url, host="127.0.0.1", port=postgres_proxy.port)
    for tenant_id in ("calm", "acme"):
        assert worlds.run(tenant_id).finished
    for commits in (2, 6, 10, 14, 18, 22, 26, 30):
        worlds.change(new_chunker=False)
        assert worlds.run("calm").finished
        postgres_proxy.arm("cut after", b"COMMIT", skip=commits)
        ended = worlds.run_with(database_url=lost)
        assert (ended.error, ended.retryable) == ("DatabaseUnavailable", True), commits
        assert worlds.run().finished
        worlds.check()


def test_a_backend_that_ends_in_any_statement_costs_the_sync_and_nothing_else(
    workbench: Workbench, database_url: str, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench.retire_after_s = 0
    run, met, ended = Transaction.run, dict[bytes, int](), set[bytes]()
    victim: bytes | None = None

    def cut(transaction: Transaction, statement: bytes, **parameters: object) -> psycopg.Cursor[object]:
        nonlocal victim
        met[statement] = met.get(statement, 0) + 1
        if statement == victim:
            victim = None
            ended.add(statement)
            with psycopg.connect(database_url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", [transaction.connection.info.backend_pid])
        return run(transaction, statement, **parameters)

    monkeypatch.setattr(Transaction, "run", cut)

    def change(number: int) -> None:
        workbench.write("edited.txt", f"Buoy number {number} is painted green.")
        workbench.write(f"added-{number}.txt", f"Pier number {number} is closed.")
        (workbench.folder / f"added-{number - 1}.txt").unlink(missing_ok=True)

    for number in range(3):
        change(number)
        workbench.sync()
    failed = 0
    for number, statement in enumerate(list(met), 3):
        change(number)
        victim = statement
        try:
            workbench.sync()
        except DatabaseUnavailable:
            failed += 1
        victim = None
        if number % 4 == 0:
            workbench.sync()
            state_of(workbench, Chroma(chroma_url), "acme", "")
    workbench.sync()
    state_of(workbench, Chroma(chroma_url), "acme", "")
    assert failed == len(ended) > 30
