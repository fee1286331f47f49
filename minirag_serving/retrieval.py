"""Question → ranked passages of one tenant, each of them true in PostgreSQL at the moment of asking.

A search embeds the question, opens a snapshot, reads which generation is live, asks Chroma and looks the hits up in the
same snapshot: what was live then is still in Chroma, because nothing leaves it for a while. A last statement, outside
the snapshot, drops what was removed or forgotten meanwhile.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, MutableMapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from minirag_pipelines.core.corpus import ALSO_IN, Corpus, Place
from minirag_pipelines.core.database import Database, Row, snapshot, transaction
from minirag_pipelines.core.errors import CollectionMismatch, InvalidInput
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Embedder, Vectors
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import Near, VectorStore
from minirag_serving.records import Hit, SearchResult

if TYPE_CHECKING:
    import psycopg

MOST_HITS = 100
LONGEST_QUESTION = 10_000
_MOST_NEAR = 3_200


def search(
    database: Database,
    vectors: VectorStore,
    embedder_of: Callable[[Generation], Embedder],
    tenant_id: str,
    question: str,
    *,
    top_k: int,
    known: MutableMapping[str, Generation] | None = None,
) -> SearchResult:
    """The `top_k` nearest passages, best first; none before the tenant's first sync.

    `known` remembers from one search to the next which generation was live: a guess, which saves asking before the
    question is embedded, and which the snapshot verifies.
    A text that several documents contain is one hit, of the oldest. Raises InvalidInput, DatabaseUnavailable,
    VectorStoreUnavailable, ProviderUnavailable.
    """
    _check(question, top_k)
    clock = _Clock()
    known = {} if known is None else known
    expected = known.get(tenant_id)
    if expected is None:
        with database.transaction(tenant_id) as opened:
            expected = Generations(opened).find_live()
        clock.lap("database_ms")
    while expected is not None:
        embedded = embedder_of(expected).embed([question], "query").vectors[0]
        clock.lap("embedding_ms")
        with database.connection() as connection:
            with snapshot(connection, tenant_id) as opened:
                live = Generations(opened).find_live()
                if live is None or live.model_fingerprint != expected.model_fingerprint:
                    expected = live  # swapped meanwhile: the question is embedded by the new model
                    continue
                places = _places(Corpus(opened), vectors, live, embedded, top_k, clock)
            gone = _gone(connection, tenant_id, places)
        known[tenant_id] = live
        clock.lap("database_ms")
        return SearchResult(tenant_id, live.number, tuple(_hits(places, gone, live, top_k)), clock.laps)
    return SearchResult(tenant_id, None, (), clock.laps)


Group = tuple[Near, list[Place]]


def _places(
    corpus: Corpus, vectors: VectorStore, live: Generation, embedded: Vectors, top_k: int, clock: _Clock
) -> list[Group]:
    """The documents that contain each text near the question, nearest first; more than `top_k` if there are."""
    clock.lap("database_ms")
    limit = 2 * top_k + ALSO_IN
    while True:
        near = _nearest(vectors, live, embedded, limit)
        clock.lap("chroma_ms")
        places = corpus.places(live, [one.text_hash for one in near])
        clock.lap("database_ms")
        groups = [(near[rank], list(group)) for rank, group in groupby(places, key=lambda place: place.rank)]
        if len(groups) > top_k or len(near) < limit or limit >= _MOST_NEAR:
            return groups
        limit = min(4 * limit, _MOST_NEAR)


def _gone(connection: psycopg.Connection[Row], tenant_id: str, groups: Sequence[Group]) -> set[uuid.UUID]:
    """Which documents were removed or forgotten since the snapshot was taken."""
    found = {place.document_id for _, places in groups for place in places}
    if not found:
        return set()
    with transaction(connection, tenant_id) as opened:
        return Corpus(opened).gone(sorted(found))


def _nearest(vectors: VectorStore, live: Generation, embedded: Vectors, limit: int) -> list[Near]:
    try:
        return vectors.collection(live).nearest(embedded, limit)
    except CollectionMismatch:
        # A collection that was made again has another id than the one remembered here.
        vectors.forget_opened(live)
        return vectors.collection(live).nearest(embedded, limit)


def _hits(groups: Sequence[Group], gone: set[uuid.UUID], live: Generation, top_k: int) -> list[Hit]:
    hits: list[Hit] = []
    for near, places in groups:
        present = [place for place in places if place.document_id not in gone]
        if present and len(hits) < top_k:
            hits.append(_hit(len(hits) + 1, near, present, live))
    return hits


def _hit(rank: int, near: Near, places: Sequence[Place], live: Generation) -> Hit:
    first, others = places[0], places[1 : ALSO_IN + 1]
    return Hit(
        rank=rank,
        score=round(near.similarity, 6),
        text=first.text,
        document_id=first.document_id,
        version_id=first.version_id,
        source=first.source,
        uri=first.uri,
        also_in=tuple(place.uri for place in others),
        also_in_count=max(first.documents - 1, 0),
        title=first.title,
        headings=first.headings,
        page=first.page,
        span=(first.start, first.end),
        chunk_id=f"{first.version_id}:{live.chunker_fingerprint}:{first.ordinal}",
        text_hash=near.text_hash.hex(),
    )


def _check(question: str, top_k: int) -> None:
    if not question.strip():
        raise InvalidInput("question", "is empty.")
    if any("\ud800" <= letter <= "\udfff" for letter in question):
        raise InvalidInput("question", "is not Unicode text.")
    if len(question) > LONGEST_QUESTION:
        raise InvalidInput("question", f"has {len(question):,} characters; at most {LONGEST_QUESTION:,} are taken.")
    if not 1 <= top_k <= MOST_HITS:
        raise InvalidInput("top-k", f"{top_k} is not between 1 and {MOST_HITS}.")


class _Clock:
    """Milliseconds by stage: each lap is added to the stage it is named for."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = round(self.laps.get(stage, 0.0) + 1000 * (now - self._since), 3)
        self._since = now
