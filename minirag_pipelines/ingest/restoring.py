"""What a collection should hold and does not, filled in from PostgreSQL: no model is asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from minirag_pipelines.core.database import Writer, statements
from minirag_pipelines.core.errors import CollectionMismatch
from minirag_pipelines.core.providers.models import vector_of
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import BATCH, Collection, VectorStore, text_hash_of
from minirag_pipelines.ingest.embedding import index, passages_of

SQL = statements("minirag_pipelines.ingest.sql", "restoring.sql")
# Paging through ids costs the server their number each time, so these pages are long: 64 characters an id.
_ID_PAGE = 20_000
_log = logging.getLogger(__name__)


def restore_lost(writer: Writer, vectors: VectorStore, generation: Generation) -> int:
    """Write what Chroma has lost, when it does not hold as many vectors as PostgreSQL says; how many were written.

    Comparing the counts takes milliseconds, so every sync does it. What is on its way in or out may be there or not:
    where that matters, Chroma is asked. Vectors that PostgreSQL does not know are deleted: each could hide a lost one.
    """
    with writer.reading() as transaction:
        expected = transaction.one(SQL["expected"], generation=generation.number)
    try:
        found = vectors.count(generation)
    except CollectionMismatch:
        vectors.forget_opened(generation)
        found = 0
    if found == expected.there + expected.leaving and not expected.sending:
        return 0
    collection = vectors.create(generation)
    surplus = found - expected.there
    for rows in writer.pages(SQL["in_doubt"], "text_hash", after=b"", generation=generation.number, most=BATCH):
        surplus -= len(collection.present([row.text_hash for row in rows]))
    if surplus > 0:
        _log.warning("Chroma holds %s vectors that PostgreSQL does not know; they are deleted.", f"{surplus:,}")
        delete_foreign(writer, collection, generation, surplus)
    if surplus < 0:
        _log.warning("Chroma has lost %s of %s vectors; they are written anew.", f"{-surplus:,}", f"{expected.there:,}")
        return _write_absent(writer, collection, generation)
    return 0


def bring_in_offered(writer: Writer, vectors: VectorStore, generation: Generation) -> None:
    """Send a generation behind the live one the texts that its model had refused, and takes by now.

    `sync --force` and `documents retry` have them offered to the live one again, and note here that they wait. What is
    still refused waits no more.
    """
    for rows in writer.pages(
        SQL["waiting_texts"],
        "text_hash",
        after=b"",
        generation=generation.number,
        model=generation.model_fingerprint,
        chunker=generation.chunker_fingerprint,
        most=BATCH,
    ):
        taken = [row for row in rows if row.needed and row.vector is not None]
        if taken:
            index(
                writer,
                generation,
                vectors.create(generation),
                {row.text_hash: vector_of(row.vector) for row in taken},
                passages_of(generation, taken),
            )
        never_made = [row.text_hash for row in rows if row.vector is None]
        if never_made:
            with writer.writing() as transaction:
                transaction.run(SQL["wait_no_more"], generation=generation.number, text_hashes=never_made)


def _write_absent(writer: Writer, collection: Collection, generation: Generation) -> int:
    written = 0
    for rows in writer.pages(
        SQL["present_vectors"],
        "text_hash",
        after=b"",
        generation=generation.number,
        model=generation.model_fingerprint,
        chunker=generation.chunker_fingerprint,
        most=BATCH,
    ):
        present = collection.present([row.text_hash for row in rows])
        absent = [row for row in rows if row.text_hash not in present]
        if absent:
            collection.upsert(
                {row.text_hash: vector_of(row.vector) for row in absent},
                passages_of(generation, absent),
                check=writer.check_if_late,
            )
        written += len(absent)
    return written


def delete_foreign(writer: Writer, collection: Collection, generation: Generation, surplus: int) -> int:
    """Delete what PostgreSQL does not know from the collection, `surplus` ids as far as was counted; how many."""

    def known(text_hashes: Sequence[bytes]) -> set[bytes]:
        with writer.reading() as transaction:
            rows = transaction.run(SQL["known_texts"], generation=generation.number, text_hashes=list(text_hashes))
            return {row.text_hash for row in rows}

    deleted = 0
    for ids in foreign_ids(collection, known, surplus):
        collection.delete_ids(ids, check=writer.check)
        deleted += len(ids)
    return deleted


def foreign_ids(
    collection: Collection, known: Callable[[Sequence[bytes]], set[bytes]], surplus: int
) -> Iterator[list[str]]:
    """Ids in the collection that `known(text_hashes)` does not name, `surplus` in all as far as was counted.

    From the last ones backwards, so that deleting those found moves none that are still to come; they are likely
    among the last. Each is seen in Chroma before it is looked up, and once more after.
    """
    total = collection.count()
    for page in count(1):
        offset = max(total - page * _ID_PAGE, 0)
        ids = collection.ids(offset=offset, limit=min(_ID_PAGE, total - (page - 1) * _ID_PAGE))
        hashes = {text_id: text_hash_of(text_id) for text_id in ids}
        named = known([one for one in hashes.values() if one])
        unknown = [text_id for text_id, one in hashes.items() if one is None or one not in named]
        # A sync may have deleted it since, first here and then there, or have announced and then written it.
        ours = [one for text_id in unknown if (one := hashes[text_id])]
        still = collection.present(ours) - known(ours) if ours else set()
        foreign = [text_id for text_id in unknown if (one := hashes[text_id]) is None or one in still]
        if foreign:
            yield foreign
        surplus -= len(foreign)
        if surplus <= 0 or offset == 0:
            return
