"""A kind of source for benchmarks: as many documents as asked for, that lie nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import BaseModel

from minirag_pipelines.core.records import Item

MODIFIED_AT = datetime(2024, 1, 1, tzinfo=UTC)


class Config(BaseModel):
    """Documents 1 to `documents`, without those `removed`; those `edited` and `renamed`; and `added` further ones."""

    documents: int
    edited: frozenset[int] = frozenset()
    removed: frozenset[int] = frozenset()
    renamed: frozenset[int] = frozenset()
    added: int = 0


def check(config: Config) -> None:
    """Nothing can be wrong with it."""


def connect(config: Config) -> Documents:
    return Documents(config)


class Documents:
    """Each is `content` and its number, as benchmarks/scale.sql has it, or a few paragraphs once it was edited."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def items(self) -> Iterator[Item]:
        given = self._config
        for number in range(1, given.documents + given.added + 1):
            if number not in given.removed:
                name = f"renamed-{number}" if number in given.renamed else str(number)
                etag = "2" if number in given.edited else "1"
                size = len(self._content(number))
                yield Item(f"file:///documents/{number // 100}/{name}.md", size, MODIFIED_AT, etag)

    def read(self, uri: str, *, max_bytes: int) -> bytes:
        return self._content(int(uri.rsplit("/", 1)[1].removeprefix("renamed-").removesuffix(".md")))

    def _content(self, number: int) -> bytes:
        if number not in self._config.edited and number <= self._config.documents:
            return b"content%d" % number
        return b"\n\n".join(
            b"# Part %d\n\n%s" % (part, b"Part %d of document %d says this. " % (part, number) * 25)
            for part in range(10)
        )
