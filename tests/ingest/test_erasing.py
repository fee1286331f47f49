"""What nothing points at is deleted after some days, and what only a forgotten document was at once."""

from __future__ import annotations

import psycopg
import pytest
from alembic import command

from minirag_pipelines.core.database import Database
from minirag_pipelines.core.schema import migrate
from minirag_pipelines.ingest.erasing import prune
from tests.ingest.test_crashes import check_invariants
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "The night ferry to Norhaven leaves at 22:40 from pier four."
LATER = "The night ferry to Norhaven leaves at 23:15 from pier two."
TICKETS = "A return ticket costs 31 crowns and is valid for ten days."


@pytest.fixture
def edited(workbench: Workbench) -> Workbench:
    """A document that was edited, and one that never was."""
    workbench.retire_after_s = 0
    workbench.write("ferry.txt", FERRY)
    workbench.write("tickets.txt", TICKETS)
    workbench.sync()
    workbench.write("ferry.txt", LATER)
    workbench.sync()
    return workbench


def age(workbench: Workbench, days: int) -> None:
    """As if so many days had passed."""
    with workbench.database.transaction("acme") as transaction:
        for table, column in (("left_version", "left_at"), ("document", "removed_at"), ("generation", "retired_at")):
            transaction.connection.execute(f"UPDATE {table} SET {column} = {column} - interval '{days} days'".encode())


def stored(workbench: Workbench) -> dict[str, int]:
    """How many rows there are of what is deleted."""
    with workbench.database.transaction("acme") as transaction:
        return {
            table: transaction.one(f"SELECT count(*) AS rows FROM {table}".encode()).rows
            for table in ("version", "chunking", "chunk", "embedding")
        }


def rows(count: int) -> dict[str, int]:
    return dict.fromkeys(("version", "chunking", "chunk", "embedding"), count)


def holds(workbench: Workbench, words: str) -> bool:
    """Whether the words are anywhere in the tenant's tables."""
    with workbench.database.transaction("acme") as transaction:
        tables = transaction.connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'minirag'")
        return any(
            transaction.connection.execute(
                f"SELECT 1 FROM {row.tablename} t WHERE t::text LIKE %s LIMIT 1".encode(), [f"%{words}%"]
            ).fetchone()
            for row in tables.fetchall()
        )


def test_an_earlier_version_is_deleted_after_its_days(edited: Workbench) -> None:
    age(edited, 29)
    edited.sync()
    assert stored(edited) == rows(3)
    age(edited, 2)
    edited.sync()
    assert stored(edited) == rows(2)
    assert not holds(edited, "22:40")
    assert edited.search("night ferry").hits[0].text == LATER
    check_invariants(edited)


def test_an_earlier_version_that_came_back_in_time_stays(edited: Workbench) -> None:
    edited.write("ferry.txt", FERRY)
    edited.sync()
    age(edited, 31)
    edited.sync()
    assert edited.search("night ferry").hits[0].text == FERRY
    assert not holds(edited, "23:15")
    # Left once more, it is looked at once more.
    edited.write("ferry.txt", LATER)
    edited.sync()
    age(edited, 31)
    edited.sync()
    assert not holds(edited, "22:40")
    assert stored(edited) == rows(2)


def test_a_version_that_two_documents_left_goes_when_the_later_ones_days_are_over(workbench: Workbench) -> None:
    workbench.write("one.txt", FERRY)
    workbench.write("two.txt", FERRY)
    workbench.sync()
    for days, name in ((20, "one.txt"), (11, "two.txt")):
        workbench.write(name, f"{LATER} {name}")
        workbench.sync()
        age(workbench, days)
    workbench.sync()
    assert holds(workbench, "22:40")
    age(workbench, 20)
    workbench.sync()
    assert not holds(workbench, "22:40")


def test_a_removed_document_leaves_its_uri_alone_and_may_come_back(edited: Workbench) -> None:
    (edited.folder / "tickets.txt").unlink()
    edited.sync()
    age(edited, 31)
    edited.sync()
    assert stored(edited) == rows(1)
    assert not holds(edited, "31 crowns")
    edited.write("tickets.txt", TICKETS)
    done = edited.sync()
    assert (done.documents.parsed, done.embeddings.embedded) == (1, 1)
    assert edited.search("return ticket").hits[0].text == TICKETS
    check_invariants(edited)


def test_a_kept_generation_keeps_what_it_would_answer_with(edited: Workbench) -> None:
    edited.change_tenant(chunk_tokens=64)
    edited.sync()
    edited.write("tickets.txt", "A return ticket costs 40 crowns.")
    edited.sync()
    age(edited, 31)
    edited.sync()
    assert holds(edited, "31 crowns")
    assert not holds(edited, "22:40")
    edited.kept_generations = 0
    edited.sync()
    age(edited, 31)
    edited.sync()
    assert not holds(edited, "31 crowns")
    check_invariants(edited)


def test_what_was_made_for_a_deleted_generation_is_deleted_after_its_days(edited: Workbench) -> None:
    edited.kept_generations = 0
    edited.change_tenant(model="openai/text-embedding-3-large", chunk_tokens=64)
    edited.sync()
    assert stored(edited) == {"version": 3, "chunking": 5, "chunk": 5, "embedding": 5}
    assert [one.number for one in edited.generations()] == [2]
    age(edited, 31)
    edited.sync()
    assert stored(edited) == rows(2)
    edited.change_tenant(chunk_tokens=32)
    edited.sync()
    assert [one.number for one in edited.generations()] == [3]
    check_invariants(edited)


