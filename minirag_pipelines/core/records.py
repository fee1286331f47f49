"""The records that pass between the parts, and how their ids are made."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from minirag_pipelines.core.errors import InvalidInput

TENANT_ID = re.compile(r"[a-z][a-z0-9-]{1,62}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def checked_tenant_id(tenant_id: str) -> str:
    """The id itself. Raises InvalidInput; Dagster would take "" and "a...b" as partition keys."""
    if not TENANT_ID.fullmatch(tenant_id):
        raise InvalidInput(
            "tenant", f"{tenant_id!r} is not an id; use 2 to 63 of a-z, 0-9 and -, beginning with a letter."
        )
    return tenant_id


def checked_name(what: str, name: str) -> str:
    """The name itself. Raises InvalidInput."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            what, f"{name!r} is not a name; use 1 to 63 letters, digits, '.', '_' and '-', beginning with no mark."
        )
    return name


@dataclass(frozen=True, slots=True)
class ChunkerSettings:
    """How a tenant's documents are cut. Both in tokens of the embedding model."""

    max_tokens: int
    overlap_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 16:
            raise InvalidInput("chunk-tokens", f"{self.max_tokens} is too few; give at least 16.")
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise InvalidInput(
                "chunk-overlap",
                f"{self.overlap_tokens} is not between 0 and half of chunk-tokens ({self.max_tokens}).",
            )


@dataclass(frozen=True, slots=True)
class Tenant:
    tenant_id: str
    name: str
    embedding_model: str
    chunker: ChunkerSettings
    portable: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Source:
    source_id: uuid.UUID
    tenant_id: str
    name: str
    kind: str
    config: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Bot:
    bot_id: uuid.UUID
    tenant_id: str
    name: str
    model: str
    prompt: str
    top_k: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; the token itself is shown once and never stored."""

    token_id: uuid.UUID
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuthContext:
    """Who asks, for which tenant, and what they may do."""

    tenant_id: str
    user_id: str | None
    token_id: uuid.UUID | None
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Document:
    """One item of a source: its id, which stays, and its URI, which may change."""

    document_id: uuid.UUID
    source_id: uuid.UUID
    uri: str
    removed_at: datetime | None
    forgotten_at: datetime | None


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a source's listing: an address, and what the source says of it without reading it.

    `etag` changes whenever the content may have changed; None when the source gives no such sign.
    """

    uri: str
    size_bytes: int | None
    modified_at: datetime | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a source could not list. `incomplete` says that items may be missing: nothing of it is removed then."""

    uri: str
    reason: str
    incomplete: bool


@dataclass(frozen=True, slots=True)
class Element:
    """One structural piece of a document: the half-open character span [start, end) of its text.

    `kind` is one of `title`, `text`, `list_item`, `table`, `code`. `level` is a title's depth, 0 the outermost.
    `header_end`, for a table, ends the header row(s): [start, header_end) is repeated when the table is split.
    `page` counts from 1.
    """

    kind: str
    start: int
    end: int
    level: int | None = None
    page: int | None = None
    header_end: int | None = None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """What a parser made of bytes. Elements are in order, do not overlap, and cover the text but for white space."""

    title: str | None
    text: str
    elements: tuple[Element, ...]
    pages: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkDraft:
    """A passage: `text` is the parsed text's [start, end), behind the table's header where a split table goes on.

    `headings` is the path of titles above it, outermost first; `tokens` counts `embedded_text(headings, text)`.
    """

    ordinal: int
    start: int
    end: int
    headings: tuple[str, ...]
    page: int | None
    text: str
    tokens: int


def heading_path(headings: Sequence[str]) -> str:
    """The titles above a passage in one line, outermost first."""
    return " > ".join(headings)


def embedded_text(headings: Sequence[str], text: str) -> str:
    """Exactly what is embedded for a chunk, and what its text hash is of: never a URI, never a file name."""
    return heading_path(headings) + "\n\n" + text if headings else text


def content_hash(content: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(content).digest()


def text_hash(text: str) -> bytes:
    """SHA-256 of the UTF-8 bytes, 32 bytes; its hex form is the text's id in Chroma."""
    return hashlib.sha256(text.encode()).digest()


def uri_key(uri: str) -> bytes:
    """SHA-256 of a URI, 32 bytes: URIs may be longer than an index entry can be."""
    return hashlib.sha256(uri.encode()).digest()


def version_id(content: bytes, kind: str, parser: str) -> uuid.UUID:
    """The id of what `parser` makes of content with this hash: equal input, equal id."""
    return uuid.UUID(bytes=hashlib.sha256(b"\0".join([content, kind.encode(), parser.encode()])).digest()[:16])


def uuid_of(words: str) -> uuid.UUID | None:
    """The id that a person has written, with its hyphens or without; None for what is none."""
    try:
        return uuid.UUID(words) if re.fullmatch(r"[0-9a-fA-F-]{32,36}", words) else None
    except ValueError:
        return None


def fingerprint(*parts: object) -> str:
    """A short name for a combination of settings, 16 hex digits: equal parts, equal name."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Generation:
    """One build of a tenant's index: chunker and embedding model → one Chroma collection."""

    tenant_id: str
    number: int
    state: str
    chunker: ChunkerSettings
    chunker_fingerprint: str
    embedding_model: str
    model_fingerprint: str
    dimension: int
    portable: bool
    collection: str
    created_at: datetime
    documents: int = 0
    chunks: int = 0
    texts: int = 0
    data_version: int = 0
    live_at: datetime | None = field(default=None)
