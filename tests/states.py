"""What syncs leave in both stores, in a form that is equal for equal tenants, and what must hold after any whole sync."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.database import Row, Transaction
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import vector_of
from minirag_pipelines.core.records import Generation
from tests.workbench import Workbench


@dataclass
class State:
    """All that a tenant's syncs have left, without ids that are given at random and without times."""

    documents: list[tuple[Any, ...]]
    generations: list[tuple[Any, ...]]
    published: set[tuple[Any, ...]]
    chunks: set[tuple[Any, ...]]
    indexed: dict[str, str]
    failures: list[tuple[Any, ...]]
    tokens: list[tuple[Any, ...]]
    vectors: dict[str, bytes] = field(repr=False)


class Chroma:
    """The vectors of a collection, asked for without MiniRAG's own code."""

    def __init__(self, url: str) -> None:
        import chromadb

        host, port = url.removeprefix("http://").split(":")
        self._client = chromadb.HttpClient(host, int(port))

    def vectors(self, collection: str) -> dict[str, bytes]:
        found = self._client.get_collection(collection, embedding_function=None).get(include=["embeddings"])
        embeddings = found["embeddings"]
        assert embeddings is not None
        return {
            text_id: np.asarray(vector, np.float32).tobytes()
            for text_id, vector in zip(found["ids"], embeddings, strict=True)
        }

    def collections(self) -> set[str]:
        return {collection.name for collection in self._client.list_collections()}


def state_of(workbench: Workbench, chroma: Chroma, tenant_id: str, folder: str) -> State:
    """Raises AssertionError when an invariant does not hold: a whole sync must just have ended, retiring at once."""
    with workbench.database.transaction(tenant_id) as transaction:
        live = Generations(transaction).find_live()
        generations = Generations(transaction).all()
        assert live is not None
        for generation in generations:
            if generation.state != "retired":
                check_generation(transaction, chroma, generation, settled=generation.state == "live")
        published = rows(
            transaction,
            "SELECT d.uri, p.version_id, p.chunks FROM published p JOIN document d USING (tenant_id, document_id)"
            " WHERE p.generation = %(live)s",
            live=live.number,
        )
        chunks = rows(
            transaction,
            "SELECT c.version_id, c.ordinal, c.start_char, c.end_char, c.text, c.text_hash FROM chunk c"
            " WHERE c.chunker = %(chunker)s AND EXISTS (SELECT 1 FROM published p WHERE p.version_id = c.version_id"
            " AND p.generation = %(live)s AND p.tenant_id = c.tenant_id)",
            live=live.number,
            chunker=live.chunker_fingerprint,
        )
        return State(
            documents=sorted(
                (row.uri.replace(folder, ""), row.state, row.reason, row.content_hash, row.chunks)
                for row in Corpus(transaction).documents(None)
            ),
            generations=[
                (one.number, one.state, one.chunker_fingerprint)
                + ((one.documents, one.chunks, one.texts) if one.state == "live" else ())
                for one in generations
            ],
            published={(row.uri.replace(folder, ""), row.version_id, row.chunks) for row in published},
            chunks={tuple(row) for row in chunks},
            indexed=indexed(transaction, live),
            failures=sorted(
                (row.stage, row.code, row.permanent, row.rows)
                for row in rows(
                    transaction,
                    "SELECT stage, code, permanent, count(*) AS rows FROM failure GROUP BY stage, code, permanent",
                )
            ),
            tokens=[
                tuple(row)
                for row in rows(transaction, "SELECT stage, model, prompt_tokens FROM usage ORDER BY day, stage, model")
            ],
            vectors=chroma.vectors(live.collection),
        )


def check_generation(transaction: Transaction, chroma: Chroma, generation: Generation, *, settled: bool) -> None:
    """The invariants of one generation, in both stores; a settled one has nothing under way."""
    states = indexed(transaction, generation)
    in_chroma = chroma.vectors(generation.collection)
    there = {text_id for text_id, state in states.items() if state == "there"}
    assert there <= in_chroma.keys() <= states.keys(), (generation.number, states, sorted(in_chroma))
    known = {
        row.text_hash.hex(): vector_of(row.vector)
        for row in rows(
            transaction,
            "SELECT text_hash, vector FROM embedding WHERE model = %(model)s",
            model=generation.model_fingerprint,
        )
    }
    for text_id, vector in in_chroma.items():
        np.testing.assert_allclose(np.frombuffer(vector, np.float32), known[text_id], atol=1e-6)
    unsettled = rows(
        transaction,
        "SELECT DISTINCT c.text_hash FROM published p JOIN chunk c USING (tenant_id, version_id)"
        " WHERE p.generation = %(number)s AND c.chunker = %(chunker)s"
        " AND NOT EXISTS (SELECT 1 FROM indexed i WHERE i.generation = %(number)s AND i.text_hash = c.text_hash"
        " AND i.state = 'there')"
        " AND NOT EXISTS (SELECT 1 FROM failure f WHERE f.stage = 'embed' AND f.maker = %(model)s"
        " AND f.key = encode(c.text_hash, 'hex'))",
        number=generation.number,
        chunker=generation.chunker_fingerprint,
        model=generation.model_fingerprint,
    )
    assert unsettled == []
    counted = transaction.one(
        b"SELECT count(*) AS documents, coalesce(sum(p.chunks), 0)::bigint AS chunks,"
        b" (SELECT count(*) FROM indexed i WHERE i.generation = %(number)s AND i.state <> 'sending') AS texts"
        b" FROM published p WHERE p.generation = %(number)s",
        number=generation.number,
    )
    assert (generation.documents, generation.chunks, generation.texts) == tuple(counted)
    if settled:
        assert in_chroma.keys() == states.keys() == there, states


def indexed(transaction: Transaction, generation: Generation) -> dict[str, str]:
    found = rows(
        transaction, "SELECT text_hash, state FROM indexed WHERE generation = %(number)s", number=generation.number
    )
    return {row.text_hash.hex(): row.state for row in found}


def rows(transaction: Transaction, query: str, **parameters: object) -> list[Row]:
    return transaction.run(query.encode(), **parameters).fetchall()