def test_all_that_a_forgotten_document_ever_held_is_deleted_with_it(edited: Workbench) -> None:
    edited.write("copy.txt", LATER)
    edited.sync()
    edited.forget("ferry.txt")
    edited.sync()
    assert not holds(edited, "22:40")
    assert holds(edited, "23:15")  # another document's content too
    edited.forget("copy.txt")
    edited.sync()
    assert not holds(edited, "23:15")
    assert stored(edited) == rows(1)


def test_pruning_takes_what_is_due_however_much_it_is(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirag_pipelines.ingest.erasing._BATCH", 2)
    for round_ in range(2):
        for number in range(7):
            workbench.write(f"{number}.txt", f"Buoy number {number} is painted red in year {round_}.")
        workbench.sync()
    with workbench.writer() as writer:
        assert prune(writer, after_days=30) == 0
        assert prune(writer, after_days=0) == 7
    assert stored(workbench) == rows(7)


def test_nothing_is_kept_for_no_days_and_pruning_ends(workbench: Workbench) -> None:
    """What a kept generation or another document needs stays, and is not looked at for ever."""
    workbench.keep_unused_days = 0
    workbench.write("one.txt", FERRY)
    workbench.write("two.txt", FERRY)
    workbench.sync()
    workbench.change_tenant(chunk_tokens=64)
    workbench.sync()
    workbench.write("one.txt", LATER)
    workbench.sync()
    assert holds(workbench, "22:40")
    workbench.write("two.txt", LATER)
    workbench.kept_generations = 0
    workbench.sync()
    workbench.retire_after_s = 0
    workbench.sync()
    workbench.sync()
    assert not holds(workbench, "22:40")


def test_what_a_document_holds_again_is_not_looked_at_time_and_again(edited: Workbench) -> None:
    edited.write("ferry.txt", FERRY)
    edited.sync()
    age(edited, 31)
    edited.sync()
    with edited.database.transaction("acme") as transaction:
        assert transaction.run(b"SELECT * FROM left_version").fetchall() == []


@pytest.mark.parametrize("how", ["edited", "removed"])
def test_a_forgotten_documents_content_goes_where_another_one_only_had_it(workbench: Workbench, how: str) -> None:
    for name, text in (("one.txt", FERRY), ("two.txt", FERRY), ("other.txt", TICKETS)):
        workbench.write(name, text)
    workbench.sync()
    if how == "edited":
        workbench.write("two.txt", LATER)
    else:
        (workbench.folder / "two.txt").unlink()
    workbench.sync()
    workbench.forget("one.txt")
    workbench.sync()
    assert not holds(workbench, "22:40")
    workbench.write("two.txt", FERRY)
    workbench.sync()
    assert workbench.search("night ferry").hits[0].uri.endswith("two.txt")


def test_a_generations_number_is_never_given_twice(edited: Workbench) -> None:
    edited.build_slice_s = 1e-9
    for number in range(120):
        edited.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    edited.sync()
    edited.change_tenant(model="openai/text-embedding-3-large")
    edited.sync()
    edited.change_tenant(model=edited.model)
    edited.sync()
    age(edited, 31)
    edited.sync()
    edited.change_tenant(model="openai/text-embedding-3-large")
    edited.sync()
    assert [one.number for one in edited.generations()] == [1, 3]


def test_what_was_left_before_there_was_a_record_of_it_is_pruned_too(
    new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _: upgrade(config, "0002"))
        migrate(new_database)
    with psycopg.connect(new_database, autocommit=True) as admin:
        admin.execute("SET search_path TO minirag")
        admin.execute(
            "INSERT INTO tenant (tenant_id, name, embedding_model, chunk_tokens, chunk_overlap)"
            " VALUES ('acme', 'acme', 'm', 128, 0)"
        )
        admin.execute(
            "INSERT INTO source (tenant_id, name, kind, config) VALUES ('acme', 'docs', 'files', '{\"path\": \"/\"}')"
        )
        for number in range(3):
            admin.execute(
                "INSERT INTO version (tenant_id, version_id, content_hash, kind, parser, text, elements, size_bytes,"
                " run_id) VALUES ('acme', md5(%(n)s::text)::uuid, sha256(%(n)s::text::bytea), 'txt', 'p', 't', '[]', 1, 'r')",
                {"n": str(number)},
            )
        for number, removed_at in ((0, None), (1, "now")):
            admin.execute(
                "INSERT INTO document (tenant_id, source_id, uri, uri_key, kind, version_id, removed_at)"
                " SELECT 'acme', source_id, %(n)s::text, sha256(%(n)s::text::bytea), 'txt', md5(%(n)s::text)::uuid,"
                " %(at)s FROM source",
                {"n": str(number), "at": removed_at},
            )
    migrate(new_database)
    with Database(new_database) as database, database.writer("acme", "run") as writer:
        assert prune(writer, after_days=0) == 2
        with writer.reading() as transaction:
            assert transaction.one(b"SELECT count(*) AS rows FROM version").rows == 1
