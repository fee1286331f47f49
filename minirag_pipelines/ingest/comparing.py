"""What differs between PostgreSQL and one generation's collection in Chroma: found, and nothing written."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minirag_pipelines.core.database import Database, Row, Transaction, statements
from minirag_pipelines.core.errors import CollectionMismatch
from minirag_pipelines.core.providers.models import Vectors, vector_of
from minirag_pipelines.core.records import Generation, embedded_text, text_hash
from minirag_pipelines.core.vector_store import BATCH, ROUNDING, Collection, VectorStore
from minirag_pipelines.ingest.progress import Progress
from minirag_pipelines.ingest.restoring import foreign_ids

SQL = statements("minirag_pipelines.ingest.sql", "reconciling.sql")
PAGE = 1000
# An approximate search may miss; a vector that is not among so many is not in the search index.
_MOST_NEAR = 1000
FIRST, _LAST = b"", b"\xff" * 32


@dataclass(slots=True)
class Drift:
    """What differs in one generation: counts of texts, but for `counters` (name → what it says, what there is).

    `texts` ought to be in the collection, `compared` were looked at closely. `lost`: there is no such collection;
    `missing` texts are not in it, `foreign` ids are unknown to PostgreSQL; `wrong` vectors and `wrong_passages` are not
    what PostgreSQL has, `unfindable` vectors are found by no search. `unembedded` texts have no stored vector;
    `unsettled` ones are published and not in the collection; `waiting` are those that the next sync will settle.
    """

    generation: int
    state: str
    texts: int = 0
    compared: int = 0
    lost: bool = False
    missing: int = 0
    foreign: int = 0
    wrong: int = 0
    wrong_passages: int = 0
    unfindable: int = 0
    unembedded: int = 0
    unsettled: int = 0
    waiting: int = 0
    counters: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Whether there is anything to mend; what waits for the next sync is not."""
        return self.lost or bool(self.counters) or any(getattr(self, name) for name, _ in _SENTENCES)

    def sentences(self) -> list[str]:
        """What differs, for people; none when nothing does."""
        found = ["Chroma has lost the collection."] if self.lost else []
        found += [
            words.format(f"{getattr(self, name):,}", f"{self.compared:,}")
            for name, words in _SENTENCES
            if getattr(self, name)
        ]
        found += [
            f"The counter of {name} says {says:,} where there are {there:,}."
            for name, (says, there) in self.counters.items()
        ]
        if self.waiting:
            found.append(f"{self.waiting:,} texts wait for the next sync, which asks the model for their vectors.")
        return [f"Generation {self.generation} ({self.state}): {sentence}" for sentence in found]

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "state": self.state,
            "drifted": self.drifted,
            "texts": self.texts,
            "compared": self.compared,
            "lost": self.lost,
            **{name: getattr(self, name) for name, _ in _SENTENCES},
            "waiting": self.waiting,
            "counters": {name: {"says": says, "there": there} for name, (says, there) in self.counters.items()},
        }


_SENTENCES = (
    ("missing", "{0} vectors are missing from Chroma."),
    ("foreign", "{0} ids in Chroma are unknown to PostgreSQL."),
    ("wrong", "{0} of {1} compared vectors are not the stored ones."),
    ("wrong_passages", "{0} of {1} compared texts in Chroma are not what was embedded."),
    ("unfindable", "{0} of {1} compared vectors are not found by a search for themselves."),
    ("unembedded", "{0} texts in the collection have no stored vector."),
    ("unsettled", "{0} texts of published documents are not in the collection."),
)


