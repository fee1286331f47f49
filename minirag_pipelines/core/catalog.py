"""The catalog: tenants, and each tenant's sources, bots and tokens."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from minirag_pipelines.core.database import Database, Row, Transaction, statements
from minirag_pipelines.core.errors import AlreadyExists, NotAuthenticated, NotFound
from minirag_pipelines.core.records import (
    AuthContext,
    Bot,
    ChunkerSettings,
    Source,
    Tenant,
    Token,
    checked_name,
    checked_tenant_id,
    text_hash,
)

SQL = statements("minirag_pipelines.core.sql", "catalog.sql")
TOKEN_PREFIX = "mr_"  # noqa: S105 - what every token begins with, so that scanners recognise a leaked one
SCOPES = ("query", "ingest", "admin")


def tenant_ids(database: Database) -> list[str]:
    """Every tenant's id, in order: asked before a tenant is known."""
    with database.connection() as connection:
        return [row.tenant_id for row in connection.execute(SQL["tenant_ids"])]


def authenticate(database: Database, token: str) -> AuthContext:
    """Whose token this is. Raises NotAuthenticated, with one wording for every reason."""
    if not token.startswith(TOKEN_PREFIX) or len(token) > 200:
        raise NotAuthenticated
    try:
        token_hash = text_hash(token)
    except UnicodeEncodeError:
        raise NotAuthenticated from None
    with database.connection() as connection:
        found = connection.execute(SQL["token_owner"], {"token_hash": token_hash}).fetchall()
    if len(found) != 1:
        raise NotAuthenticated
    return AuthContext(found[0].tenant_id, None, found[0].token_id, frozenset(found[0].scopes))


@dataclass(frozen=True, slots=True)
class Catalog:
    """One tenant's part of the catalog, in the caller's transaction."""

    transaction: Transaction

    def tenant(self) -> Tenant:
        """Raises NotFound."""
        row = self.transaction.run(SQL["tenant"]).fetchone()
        if row is None:
            raise NotFound("tenant", self.transaction.tenant_id)
        return _tenant(row)

    def add_tenant(
        self, *, name: str | None, embedding_model: str, chunker: ChunkerSettings, portable: bool = False
    ) -> Tenant:
        """Raises AlreadyExists, and InvalidInput for an id that is none."""
        tenant_id = checked_tenant_id(self.transaction.tenant_id)
        row = self.transaction.run(
            SQL["add_tenant"],
            name=name or tenant_id,
            embedding_model=embedding_model,
            chunk_tokens=chunker.max_tokens,
            chunk_overlap=chunker.overlap_tokens,
            portable=portable,
        ).fetchone()
        if row is None:
            raise AlreadyExists("tenant", tenant_id)
        return _tenant(row)

    def change_tenant(
        self,
        *,
        name: str | None = None,
        embedding_model: str | None = None,
        chunker: ChunkerSettings | None = None,
        portable: bool | None = None,
    ) -> Tenant:
        """What is None stays as it is. Raises NotFound."""
        row = self.transaction.run(
            SQL["change_tenant"],
            name=name,
            embedding_model=embedding_model,
            chunk_tokens=chunker.max_tokens if chunker else None,
            chunk_overlap=chunker.overlap_tokens if chunker else None,
            portable=portable,
        ).fetchone()
        if row is None:
            raise NotFound("tenant", self.transaction.tenant_id)
        return _tenant(row)

    def overview(self) -> Row:
        """Counts for a status line. Raises NotFound."""
        row = self.transaction.run(SQL["overview"]).fetchone()
        if row is None:
            raise NotFound("tenant", self.transaction.tenant_id)
        return row

    def sources(self) -> list[Source]:
        return [_source(row) for row in self.transaction.run(SQL["sources"])]

    def source(self, name: str) -> Source:
        """Raises NotFound."""
        row = self.transaction.run(SQL["source"], name=name).fetchone()
        if row is None:
            raise NotFound("source", name)
        return _source(row)

    def add_source(self, name: str, kind: str, config: Mapping[str, Any]) -> Source:
        """Raises AlreadyExists, and InvalidInput for a name that is none."""
        checked_name("name", name)
        row = self.transaction.run(SQL["add_source"], name=name, kind=kind, config=Jsonb(dict(config))).fetchone()
        if row is None:
            raise AlreadyExists("source", name)
        return _source(row)

    def bots(self) -> list[Bot]:
        return [_bot(row) for row in self.transaction.run(SQL["bots"])]

    def bot(self, name: str) -> Bot:
        """Raises NotFound."""
        row = self.transaction.run(SQL["bot"], name=name).fetchone()
        if row is None:
            raise NotFound("bot", name)
        return _bot(row)

    def add_bot(self, name: str, *, model: str, prompt: str, top_k: int) -> Bot:
        """Raises AlreadyExists, and InvalidInput for a name that is none."""
        checked_name("name", name)
        row = self.transaction.run(SQL["add_bot"], name=name, model=model, prompt=prompt, top_k=top_k).fetchone()
        if row is None:
            raise AlreadyExists("bot", name)
        return _bot(row)

    def tokens(self) -> list[Token]:
        """Revoked ones too, oldest first."""
        return [_token(row) for row in self.transaction.run(SQL["tokens"])]

    def issue_token(
        self, name: str, *, scopes: tuple[str, ...] = ("query",), expires_at: datetime | None = None
    ) -> tuple[str, Token]:
        """The token, which is nowhere stored and never shown again, and what is known of it."""
        checked_name("name", name)
        shown = TOKEN_PREFIX + secrets.token_urlsafe(32)
        row = self.transaction.run(
            SQL["add_token"], name=name, token_hash=text_hash(shown), scopes=list(scopes), expires_at=expires_at
        ).fetchone()
        return shown, _token(row)

    def revoke_token(self, token: str) -> Token:
        """By id or name. Raises NotFound, also for a name that several tokens have."""
        row = self.transaction.run(SQL["revoke_token"], token=token).fetchone()
        if row is None:
            raise NotFound("token", token)
        return _token(row)


def _tenant(row: Row) -> Tenant:
    chunker = ChunkerSettings(row.chunk_tokens, row.chunk_overlap)
    return Tenant(row.tenant_id, row.name, row.embedding_model, chunker, row.portable, row.created_at)


def _source(row: Row) -> Source:
    return Source(row.source_id, row.tenant_id, row.name, row.kind, row.config, row.created_at)


def _bot(row: Row) -> Bot:
    return Bot(row.bot_id, row.tenant_id, row.name, row.model, row.prompt, row.top_k, row.created_at)


def _token(row: Row) -> Token:
    return Token(
        row.token_id,
        row.tenant_id,
        row.name,
        tuple(row.scopes),
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.last_used_at,
    )
