"""Drift between PostgreSQL and Chroma, found in full and mended from stored vectors: no model is ever asked.

What is there twice is compared: the ids of both stores, a generation's counters and what they count; and of a sample
the vectors, the texts that a portable generation writes, and whether a search for a vector finds it. Memory is a page.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minirag_pipelines.core.database import Database, Row, Transaction, Writer, statements
from minirag_pipelines.core.errors import CollectionMismatch
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Vectors, stored_vector, vector_of
from minirag_pipelines.core.records import Generation, embedded_text, heading_path, text_hash
from minirag_pipelines.core.vector_store import BATCH, Collection, VectorStore
from minirag_pipelines.ingest.embedding import SQL as EMBEDDING
from minirag_pipelines.ingest.embedding import index
from minirag_pipelines.ingest.progress import Progress
from minirag_pipelines.ingest.publishing import SQL as PUBLISHING
from minirag_pipelines.ingest.restoring import foreign_ids

SQL = statements("minirag_pipelines.ingest.sql", "reconciling.sql")
# How many vectors of each generation are compared where not all are.
SAMPLE = 1000
_PAGE = 1000
# Searches of others wait for a request of many questions.
_QUESTIONS = 50
# Unit vectors that went through Chroma differ by the rounding of 32-bit floats.
_ROUNDING = 1e-5
# An approximate search may miss; a vector that is not among so many is not in the search index.
_MOST_NEAR = 1000
_FIRST, _LAST = b"", b"\xff" * 32


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


@dataclass(slots=True)
class Mended:
    """What a repair did: vectors `written` and ids `deleted` in Chroma; vectors `recovered` from it.

    `marked` texts have no stored vector: their documents wait for the next sync. `counters` were set.
    """

    written: int = 0
    deleted: int = 0
    recovered: int = 0
    marked: int = 0
    counters: int = 0


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was found; after a repair also what it did, and what another look found then."""

    tenant_id: str
    found: tuple[Drift, ...]
    mended: Mended | None = None
    left: tuple[Drift, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether there is drift now."""
        return any(one.drifted for one in (self.found if self.mended is None else self.left))


def reconcile(
    database: Database,
    vectors: VectorStore,
    tenant_id: str,
    *,
    repair: bool = False,
    sample: int = SAMPLE,
    run_id: str | None = None,
    wait_s: float = 30.0,
) -> Reconciliation:
    """Compare every live, building and kept generation of a tenant with Chroma, and mend what differs if asked to.

    Without `repair` nothing is written and no sync is held up. A repair is the tenant's writer meanwhile: it raises
    SyncInProgress when another one does not end within `wait_s`. Raises VectorStoreUnavailable, DatabaseUnavailable.
    """
    if not repair:
        return Reconciliation(tenant_id, tuple(_compare_all(database, vectors, tenant_id, sample)))
    with database.writer(tenant_id, run_id, wait_s=wait_s) as writer:
        found = tuple(_compare_all(database, vectors, tenant_id, sample))
        mended = Mended()
        if not any(drift.drifted for drift in found):
            return Reconciliation(tenant_id, found, mended, found)
        for generation, drift in zip(_generations(database, tenant_id), found, strict=True):
            if drift.drifted:
                _Repair(writer, vectors, generation, drift, mended).run()
        return Reconciliation(tenant_id, found, mended, tuple(_compare_all(database, vectors, tenant_id, sample)))


def _generations(database: Database, tenant_id: str) -> list[Generation]:
    with database.transaction(tenant_id) as transaction:
        return [one for one in Generations(transaction).all() if one.state != "retired"]


def _compare_all(database: Database, vectors: VectorStore, tenant_id: str, sample: int) -> Iterator[Drift]:
    for generation in _generations(database, tenant_id):
        yield _Comparison(database, vectors, generation, sample).run()


def _opened(vectors: VectorStore, generation: Generation) -> Collection | None:
    """The generation's collection as it is now; None for one that is lost, or another model's."""
    vectors.forget_opened(generation)
    try:
        collection = vectors.collection(generation)
        collection.count()
    except CollectionMismatch:
        vectors.forget_opened(generation)
        return None
    return collection


class _Comparison:
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
        collection = _opened(self._vectors, self._generation)
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
            self._drift.counters = _wrong_counters(row)

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
            return _unsettled_in(transaction, self._generation, version_ids)

    def _compare_texts(self, collection: Collection | None) -> int:
        """How many of the texts that PostgreSQL knows, in whatever state, Chroma holds."""
        known = 0
        progress = Progress("Comparing ids", self._drift.texts)
        for rows in self._pages(SQL["indexed_page"], "text_hash", after=_FIRST):
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
            for start in range(0, len(right), _QUESTIONS):
                questions = {one: held[one] for one in right[start : start + _QUESTIONS]}
                self._drift.unfindable += len(unfindable(collection, questions))

    def _sampled(self) -> Iterator[list[bytes]]:
        """Hashes of at most `sample` texts, from a random place on and then from the beginning."""
        left, place = self._sample, secrets.token_bytes(32)
        for beginning, until in ((place, _LAST), (_FIRST, place)):
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
        while rows := self._run(statement, after=after, most=_PAGE, **parameters):
            yield rows
            after = getattr(rows[-1], key)


def same_vector(held: Vectors, stored: Vectors) -> bool:
    """Whether two vectors point the same way but for rounding: Chroma may have brought one to unit length."""
    if held.shape != stored.shape or not np.isfinite(held).all():
        return False
    lengths = np.linalg.norm(held), np.linalg.norm(stored)
    return bool(min(lengths) > 0 and np.abs(held / lengths[0] - stored / lengths[1]).max() <= _ROUNDING)


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
    missed = _missed(collection, vectors, 1)
    missed = [one for one in missed if _missed(collection, {one: vectors[one]}, _MOST_NEAR)]
    # A sync may have deleted it since it was looked up.
    still = collection.present(missed)
    return [one for one in missed if one in still]


def _missed(collection: Collection, vectors: Mapping[bytes, Vectors], limit: int) -> list[bytes]:
    found = collection.nearest_of_each(list(vectors.values()), limit) if vectors else []
    return [
        one
        for one, near in zip(vectors, found, strict=True)
        if not any(hit.text_hash == one or hit.similarity >= 1 - _ROUNDING for hit in near)
    ]


class _Repair:
    """One generation, mended from stored vectors by the tenant's writer, a committed batch after another."""

    def __init__(
        self, writer: Writer, vectors: VectorStore, generation: Generation, drift: Drift, mended: Mended
    ) -> None:
        self._writer = writer
        self._vectors = vectors
        self._generation = generation
        self._drift = drift
        self._mended = mended
        # What is wrong in the sample may be wrong anywhere.
        self._every = drift.lost or drift.unfindable > 0
        self._closely = drift.wrong > 0 or drift.wrong_passages > 0

    def run(self) -> None:
        collection = None if self._drift.lost else _opened(self._vectors, self._generation)
        if collection is None:
            self._every = True
            self._writer.check()
            self._vectors.drop(self._generation)  # one of another model under this name
            collection = self._vectors.create(self._generation)
        self._mend_texts(collection)
        self._mend_published(collection)
        if self._drift.foreign:
            self._delete_foreign(collection)
        self._set_counters()

    def _mend_texts(self, collection: Collection) -> None:
        """Whatever PostgreSQL says is there is written where it is not, or not so."""
        progress = Progress("Mending vectors", self._drift.texts)
        for rows in self._writer.pages(SQL["indexed_page"], "text_hash", after=_FIRST, most=_PAGE, **self._keys()):
            present = collection.present([row.text_hash for row in rows])
            there = [row for row in rows if row.state == "there"]
            embedded = [row.text_hash for row in there if row.embedded]
            for start in range(0, len(embedded), BATCH):
                self._write(collection, embedded[start : start + BATCH], present)
            unembedded = [row.text_hash for row in there if not row.embedded]
            if unembedded and self._generation.state == "kept":
                # No sync embeds for a kept generation: what Chroma still holds of it is all there is.
                self._recover(collection, unembedded)
            elif unembedded:
                self._mark(unembedded)
            progress.add(len(rows))

    def _write(self, collection: Collection, hashes: Sequence[bytes], present: set[bytes]) -> None:
        wanted = [one for one in hashes if self._every or self._closely or one not in present]
        if not wanted:
            return
        stored = {row.text_hash: row for row in self._stored(wanted)}
        wrong = set(stored)
        if self._closely and not self._every:
            held = collection.vectors([one for one in stored if one in present])
            wrong -= {one for one, vector in held.items() if same_vector(vector, vector_of(stored[one].vector))}
            if self._generation.portable:
                wrong |= set(wrong_passages(collection, list(stored.values())))
        if wrong:
            # The rows say `there` already, so that no id is ever in Chroma without one.
            self._writer.check()
            collection.upsert(
                {one: vector_of(stored[one].vector) for one in wrong},
                {one: _passage(stored[one]) for one in wrong} if self._generation.portable else None,
            )
            self._mended.written += len(wrong)

    def _recover(self, collection: Collection, hashes: Sequence[bytes]) -> None:
        """Store the vectors that Chroma holds of these texts."""
        held = {
            one: vector
            for one, vector in collection.vectors(hashes).items()
            if vector.shape == (self._generation.dimension,) and np.isfinite(vector).all() and vector.any()
        }
        with self._writer.writing() as transaction:
            transaction.run(
                EMBEDDING["record_vectors"],
                model=self._generation.model_fingerprint,
                text_hashes=list(held),
                vectors=[stored_vector(vector) for vector in held.values()],
                run_id=None,
            )
        self._mended.recovered += len(held)

    def _mend_published(self, collection: Collection) -> None:
        """Texts of published documents that are not in the collection: written where a vector is stored."""
        for rows in self._writer.pages(SQL["published_page"], "document_id", most=_PAGE, **self._keys()):
            for waiting in (False, True):
                versions = [row.version_id for row in rows if not row.settled and row.waiting is waiting]
                if versions:
                    self._settle(collection, versions, waiting=waiting)

    def _settle(self, collection: Collection, versions: Sequence[uuid.UUID], *, waiting: bool) -> None:
        with self._writer.reading() as transaction:
            hashes = [row.text_hash for row in _unsettled_in(transaction, self._generation, versions)]
        for start in range(0, len(hashes), BATCH):
            batch = hashes[start : start + BATCH]
            stored = {row.text_hash: row for row in self._stored(batch)}
            if stored:
                index(
                    self._writer,
                    self._generation,
                    collection,
                    {one: vector_of(row.vector) for one, row in stored.items()},
                    {one: _passage(row) for one, row in stored.items()} if self._generation.portable else None,
                )
                self._mended.written += len(stored)
            # What a sync is due to do, it does; nothing is embedded for a kept generation.
            unembedded = [one for one in batch if one not in stored]
            if unembedded and not waiting and self._generation.state != "kept":
                self._mark(unembedded)

    def _mark(self, hashes: Sequence[bytes]) -> None:
        """Have texts without a stored vector embedded by the next sync; those that nothing needs leave."""
        with self._writer.writing() as transaction:
            holders = transaction.run(
                SQL["holders"],
                generation=self._generation.number,
                chunker=self._generation.chunker_fingerprint,
                text_hashes=list(hashes),
            ).fetchall()
            wanted = {row.text_hash for row in holders}
            document_ids = sorted({row.document_id for row in holders})
            doubted = self._doubt(transaction, sorted(wanted), "sending")
            self._doubt(transaction, [one for one in hashes if one not in wanted], "leaving")
            unpublished: list[Row] = []
            if self._generation.state == "live":
                transaction.run(SQL["make_pending"], document_ids=document_ids)
            elif self._generation.state == "building":
                unpublished = transaction.run(
                    SQL["unpublish"], generation=self._generation.number, document_ids=document_ids
                ).fetchall()
            transaction.run(
                PUBLISHING["count_in"],
                generation=self._generation.number,
                documents=-len(unpublished),
                chunks=-sum(row.chunks for row in unpublished),
                texts=-doubted,
            )
        self._mended.marked += len(wanted)

    def _doubt(self, transaction: Transaction, hashes: Sequence[bytes], state: str) -> int:
        return len(
            transaction.run(
                SQL["doubt"], generation=self._generation.number, text_hashes=list(hashes), state=state
            ).fetchall()
        )

    def _delete_foreign(self, collection: Collection) -> None:
        def known(text_hashes: Sequence[bytes]) -> set[bytes]:
            with self._writer.reading() as transaction:
                rows = transaction.run(SQL["indexed_now"], text_hashes=list(text_hashes), **self._keys())
                return {row.text_hash for row in rows}

        for ids in foreign_ids(collection, known, self._drift.foreign):
            collection.delete_ids(ids, check=self._writer.check)
            self._mended.deleted += len(ids)

    def _set_counters(self) -> None:
        """Counted under the generation's row lock: whoever changes what is counted changes the counters too."""
        with self._writer.writing() as transaction:
            transaction.run(SQL["lock_generation"], generation=self._generation.number)
            row = transaction.one(SQL["counters"], generation=self._generation.number)
            wrong = _wrong_counters(row)
            if wrong:
                transaction.run(
                    SQL["set_counters"],
                    generation=self._generation.number,
                    documents=row.documents_counted,
                    chunks=row.chunks_counted,
                    texts=row.texts_counted,
                )
            self._mended.counters += len(wrong)

    def _stored(self, hashes: Sequence[bytes]) -> list[Row]:
        with self._writer.reading() as transaction:
            return transaction.run(
                SQL["stored"],
                model=self._generation.model_fingerprint,
                chunker=self._generation.chunker_fingerprint,
                portable=self._generation.portable,
                text_hashes=list(hashes),
            ).fetchall()

    def _keys(self) -> dict[str, object]:
        return {"generation": self._generation.number, "model": self._generation.model_fingerprint}


def _unsettled_in(transaction: Transaction, generation: Generation, version_ids: Sequence[uuid.UUID]) -> list[Row]:
    return transaction.run(
        SQL["unsettled"],
        generation=generation.number,
        chunker=generation.chunker_fingerprint,
        model=generation.model_fingerprint,
        version_ids=list(version_ids),
    ).fetchall()


def _suspect(row: Row, present: set[bytes]) -> bool:
    return row.state == "there" and (row.text_hash not in present or not row.embedded)


def _passage(row: Row) -> tuple[str, str]:
    return row.text or "", heading_path(row.headings or ())


def _wrong_counters(row: Row) -> dict[str, tuple[int, int]]:
    pairs = {name: (getattr(row, name), getattr(row, f"{name}_counted")) for name in ("documents", "chunks", "texts")}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
