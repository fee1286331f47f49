"""Embedding through LiteLLM: batches, several at once, each reply checked before it is believed."""

from __future__ import annotations

import base64
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minirag_pipelines.core.errors import ContentRefused, ProviderRefused, ProviderUnavailable
from minirag_pipelines.core.providers.lite import Connection, Retries, litellm
from minirag_pipelines.core.providers.models import Embedded, Purpose, Tokenizer, Usage, Vectors
from minirag_pipelines.core.records import fingerprint

logger = logging.getLogger(__name__)

MOST_TEXTS = 128
MOST_TOKENS = 64_000  # in one request; OpenAI takes 300,000, Voyage 120,000
AT_ONCE = 4
SAFE_MAX_TOKENS = 512  # what the models take whose limit nobody tells us
SPECIAL_TOKENS = 2
PROBE = "What is this about?"
# Who sends vectors as base64 when asked: 1,536 numbers a text written out cost the client 5 ms, packed 0.2 ms.
PACKS = re.compile(r"openai/|hosted_vllm/|text-embedding-(3|ada)")

# What became of texts[start:end].
Part = tuple[int, int, Embedded | ContentRefused]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What tells a model whether a text is a document or a question: words in front of it, or `input_type`."""

    document: str = ""
    query: str = ""
    as_input_type: bool = False

    def arguments(self, texts: Sequence[str], purpose: Purpose) -> dict[str, Any]:
        words = self.query if purpose == "query" else self.document
        if self.as_input_type:
            return {"input": list(texts), "input_type": words}
        return {"input": [words + text for text in texts]}


_FOR_RETRIEVAL = "Represent this sentence for searching relevant passages: "
# The first whose pattern is found in the model's name. Source: the models' cards, section "Usage"; for input_type the
# providers' API references.
INSTRUCTIONS = (
    (r"^(cohere/)?embed-|cohere\.embed-", Instruction("search_document", "search_query", as_input_type=True)),
    (r"^voyage/", Instruction("document", "query", as_input_type=True)),
    (r"^nvidia_nim/", Instruction("passage", "query", as_input_type=True)),
    (r"nomic-embed-text", Instruction("search_document: ", "search_query: ")),
    (r"(^|/|-)e5-(small|base|large)(?!.*instruct)", Instruction("passage: ", "query: ")),
    (r"bge-(small|base|large)-en|mxbai-embed-large", Instruction("", _FOR_RETRIEVAL)),
    (r"snowflake-arctic-embed.*v2|snowflake-arctic-embed2", Instruction("", "query: ")),
    (r"snowflake-arctic-embed", Instruction("", _FOR_RETRIEVAL)),
)


def instruction_for(model: str) -> Instruction:
    name = model.lower()
    return next((instruction for pattern, instruction in INSTRUCTIONS if re.search(pattern, name)), Instruction())


class LiteEmbedder:
    """An embedding model at any provider that LiteLLM knows. Safe for threads.

    `dimension` is what the model's vectors are known to have, never a request to shorten them; where it is not given,
    the first reply tells it. Construction asks nobody.
    """

    def __init__(
        self,
        model: str,
        *,
        dimension: int | None = None,
        credentials: Mapping[str, str] | None = None,
        retries: Retries | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self._connection = Connection(model, dict(credentials or {}), timeout_s, retries or Retries())
        self._instruction = instruction_for(model)
        self._dimension = dimension
        self._learning = threading.Lock()
        self._most_texts = MOST_TEXTS
        self._reached = False
        self._encoding = {"encoding_format": "base64"} if PACKS.match(model) else {}

    @property
    def model(self) -> str:
        return self._connection.model

    @property
    def fingerprint(self) -> str:
        return fingerprint(
            self.model, self._connection.base, self.dimension, self._instruction.document, self._instruction.query
        )

    @property
    def dimension(self) -> int:
        if self._dimension is None:
            return int(self._request([PROBE], "document").vectors.shape[1])
        return self._dimension

    @cached_property
    def max_tokens(self) -> int:
        listing = self._connection.listing()
        limit = listing.get("max_input_tokens") or listing.get("max_tokens") or SAFE_MAX_TOKENS
        return int(limit) - SPECIAL_TOKENS

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from minirag_pipelines.core.providers.tokenizers import tokenizer_for

        return tokenizer_for(self.model)

    def embed(self, texts: Sequence[str], purpose: Purpose = "document") -> Embedded:
        """Embed texts in order, several requests at once.

        Raises ContentRefused, with the text's index and what was made of the others, when the provider takes the others
        but not this one.
        """
        if not texts:
            return Embedded(np.empty((0, self.dimension), np.float32), Usage())
        ends = self._batch_ends(texts)
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        parts: list[Part] = []
        if len(spans) == 1 or not self._reached:
            # The first request goes alone: a wrong key is said once, and LiteLLM opens one client instead of four.
            parts += self._embed_span(texts, *spans.pop(0), purpose)
        if spans:
            with ThreadPoolExecutor(min(AT_ONCE, len(spans)), thread_name_prefix="embed") as pool:
                parts += _results([pool.submit(self._embed_span, texts, *span, purpose) for span in spans])
        refused = next((result for *_, result in parts if isinstance(result, ContentRefused)), None)
        if refused is not None:
            raise ContentRefused(self.model, refused.reason, text_index=refused.text_index, parts=parts)
        return _joined(parts)

    def estimate(self, texts: Sequence[str]) -> Usage:
        """What a provider counts that counts as the tokenizer does, with what is sent in front of each text."""
        if not texts:
            return Usage()
        tokens = sum(self.tokenizer.counts(self._instruction.arguments(texts, "document")["input"]))
        return Usage(prompt_tokens=tokens, cost_usd=self._connection.cost_usd("embedding", _counted(tokens)))

    def _batch_ends(self, texts: Sequence[str]) -> list[int]:
        """Where each request's texts end: at so many texts, or at so many tokens, roughly counted."""
        ends: list[int] = []
        count = tokens = 0
        for i, text in enumerate(texts):
            # Three bytes a token is more than English takes and about what Chinese does.
            more = len(text.encode(errors="replace")) // 3 + 1
            if count and (count == self._most_texts or tokens + more > MOST_TOKENS):
                ends.append(i)
                count = tokens = 0
            count += 1
            tokens += more
        return [*ends, len(texts)]

    def _embed_span(self, texts: Sequence[str], start: int, end: int, purpose: Purpose) -> list[Part]:
        """Embed texts[start:end] in one request, or, where that is refused, in halves."""
        try:
            return [(start, end, self._request(texts[start:end], purpose))]
        except ContentRefused as error:
            refusal = error
        if end - start == 1:
            return [(start, end, self._refusal_of(start, refusal, purpose))]
        middle = (start + end) // 2
        halves = [*self._embed_span(texts, start, middle, purpose), *self._embed_span(texts, middle, end, purpose)]
        if not any(isinstance(result, ContentRefused) for *_, result in halves):
            # All were taken, so no text was to blame but their number.
            self._most_texts = min(self._most_texts, end - middle)
            logger.info("%s takes no %d texts at once; now %d.", self.model, end - start, self._most_texts)
        return halves

    def _refusal_of(self, index: int, refusal: ContentRefused, purpose: Purpose) -> ContentRefused:
        """The refusal of one text. Raises ProviderRefused for that of every text: a wrong setting is a 400 too."""
        try:
            self._request([PROBE], purpose)
        except ContentRefused:
            raise ProviderRefused(self.model, refusal.reason) from None
        return ContentRefused(self.model, refusal.reason, text_index=index)

    def _request(self, texts: Sequence[str], purpose: Purpose) -> Embedded:
        try:
            return self._asked(texts, purpose)
        except ContentRefused:
            if self._reached or not self._encoding:
                raise
        # Nothing of this model has been seen yet: it may be the encoding that its server does not know.
        encoding, self._encoding = self._encoding, {}
        try:
            return self._asked(texts, purpose)
        except ContentRefused:
            self._encoding = encoding
            raise

    def _asked(self, texts: Sequence[str], purpose: Purpose) -> Embedded:
        sent = self._instruction.arguments(texts, purpose) | self._encoding

        def attempt(litellm: Any, arguments: dict[str, Any]) -> tuple[Vectors, Any]:
            reply = litellm.embedding(**arguments, **sent)
            return self._checked(reply, len(texts)), getattr(reply, "usage", None)

        (vectors, said), repeated = self._connection.call(attempt)
        self._reached = True
        tokens = getattr(said, "prompt_tokens", 0) or getattr(said, "total_tokens", 0)
        if tokens:
            cost_usd = self._connection.cost_usd("embedding", said)
        else:
            tokens = sum(self.tokenizer.counts(sent["input"]))
            cost_usd = self._connection.cost_usd("embedding", _counted(tokens))
        return Embedded(vectors, Usage(1, tokens, 0, cost_usd, repeated))

    def _checked(self, reply: Any, count: int) -> Vectors:
        """The reply's vectors, of unit length. Raises ProviderUnavailable with what is wrong with them."""
        items = sorted(reply.data or (), key=lambda item: _field(item, "index") or 0)
        if len(items) != count:
            raise ProviderUnavailable(self.model, f"it returned {len(items)} vectors for {count} texts.")
        rows = [_numbers(_field(item, "embedding")) for item in items]
        lengths = sorted({len(row) for row in rows})
        with self._learning:
            expected = self._dimension or lengths[0]
            if lengths != [expected] or not expected:
                found = ", ".join(map(str, lengths))
                raise ProviderUnavailable(self.model, f"it returned vectors of {found} numbers instead of {expected}.")
            vectors = np.stack(rows)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            if not np.isfinite(norms).all() or not norms.all():
                raise ProviderUnavailable(self.model, "it returned a vector that is not finite, or zero.")
            self._dimension = expected
        unit: Vectors = (vectors / norms).astype(np.float32)
        return unit


def _field(item: Any, name: str) -> Any:
    """Of one vector of a reply: for some providers LiteLLM makes them dictionaries, for some objects."""
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _numbers(embedding: str | Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One vector, from numbers or from base64 of float32."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4").astype(np.float64)
    return np.asarray(embedding, np.float64)


def _counted(tokens: int) -> Any:
    litellm()  # first, as it is imported so that it asks nobody for prices
    from litellm.types.utils import Usage as LiteUsage

    return LiteUsage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)


def _results(requests: list[Future[list[Part]]]) -> list[Part]:
    """The results in order. At the first failure, requests that have not begun are given up."""
    try:
        return [part for request in requests for part in request.result()]
    finally:
        for request in requests:
            request.cancel()


def _joined(parts: list[Part]) -> Embedded:
    taken = [result for *_, result in parts if isinstance(result, Embedded)]
    return Embedded(np.concatenate([part.vectors for part in taken]), sum((part.usage for part in taken), Usage()))
