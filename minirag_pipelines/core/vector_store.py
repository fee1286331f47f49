"""Chroma: one collection a generation, through its HTTP server. The only module that knows chromadb.

A vector's id is the hex form of its text's hash. Text and metadata live in PostgreSQL; a portable generation writes
them here too, for other readers.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

from minirag_pipelines.core.errors import CollectionMismatch, InvalidInput, VectorStoreUnavailable
from minirag_pipelines.core.providers.models import Vectors
from minirag_pipelines.core.records import Generation

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection as ChromaCollection

# More at once stalls the searches of every tenant on the server.
BATCH = 200
# The default threshold of 1000 leaves small collections to a brute-force buffer: 30 ms a query. And at the default
# ef_search of 100 a text unlike all others is often missed beside a thousand that are much alike: 13 of 120, now 2.
_HNSW: Any = {"space": "cosine", "sync_threshold": 50, "batch_size": 50, "ef_search": 400}
# Searches of others wait for a request of many questions.
_QUESTIONS = 50
# How often a vector that no search finds is written again: the first time has always been enough.
_REWRITES = 2
# Unit vectors that went through Chroma differ by the rounding of 32-bit floats.
ROUNDING = 1e-5
# Chroma answers a batch in milliseconds. Well below MINIRAG_RETIRE_AFTER_S: a write that nobody waits for any more has
# ended before what it wrote may be deleted.
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Near:
    """A text near the question: similarity is the cosine, 1 for the same direction."""

    text_hash: bytes
    similarity: float


class Fence(threading.local):
    """Asks for the right to write at the last moment: when a request is made up, and about to be sent."""

    def __init__(self) -> None:
        self._check: Callable[[], None] | None = None

    @contextmanager
    def behind(self, check: Callable[[], None] | None) -> Iterator[None]:
        self._check = check
        try:
            yield
        finally:
            self._check = None

    def __call__(self, _request: object) -> None:
        if self._check is not None:
            self._check()


class Collection:
    """The vectors of one generation. What `check` raises keeps a write from being sent."""

    def __init__(self, raw: ChromaCollection, address: str, fence: Fence) -> None:
        self._raw = raw
        self._address = address
        self._fence = fence

    @property
    def name(self) -> str:
        return self._raw.name

    def upsert(
        self,
        vectors: Mapping[bytes, Vectors],
        passages: Mapping[bytes, tuple[str, str]] | None = None,
        *,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Write at most BATCH vectors by text hash; `passages` is each one's text and heading path, when portable.

        Each is then looked for, as a search would: among many texts that are much alike one may not be reached by any
        search. Written again, it is.
        """
        self._write(vectors, passages, list(vectors), check)
        for _ in range(_REWRITES):
            unfound = self.unfound(vectors)
            if not unfound:
                return
            self._write(vectors, passages, unfound, check)

    def _write(
        self,
        vectors: Mapping[bytes, Vectors],
        passages: Mapping[bytes, tuple[str, str]] | None,
        hashes: Sequence[bytes],
        check: Callable[[], None] | None,
    ) -> None:
        portable: dict[str, Any] = {}
        if passages is not None:
            portable = {
                "documents": [passages[text_hash][0] for text_hash in hashes],
                "metadatas": [{"headings": passages[text_hash][1]} for text_hash in hashes],
            }
        with _translated(self._address, self.name), self._fence.behind(check):
            self._raw.upsert(
                ids=[text_hash.hex() for text_hash in hashes],
                embeddings=np.stack([vectors[text_hash] for text_hash in hashes]),
                **portable,
            )

    def unfound(self, vectors: Mapping[bytes, Vectors], limit: int = 1) -> list[bytes]:
        """The texts that are not among the `limit` nearest to their own vector, nor is an equal vector."""
        hashes, unfound = list(vectors), []
        for start in range(0, len(hashes), _QUESTIONS):
            asked = hashes[start : start + _QUESTIONS]
            for text_hash, near in zip(
                asked, self.nearest_of_each([vectors[one] for one in asked], limit), strict=True
            ):
                if not any(one.text_hash == text_hash or one.similarity >= 1 - ROUNDING for one in near):
                    unfound.append(text_hash)
        return unfound

    def nearest(self, vector: Vectors, limit: int) -> list[Near]:
        """At most `limit` texts, nearest first."""
        return self.nearest_of_each([vector], limit)[0]

    def nearest_of_each(self, vectors: Sequence[Vectors], limit: int = 1) -> list[list[Near]]:
        """For each vector at most `limit` texts, nearest first. A request of many stalls the searches of others."""
        questions: Any = list(vectors)
        with _translated(self._address, self.name):
            found = self._raw.query(query_embeddings=questions, n_results=limit, include=["distances"])
        return [
            # An id that is not ours is the hash of no text.
            [
                Near(text_hash_of(one) or b"", 1.0 - float(distance))
                for one, distance in zip(ids, distances, strict=True)
            ]
            for ids, distances in zip(found["ids"], found["distances"] or [], strict=True)
        ]

    def vectors(self, text_hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors that the collection holds of these texts; absent ones are left out."""
        found: dict[bytes, Vectors] = {}
        for ids in _batches(text_hashes):
            with _translated(self._address, self.name):
                for text_id, vector in self._embeddings(ids):
                    found[bytes.fromhex(text_id)] = np.asarray(vector, dtype=np.float32)
        return found

    def _embeddings(self, ids: list[str]) -> Iterator[tuple[str, Any]]:
        """An id that has lost its place in the search index spoils the request for the others: found by halving."""
        from chromadb.errors import InternalError

        try:
            held = self._raw.get(ids=ids, include=["embeddings"])
        except InternalError as error:
            if "finding id" not in str(error):
                raise
            if len(ids) > 1:
                yield from self._embeddings(ids[: len(ids) // 2])
                yield from self._embeddings(ids[len(ids) // 2 :])
            return
        embeddings = held["embeddings"]
        yield from zip(held["ids"], embeddings if embeddings is not None else [], strict=True)

    def passages(self, text_hashes: Sequence[bytes]) -> dict[bytes, tuple[str | None, str | None]]:
        """Text and heading path, as a portable generation has them here; absent ids are left out."""
        found: dict[bytes, tuple[str | None, str | None]] = {}
        for ids in _batches(text_hashes):
            with _translated(self._address, self.name):
                held = self._raw.get(ids=ids, include=["documents", "metadatas"])
            texts, metadatas = held["documents"] or [], held["metadatas"] or []
            for text_id, text, metadata in zip(held["ids"], texts, metadatas, strict=True):
                headings = (metadata or {}).get("headings")
                found[bytes.fromhex(text_id)] = (text, headings if isinstance(headings, str) else None)
        return found

    def present(self, text_hashes: Sequence[bytes]) -> set[bytes]:
        """Which of these texts the collection holds."""
        if not text_hashes:
            return set()
        with _translated(self._address, self.name):
            held = self._raw.get(ids=[text_hash.hex() for text_hash in text_hashes], include=[])
        return {bytes.fromhex(text_id) for text_id in held["ids"]}

    def ids(self, *, offset: int, limit: int) -> list[str]:
        """A page of all ids, in the order in which they came; those that are not ours may be of any form.

        The server counts up to the offset each time: 100,000 ids take 2 s at once and 80 s in pages of 1,000.
        """
        with _translated(self._address, self.name):
            return list(self._raw.get(offset=offset, limit=limit, include=[])["ids"])

    def delete(self, text_hashes: Sequence[bytes], *, check: Callable[[], None] | None = None) -> None:
        """Absent ones are no error."""
        self.delete_ids([text_hash.hex() for text_hash in text_hashes], check=check)

    def delete_ids(self, ids: Sequence[str], *, check: Callable[[], None] | None = None) -> None:
        """Of any form; absent ones are no error."""
        for start in range(0, len(ids), BATCH):
            with _translated(self._address, self.name), self._fence.behind(check):
                self._raw.delete(ids=list(ids[start : start + BATCH]))

    def count(self) -> int:
        with _translated(self._address, self.name):
            return self._raw.count()


class VectorStore:
    """A Chroma server. Connects at first use, and waits at most `timeout_s` for each answer."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput("MINIRAG_CHROMA_URL", "is not an address like http://host:8000.")
        self._port = parts.port or (443 if parts.scheme == "https" else 8000)
        self.address = f"{parts.hostname}:{self._port}"
        self._parts = parts
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._fence = Fence()
        self._collections: dict[str, Collection] = {}

    @cached_property
    def _client(self) -> ClientAPI:
        os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
        from chromadb.api.client import Client
        from chromadb.api.fastapi import FastAPI
        from chromadb.auth import UserIdentity
        from chromadb.config import Settings as ChromaSettings

        timeout_s, fence = self._timeout_s, self._fence

        class TimedClient(Client):
            """chromadb's client waits for ever, and there is no setting for it. This is its first request."""

            def get_user_identity(self) -> UserIdentity:
                if not isinstance(self._server, FastAPI):
                    raise TypeError(self._server)
                self._server._session.timeout = timeout_s
                self._server._session.event_hooks = {"request": [fence]}
                return self._server.get_user_identity()

            def _validate_tenant_database(self, tenant: str, database: str) -> None:
                """The default ones always exist, and chromadb asks for them through a second client without limit."""

        settings = ChromaSettings(
            anonymized_telemetry=False,
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=self._parts.hostname or "",
            chroma_server_http_port=self._port,
            chroma_server_ssl_enabled=self._parts.scheme == "https",
        )
        with _translated(self.address, None):
            return TimedClient(settings=settings)

    def create(self, generation: Generation) -> Collection:
        """The generation's collection, made if it is not there. Raises CollectionMismatch for one of another model."""
        known = self._collections.get(generation.collection)
        if known is not None:
            return known
        metadata = {"model": generation.model_fingerprint, "dimension": generation.dimension}
        with _translated(self.address, generation.collection):
            raw = self._client.get_or_create_collection(
                generation.collection,
                metadata=metadata,
                configuration={"hnsw": _HNSW},
                embedding_function=None,
            )
        return self._opened(raw, generation)

    def collection(self, generation: Generation) -> Collection:
        """The generation's collection. Raises CollectionMismatch when it is missing or another model's."""
        known = self._collections.get(generation.collection)
        if known is not None:
            return known
        with _translated(self.address, generation.collection):
            raw = self._client.get_collection(generation.collection, embedding_function=None)
        return self._opened(raw, generation)

    def count(self, generation: Generation) -> int:
        """How many vectors the generation's collection holds, asked without loading chromadb, which takes a second."""
        if generation.collection in self._collections:
            return self._collections[generation.collection].count()
        collections = "/api/v2/tenants/default_tenant/databases/default_database/collections"
        found = self._ask(f"{collections}/{generation.collection}", generation.collection)
        return int(self._ask(f"{collections}/{found['id']}/count", generation.collection))

    def _ask(self, path: str, collection: str) -> Any:
        try:
            with urlopen(f"{self._url}{path}", timeout=self._timeout_s) as reply:  # noqa: S310 - the constructor checked the scheme
                return json.load(reply)
        except HTTPError as error:
            error.close()
            if error.code == HTTPStatus.NOT_FOUND:
                raise _missing(collection) from error
            raise VectorStoreUnavailable(self.address, f"it answered {error.code}.") from error
        except (OSError, ValueError, HTTPException) as error:
            raise VectorStoreUnavailable(self.address, f"{type(error).__name__}: {error}") from error

    def drop(self, generation: Generation) -> None:
        """Delete the generation's collection; an absent one is no error."""
        from chromadb.errors import NotFoundError

        self._collections.pop(generation.collection, None)
        with _translated(self.address, generation.collection):
            try:
                self._client.delete_collection(generation.collection)
            except NotFoundError:
                return

    def forget_opened(self, generation: Generation) -> None:
        """Look the collection up anew at its next use: its id changes when it is made again."""
        self._collections.pop(generation.collection, None)

    def heartbeat(self) -> None:
        """Raises VectorStoreUnavailable."""
        with _translated(self.address, None):
            self._client.heartbeat()

    def _opened(self, raw: ChromaCollection, generation: Generation) -> Collection:
        found = (raw.metadata or {}).get("model")
        if found != generation.model_fingerprint:
            raise CollectionMismatch(
                generation.collection,
                f"holds vectors of model {found}, not of {generation.model_fingerprint}; "
                "minirag reconcile with --repair makes it again.",
            )
        collection = self._collections[generation.collection] = Collection(raw, self.address, self._fence)
        return collection


def text_hash_of(text_id: str) -> bytes | None:
    """The text hash that an id is the hex form of; None for an id that is not ours."""
    return bytes.fromhex(text_id) if re.fullmatch(r"[0-9a-f]{64}", text_id) else None


def _batches(text_hashes: Sequence[bytes]) -> Iterator[list[str]]:
    for start in range(0, len(text_hashes), BATCH):
        yield [text_hash.hex() for text_hash in text_hashes[start : start + BATCH]]


def _missing(collection: str) -> CollectionMismatch:
    return CollectionMismatch(
        collection, "is not in Chroma; the tenant's next sync, or minirag reconcile with --repair, fills it again."
    )


@contextmanager
def _translated(address: str, collection: str | None) -> Iterator[None]:
    import httpx
    from chromadb.errors import ChromaError, NotFoundError

    try:
        yield
    except NotFoundError as error:
        raise _missing(collection or "?") from error
    except ChromaError as error:
        if error.code() >= 500 or error.code() == 429:
            raise VectorStoreUnavailable(address, str(error).splitlines()[0][:300]) from error
        raise
    except httpx.TimeoutException as error:
        raise VectorStoreUnavailable(address, "it does not answer in time.") from error
    except httpx.HTTPError as error:
        raise VectorStoreUnavailable(address, f"{type(error).__name__}: {error}") from error
    except Exception as error:
        # How chromadb's client says that something other than Chroma has answered, such as a proxy.
        if type(error) is Exception and isinstance(error.__context__, httpx.HTTPStatusError):
            status = error.__context__.response.status_code
            raise VectorStoreUnavailable(address, f"it answered {status}.") from error
        raise
