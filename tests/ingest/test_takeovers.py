"""Who may write: one process a tenant, and never one that slept while another took over."""

from __future__ import annotations

import psycopg
import pytest

from tests.states import Chroma, check_generation
from tests.syncs import Starter
from tests.workbench import Workbench
from tests.worlds import Worlds

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

PAUSES = [
    ["sources: before commit 1", "documents: before commit 1", "documents: after commit 1"],
    ["chunks: before commit 1", "embeddings: before embedding 1", "embeddings: before commit 1"],
    ["embeddings: before upsert 1", "embeddings: before sending upsert 1", "embeddings: after upsert 1"],
    ["collection: before commit 1", "collection: after commit 1", "collection: begins 1"],
    ["collection: before delete 1", "collection: before sending delete 1", "collection: after delete 1"],
]


def lose_locks(database_url: str) -> None:
    """End the connections that hold a tenant's lock, as the loss of a network does."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
        ).fetchall()
    assert ended == [(True,)]


@pytest.mark.parametrize("pauses", PAUSES)
def test_a_writer_that_slept_through_a_takeover_does_no_harm(
    worlds: Worlds, database_url: str, pauses: list[str]
) -> None:
    for tenant_id in ("calm", "acme"):
        assert worlds.run(tenant_id).finished
    for pause in pauses:
        worlds.change(new_chunker=False)
        sleeper = worlds.starter.start(worlds.workbench, pause=pause)
        sleeper.wait_until_paused()
        lose_locks(database_url)
        worlds.change(new_chunker=False)
        assert worlds.run().finished
        sleeper.go_on()
        ended = sleeper.ended()
        assert ended.error in ("DatabaseUnavailable", "WriterSuperseded")
        assert worlds.run().finished
        assert worlds.run("calm").finished
        worlds.check_index()


def test_a_vector_that_a_superseded_writer_deleted_is_written_again(
    workbench: Workbench, starter: Starter, database_url: str, chroma_url: str
) -> None:
    """It asked for its right, slept, and deleted a vector that is wanted again; others are leaving at the time."""
    for number in range(4):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    assert starter.run(workbench).finished
    (workbench.folder / "1.txt").unlink()
    sleeper = starter.start(workbench, pause="collection: before sending delete 1")
    sleeper.wait_until_paused()
    lose_locks(database_url)
    workbench.write("1.txt", "Buoy number 1 is painted red.")
    (workbench.folder / "2.txt").unlink()
    assert starter.run(workbench, retire_after_s=60).finished
    chroma = Chroma(chroma_url)
    live = workbench.live()
    assert len(chroma.vectors(live.collection)) == 4
    sleeper.go_on()
    assert sleeper.ended().error in ("DatabaseUnavailable", "WriterSuperseded")
    assert len(chroma.vectors(live.collection)) == 3
    done = starter.run(workbench, retire_after_s=60)
    assert (done.finished, done.restored) == (True, 1)
    with workbench.database.transaction("acme") as transaction:
        check_generation(transaction, chroma, live, settled=False)
    assert "number 1" in workbench.search("buoy number 1").hits[0].text


def test_a_vector_that_a_superseded_writer_sent_is_taken_out_again(
    workbench: Workbench, starter: Starter, database_url: str, chroma_url: str
) -> None:
    """It asked for its right, slept, and sent a vector that nobody knows any more."""
    workbench.write("0.txt", "Buoy number 0 is painted red.")
    assert starter.run(workbench).finished
    workbench.write("1.txt", "Buoy number 1 is painted red.")
    sleeper = starter.start(workbench, pause="embeddings: before sending upsert 1")
    sleeper.wait_until_paused()
    lose_locks(database_url)
    (workbench.folder / "1.txt").unlink()
    assert starter.run(workbench).finished
    sleeper.go_on()
    assert sleeper.ended().error in ("DatabaseUnavailable", "WriterSuperseded")
    chroma = Chroma(chroma_url)
    assert len(chroma.vectors(workbench.live().collection)) == 2
    assert starter.run(workbench).finished
    with workbench.database.transaction("acme") as transaction:
        check_generation(transaction, chroma, workbench.live(), settled=True)


def test_a_second_sync_of_a_tenant_says_that_one_is_running(worlds: Worlds) -> None:
    workbench, starter = worlds.workbench, worlds.starter
    first = starter.start(workbench, pause="embeddings: before upsert 2")
    first.wait_until_paused()
    second = starter.run(workbench, wait_s=0.1)
    assert (second.error, second.points) == ("SyncInProgress", [])
    assert second.message == "A sync of tenant 'acme' is running; wait until it has ended."
    assert worlds.run("calm").finished
    waiting = starter.start(workbench, wait_s=60)
    first.go_on()
    assert first.ended().finished
    assert waiting.ended().finished
    worlds.check_index()


def test_the_lock_of_a_killed_sync_is_free_at_once(worlds: Worlds) -> None:
    first = worlds.starter.start(worlds.workbench, pause="documents: before commit 1")
    first.wait_until_paused()
    first.kill()
    assert first.ended().signal
    assert worlds.run(wait_s=2).finished


def test_the_lock_of_a_lost_machine_is_free_within_30_s(workbench: Workbench) -> None:
    with workbench.writer() as writer:

        def shown(name: str) -> int:
            row = writer.connection.execute(
                f"SELECT setting FROM pg_settings WHERE name = '{name}'".encode()
            ).fetchone()
            return int(row.setting)

        silent_s = shown("tcp_keepalives_idle") + shown("tcp_keepalives_interval") * shown("tcp_keepalives_count")
        assert 0 < silent_s <= 30
        assert 0 < shown("tcp_user_timeout") <= 30_000
