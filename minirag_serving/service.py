"""The Python surface: authenticate, search, ask.

from minirag_serving import MiniRAG

with MiniRAG() as minirag:
    who = minirag.authenticate("mr_…")
    for hit in minirag.search(who, "What does the warranty cover?").hits:
        print(hit.uri, hit.text)
    print(minirag.ask(who, "What does the warranty cover?").text)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from minirag_pipelines.core import catalog
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.database import Database
from minirag_pipelines.core.errors import InvalidInput, NotAllowed
from minirag_pipelines.core.providers.models import LOCAL_CHAT_MODEL, ChatModel, Embedder, Turn
from minirag_pipelines.core.providers.registry import chat_model, embedder_of
from minirag_pipelines.core.records import AuthContext, Bot, Generation
from minirag_pipelines.core.settings import Settings, settings
from minirag_pipelines.core.vector_store import VectorStore
from minirag_serving import answering, retrieval
from minirag_serving.records import Answer, SearchResult

DEFAULT_TOP_K = 5


class MiniRAG:
    """Answers questions from published collections. Connects at first use; threads may share one.

    Every method takes the `AuthContext` that `authenticate` gave, and sees that tenant alone. All raise
    DatabaseUnavailable and VectorStoreUnavailable when a store can't be reached.
    """

    def __init__(self, given: Settings | None = None, *, max_connections: int = 8) -> None:
        """Addresses come from the environment, or from the stack that `minirag up` runs here. Raises InvalidInput."""
        chosen = given or settings()
        if chosen.database_url is None or chosen.chroma_url is None:
            raise InvalidInput(
                "MINIRAG_DATABASE_URL, MINIRAG_CHROMA_URL",
                "are not set, and no stack is running here: set them, or run `minirag up`.",
            )
        self.database = Database(chosen.database_url.get_secret_value(), max_connections=max_connections)
        self.vectors = VectorStore(chosen.chroma_url)
        self._embedders: dict[str, Embedder] = {}
        self._live: dict[str, Generation] = {}
        self._chat_models: dict[str, ChatModel] = {}

    def __enter__(self) -> MiniRAG:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    def authenticate(self, token: str) -> AuthContext:
        """Whose token this is. Raises NotAuthenticated, with one wording for every reason."""
        return catalog.authenticate(self.database, token)

    def search(self, who: AuthContext, question: str, *, top_k: int = DEFAULT_TOP_K) -> SearchResult:
        """The nearest passages, best first.

        Raises NotAllowed without the scope `query`, InvalidInput for an empty question or a `top_k` out of range.
        """
        if "query" not in who.scopes:
            raise NotAllowed("query")
        return retrieval.search(
            self.database, self.vectors, self._embedder_of, who.tenant_id, question, top_k=top_k, known=self._live
        )

    def ask(self, who: AuthContext, question: str, *, bot: str | None = None, history: Sequence[Turn] = ()) -> Answer:
        """An answer whose citations point at passages. Raises NotFound for a bot that this tenant does not have."""
        began = time.perf_counter()
        found, model, instructions = self._found(who, question, bot)
        answer = answering.answer(question, found.hits, model, instructions=instructions, history=history)
        return self._traced(who, answer, found, began)

    def stream(
        self, who: AuthContext, question: str, *, bot: str | None = None, history: Sequence[Turn] = ()
    ) -> Iterator[str | Answer]:
        """The answer's text piece by piece, then the whole as an Answer. What `ask` raises comes with the first."""
        began = time.perf_counter()
        found, model, instructions = self._found(who, question, bot)
        for part in answering.stream(question, found.hits, model, instructions=instructions, history=history):
            yield part if isinstance(part, str) else self._traced(who, part, found, began)

    def _found(self, who: AuthContext, question: str, bot: str | None) -> tuple[SearchResult, ChatModel, str]:
        """What to answer from, which model answers, and what it is told."""
        profile = self._bot(who, bot)
        found = self.search(who, question, top_k=profile.top_k if profile else DEFAULT_TOP_K)
        return found, self._chat_model(profile), profile.prompt if profile else ""

    def _bot(self, who: AuthContext, name: str | None) -> Bot | None:
        if name is None:
            return None
        with self.database.transaction(who.tenant_id) as transaction:
            return Catalog(transaction).bot(name)

    def _traced(self, who: AuthContext, answer: Answer, found: SearchResult, began: float) -> Answer:
        """The answer with the page of each quote, where a chunk spans several, and with what each stage took."""
        versions = {hit.rank: hit.version_id for hit in found.hits if hit.page is not None}
        citations = answer.citations
        if versions.keys() & {citation.rank for citation in citations}:
            with self.database.transaction(who.tenant_id) as transaction:
                corpus = Corpus(transaction)
                citations = tuple(
                    replace(one, page=corpus.find_page(version, one.span[0])) if version else one
                    for one in citations
                    for version in [versions.get(one.rank)]
                )
        latency_ms = found.latency_ms | {"answer_ms": round(1000 * answer.seconds, 3)}
        return replace(answer, citations=citations, seconds=time.perf_counter() - began, latency_ms=latency_ms)

    def _embedder_of(self, generation: Generation) -> Embedder:
        known = self._embedders.get(generation.model_fingerprint)
        if known is None:
            known = embedder_of(generation)
            self._embedders[generation.model_fingerprint] = known
        return known

    def _chat_model(self, profile: Bot | None) -> ChatModel:
        model = profile.model if profile else LOCAL_CHAT_MODEL
        if model not in self._chat_models:
            self._chat_models[model] = chat_model(model)
        return self._chat_models[model]
