"""A sync of one change in a large tenant reads few rows: apart from the listing, nothing looks at every document."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import SecretStr

from benchmarks.scale import CHANGES, LISTING, add_subject, statement_names
from benchmarks.stages import usual_pool
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Database, Row, Transaction
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.ingest.connectors import kinds

pytestmark = [pytest.mark.postgres]

DOCUMENTS = 3000
MOST_ROWS = 300
READ = b"SELECT sum(seq_tup_read) + sum(coalesce(idx_tup_fetch, 0)) AS rows FROM pg_stat_xact_user_tables"


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The most rows that each statement has read at once, on tables that nobody has analysed."""
    run, most, names = Transaction.run, Counter[str](), statement_names()

    def counted(transaction: Transaction, statement: bytes, **parameters: object) -> Row:
        before = transaction.connection.execute(READ).fetchone()
        ended = run(transaction, statement, **parameters)
        after = transaction.connection.execute(READ).fetchone()
        assert before is not None
        assert after is not None
        name = names.get(statement, "writer_epoch")
        most[name] = max(most[name], int(after.rows - before.rows))
        return ended

    monkeypatch.setattr(Transaction, "run", counted)
    return most


def test_a_sync_of_one_change_reads_few_rows_besides_the_listing(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_read: Counter[str]
) -> None:
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "synthetic": "benchmarks.synthetic"})
    url = SecretStr(database_url)
    settings = Settings(home=tmp_path, database_url=url, admin_database_url=url)
    with usual_pool(settings) as pool:
        subject = add_subject(settings, database, DOCUMENTS, pool)
        for change in CHANGES:
            rows_read.clear()
            subject.sync(change)
            assert rows_read["differences"] >= DOCUMENTS
            many = {name: rows for name, rows in rows_read.items() if rows > MOST_ROWS and name not in LISTING}
            assert many == {}, change
    with database.transaction(subject.stages.tenant.tenant_id) as transaction:
        overview = Catalog(transaction).overview()
    assert (overview.pending, overview.quarantined) == (DOCUMENTS // 100, DOCUMENTS // 100)
    assert rows_read["overview"] <= MOST_ROWS
