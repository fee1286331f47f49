"""What serving returns, and how it looks as JSON."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from minirag_pipelines.core.providers.models import Usage


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found: `span` is half-open, in characters of its document version, `rank` counts from 1.

    `also_in` are the URIs of other documents with the same text, at most 10 of `also_in_count`.
    """

    rank: int
    score: float
    text: str
    document_id: uuid.UUID
    version_id: uuid.UUID
    source: str
    uri: str
    also_in: tuple[str, ...]
    also_in_count: int
    title: str | None
    headings: tuple[str, ...]
    page: int | None
    span: tuple[int, int]
    chunk_id: str
    text_hash: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "document_id": str(self.document_id),
            "version_id": str(self.version_id),
            "also_in": list(self.also_in),
            "headings": list(self.headings),
            "span": list(self.span),
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, best first, in which generation, and how long its parts took."""

    tenant_id: str
    generation: int | None
    hits: tuple[Hit, ...]
    latency_ms: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant_id,
            "generation": self.generation,
            "hits": [hit.to_json() for hit in self.hits],
            "latency_ms": dict(self.latency_ms),
        }


@dataclass(frozen=True, slots=True)
class Citation:
    """What an answer's mark [rank] stands for: the hit of this rank, with its chunk and document.

    `quote` is verbatim from the hit; `span` is where it stands.
    """

    rank: int
    chunk_id: str
    document_id: uuid.UUID
    uri: str
    page: int | None
    span: tuple[int, int]
    quote: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"document_id": str(self.document_id), "span": list(self.span)}


@dataclass(frozen=True, slots=True)
class Answer:
    """`supported` says that the model found an answer and named a passage for it. `invented` counts marks, removed
    from the text, that named no passage.
    """

    text: str
    citations: tuple[Citation, ...]
    supported: bool
    model: str
    usage: Usage
    invented: int
    seconds: float
    latency_ms: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "answer": self.text,
            "citations": [citation.to_json() for citation in self.citations],
            "model": self.model,
            "usage": {
                "requests": self.usage.requests,
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "cost_usd": self.usage.cost_usd,
            },
            "supported": self.supported,
            "seconds": round(self.seconds, 3),
            "latency_ms": dict(self.latency_ms),
        }