class Comparison:
    """One look at one generation. Syncs go on meanwhile: what seems to differ is looked at again before it counts."""

    def __init__(self, database: Database, vectors: VectorStore, generation: Generation, sample: int) -> None:
        self._database = database
        self._vectors = vectors
        self._generation = generation
        self._sample = sample
        self._drift = Drift(generation.number, generation.state)

    def run(self) -> Drift:
        self._compare_counters()
        self._compare_published()
        collection = opened_collection(self._vectors, self._generation)
        self._drift.lost = collection is None
        known = self._compare_texts(collection)
        if collection is not None:
            surplus = collection.count() - known
            if surplus > 0:
                self._drift.foreign = sum(len(ids) for ids in foreign_ids(collection, self._known, surplus))
            self._compare_sample(collection)
        return self._drift

    def _compare_counters(self) -> None:
        with self._database.transaction(self._generation.tenant_id) as transaction:
            row = transaction.run(SQL["counters"], generation=self._generation.number).fetchone()
        if row is not None:
            self._drift.texts = row.there
            self._drift.counters = wrong_counters(row)

    def _compare_published(self) -> None:
        for rows in self._pages(SQL["published_page"], "document_id"):
            for waiting in (False, True):
                versions = [row.version_id for row in rows if not row.settled and row.waiting is waiting]
                texts = len(self._unsettled(versions)) if versions else 0
                # A sync brings the live generation up to date, and none of the kept ones.
                if waiting and self._generation.state == "live":
                    self._drift.waiting += texts
                else:
                    self._drift.unsettled += texts

    def _unsettled(self, version_ids: Sequence[uuid.UUID]) -> list[Row]:
        with self._database.transaction(self._generation.tenant_id) as transaction:
            return unsettled_in(transaction, self._generation, version_ids)

    def _compare_texts(self, collection: Collection | None) -> int:
        """How many of the texts that PostgreSQL knows, in whatever state, Chroma holds."""
        known = 0
        progress = Progress("Comparing ids", self._drift.texts)
        for rows in self._pages(SQL["indexed_page"], "text_hash", after=FIRST):
            present = collection.present([row.text_hash for row in rows]) if collection else set()
            known += len(present)
            suspects = [row for row in rows if _suspect(row, present)]
            if suspects:
                self._count_suspects(collection, suspects)
            progress.add(len(rows))
        return known

    def _count_suspects(self, collection: Collection | None, suspects: Sequence[Row]) -> None:
        hashes = [row.text_hash for row in suspects]
        present = collection.present(hashes) if collection else set()
        since = {row.text_hash: row.changed_at for row in suspects}
        for row in self._run(SQL["indexed_now"], text_hashes=hashes):
            if row.state == "there" and row.changed_at == since[row.text_hash]:
                self._drift.missing += row.text_hash not in present
                self._drift.unembedded += not row.embedded

    def _known(self, text_hashes: Sequence[bytes]) -> set[bytes]:
        return {row.text_hash for row in self._run(SQL["indexed_now"], text_hashes=list(text_hashes))}

    def _compare_sample(self, collection: Collection) -> None:
        for hashes in self._sampled():
            stored = {
                row.text_hash: row
                for row in self._run(
                    SQL["stored"],
                    text_hashes=hashes,
                    chunker=self._generation.chunker_fingerprint,
                    portable=self._generation.portable,
                )
            }
            held = collection.vectors(list(stored))
            right = [one for one in held if same_vector(held[one], vector_of(stored[one].vector))]
            # An id without a vector has lost its place in the search index.
            lost = collection.present([one for one in stored if one not in held]) if len(held) < len(stored) else set()
            self._drift.compared += len(held) + len(lost)
            self._drift.wrong += len(held) - len(right)
            self._drift.unfindable += len(lost)
            if self._generation.portable:
                self._drift.wrong_passages += len(wrong_passages(collection, [stored[one] for one in held]))
            # A sync may have deleted it since it was looked up.
            self._drift.unfindable += len(collection.present(unfindable(collection, {one: held[one] for one in right})))

    def _sampled(self) -> Iterator[list[bytes]]:
        """Hashes of at most `sample` texts, from a random place on and then from the beginning."""
        left, place = self._sample, secrets.token_bytes(32)
        for beginning, until in ((place, _LAST), (FIRST, place)):
            after = beginning
            while left > 0:
                rows = self._run(SQL["sample"], after=after, until=until, most=min(BATCH, left))
                if not rows:
                    break
                yield [row.text_hash for row in rows]
                left, after = left - len(rows), rows[-1].text_hash

    def _run(self, statement: bytes, **parameters: object) -> list[Row]:
        generation = self._generation
        with self._database.transaction(generation.tenant_id) as transaction:
            return transaction.run(
                statement, generation=generation.number, model=generation.model_fingerprint, **parameters
            ).fetchall()

    def _pages(self, statement: bytes, key: str, **parameters: Any) -> Iterator[list[Row]]:
        after = parameters.pop("after", uuid.UUID(int=0))
        while rows := self._run(statement, after=after, most=PAGE, **parameters):
            yield rows
            after = getattr(rows[-1], key)


def same_vector(held: Vectors, stored: Vectors) -> bool:
    """Whether two vectors point the same way but for rounding: Chroma may have brought one to unit length."""
    if held.shape != stored.shape or not np.isfinite(held).all():
        return False
    lengths = np.linalg.norm(held), np.linalg.norm(stored)
    return bool(min(lengths) > 0 and np.abs(held / lengths[0] - stored / lengths[1]).max() <= ROUNDING)


def wrong_passages(collection: Collection, stored: Sequence[Row]) -> list[bytes]:
    """The texts whose passage in Chroma is not what was embedded."""
    expected = [row.text_hash for row in stored if row.text is not None]
    held = collection.passages(expected)
    wrong = []
    for one in expected:
        text, headings = held.get(one, (None, None))
        path = (headings,) if headings else ()
        if text is None or headings is None or text_hash(embedded_text(path, text)) != one:
            wrong.append(one)
    return wrong


def unfindable(collection: Collection, vectors: Mapping[bytes, Vectors]) -> list[bytes]:
    """Those whose nearest neighbour is neither themselves nor an equal vector, however long the search."""
    return [one for one in collection.unfound(vectors) if collection.unfound({one: vectors[one]}, _MOST_NEAR)]


def opened_collection(vectors: VectorStore, generation: Generation) -> Collection | None:
    """The generation's collection as it is now; None for one that is lost, or another model's."""
    vectors.forget_opened(generation)
    try:
        collection = vectors.collection(generation)
        collection.count()
    except CollectionMismatch:
        vectors.forget_opened(generation)
        return None
    return collection


def unsettled_in(transaction: Transaction, generation: Generation, version_ids: Sequence[uuid.UUID]) -> list[Row]:
    return transaction.run(
        SQL["unsettled"],
        generation=generation.number,
        chunker=generation.chunker_fingerprint,
        model=generation.model_fingerprint,
        version_ids=list(version_ids),
    ).fetchall()


def _suspect(row: Row, present: set[bytes]) -> bool:
    return row.state == "there" and (row.text_hash not in present or not row.embedded)


def wrong_counters(row: Row) -> dict[str, tuple[int, int]]:
    pairs = {name: (getattr(row, name), getattr(row, f"{name}_counted")) for name in ("documents", "chunks", "texts")}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
