"""What a model is to MiniRAG: something that embeds texts, or something that answers from passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Purpose = Literal["document", "query"]
_STORED = np.dtype("<f4")

LOCAL_CHAT_MODEL = "local/extractive"

# What every chat model says when no passage answers the question.
NOTHING_FOUND = "Nothing in this collection answers the question."


def stored_vector(vector: Vectors) -> bytes:
    """A vector as PostgreSQL keeps it: float32, little-endian."""
    return vector.astype(_STORED).tobytes()


def vector_of(stored: bytes) -> Vectors:
    """The vector that `stored_vector` was given."""
    return np.frombuffer(stored, dtype=_STORED)


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls took. `cost_usd` is None where the price is not known, and 0.0 for local models."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    retries: int = 0

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
            self.retries + other.retries,
        )


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors` is (n, dimension) float32, finite, unit length; row i belongs to text i."""

    vectors: Vectors
    usage: Usage


class Tokenizer(Protocol):
    """Counts and cuts as the model does. `name` goes into the chunker's fingerprint."""

    @property
    def name(self) -> str: ...

    def count(self, text: str) -> int:
        """Tokens of the text, special ones left out."""
        ...

    def counts(self, texts: Sequence[str]) -> list[int]:
        """`count` of each text, in one go."""
        ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The half-open character span of each token, in order."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors of one model."""

    @property
    def model(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Model, base address, dimension and prefixes, as 16 hex digits: equal fingerprints, comparable vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Of every vector. A remote model is asked once."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest text that the model reads whole, special tokens left out."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: Sequence[str], purpose: Purpose = "document") -> Embedded:
        """Embed texts in order. No texts give (0, dimension).

        Raises ProviderUnavailable when a rerun may help, ProviderRefused when it can't.
        """
        ...

    def estimate(self, texts: Sequence[str]) -> Usage:
        """What embedding these documents would take: tokens by the model's tokenizer, and their price. Asks nobody."""
        ...


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved text, as a chat model sees it. `rank` counts from 1 and is what a citation [n] names."""

    rank: int
    text: str
    headings: tuple[str, ...] = ()
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """All that an answer is made of. `instructions` is the bot's own prompt."""

    text: str
    passages: tuple[Passage, ...]
    instructions: str = ""
    history: tuple[Turn, ...] = ()
    parameters: dict[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose marks [n] name passages by rank; `supported` is False when nothing answers the question."""

    text: str
    supported: bool
    model: str
    usage: Usage


class ChatModel(Protocol):
    """Answers a question from passages."""

    @property
    def model(self) -> str: ...

    def answer(self, question: Question) -> Reply:
        """Raises ProviderUnavailable when a rerun may help, ProviderRefused when it can't."""
        ...

    def stream(self, question: Question) -> Iterator[str | Reply]:
        """The answer's text piece by piece, then the whole as a Reply."""
        ...
