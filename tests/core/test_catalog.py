"""Tenants, sources, bots and tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from minirag_pipelines.core.catalog import Catalog, authenticate, tenant_ids
from minirag_pipelines.core.database import Database
from minirag_pipelines.core.errors import AlreadyExists, InvalidInput, NotAuthenticated, NotFound
from minirag_pipelines.core.records import ChunkerSettings

pytestmark = pytest.mark.postgres


def add(database: Database, tenant_id: str) -> None:
    with database.transaction(tenant_id) as transaction:
        Catalog(transaction).add_tenant(name=None, embedding_model="local/x", chunker=ChunkerSettings(128))


@pytest.mark.parametrize("tenant_id", ["", "a", "A", "1a", "a_b", "a...b", "a b", "a" * 64, "ä-b", "a\n"])
def test_what_is_no_id_is_refused(database: Database, tenant_id: str) -> None:
    with pytest.raises(InvalidInput):
        add(database, tenant_id)


def test_tenants_are_listed_without_any_being_set(database: Database) -> None:
    add(database, "beta")
    add(database, "alpha")
    assert tenant_ids(database) == ["alpha", "beta"]


def test_a_name_is_taken_once_per_tenant(database: Database) -> None:
    add(database, "alpha")
    add(database, "beta")
    with pytest.raises(AlreadyExists):
        add(database, "alpha")
    for tenant_id in ("alpha", "beta"):
        with database.transaction(tenant_id) as transaction:
            Catalog(transaction).add_source("docs", "files", {"path": "/x"})
    with database.transaction("beta") as transaction, pytest.raises(AlreadyExists):
        Catalog(transaction).add_source("docs", "files", {"path": "/y"})


def test_another_tenants_things_are_not_found(database: Database) -> None:
    add(database, "alpha")
    add(database, "beta")
    with database.transaction("alpha") as transaction:
        catalog = Catalog(transaction)
        catalog.add_source("docs", "files", {"path": "/x"})
        catalog.add_bot("helper", model="local/extractive", prompt="", top_k=5)
        _, token = catalog.issue_token("ci")
    with database.transaction("beta") as transaction:
        catalog = Catalog(transaction)
        for look in (
            lambda: catalog.source("docs"),
            lambda: catalog.bot("helper"),
            lambda: catalog.revoke_token(str(token.token_id)),
        ):
            with pytest.raises(NotFound):
                look()
        assert (catalog.sources(), catalog.bots(), catalog.tokens()) == ([], [], [])


def test_a_token_leads_to_its_tenant_until_it_is_revoked_or_expires(database: Database) -> None:
    add(database, "alpha")
    with database.transaction("alpha") as transaction:
        shown, token = Catalog(transaction).issue_token("ci", scopes=("query", "ingest"))
        expired, _ = Catalog(transaction).issue_token("old", expires_at=datetime.now(tz=UTC) - timedelta(seconds=1))
    who = authenticate(database, shown)
    assert (who.tenant_id, who.token_id, who.scopes) == ("alpha", token.token_id, {"query", "ingest"})
    with pytest.raises(NotAuthenticated):
        authenticate(database, expired)
    with database.transaction("alpha") as transaction:
        Catalog(transaction).revoke_token("ci")
    with pytest.raises(NotAuthenticated):
        authenticate(database, shown)


@pytest.mark.parametrize(
    "token", ["", "mr_", "mr_unknown", "Bearer mr_x", "mr_" + "x" * 500, "mr_\ud800", "' OR 1=1 --"]
)
def test_what_is_no_token_is_refused_with_one_wording(database: Database, token: str) -> None:
    with pytest.raises(NotAuthenticated, match=r"^The credential is not valid\.$"):
        authenticate(database, token)


def test_a_token_is_stored_as_a_hash_only(database: Database) -> None:
    add(database, "alpha")
    with database.transaction("alpha") as transaction:
        shown, _ = Catalog(transaction).issue_token("ci")
        rows = transaction.connection.execute("SELECT token::text AS row FROM token").fetchall()
    assert all(shown not in row.row and shown.encode().hex() not in row.row for row in rows)
