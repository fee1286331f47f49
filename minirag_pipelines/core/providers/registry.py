"""A model string → the model: `local/…` is answered on this machine, everything else through LiteLLM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from minirag_pipelines.core.errors import ModelUnknown
from minirag_pipelines.core.providers.models import LOCAL_CHAT_MODEL, ChatModel, Embedder
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL
from minirag_pipelines.core.records import Generation, Tenant

# `gpt-4o-mini`, `ollama/nomic-embed-text:v1.5`, `hosted_vllm/BAAI/bge-m3`, `vertex_ai/text-embedding@005`
MODEL = re.compile(r"[A-Za-z0-9][\w.:@+-]*(?:/[\w.:@+-]+)*")


def embedder(model: str, *, dimension: int | None = None, credentials: Mapping[str, str] | None = None) -> Embedder:
    """The embedding model of this name. Asks nobody and loads nothing until it is used.

    `dimension`, where known, spares the question to a remote model. `credentials` are LiteLLM's `api_key`, `api_base`,
    `organization`, `headers` (a JSON object), …; without them LiteLLM's environment variables count.
    Raises ModelUnknown, InvalidInput for credentials of unknown names.
    """
    if _is_local(model, LOCAL_EMBEDDING_MODEL, "embed"):
        return _minilm()
    from minirag_pipelines.core.providers.lite_embedder import LiteEmbedder

    return LiteEmbedder(model, dimension=dimension, credentials=credentials)


def embedder_of(whose: Tenant | Generation) -> Embedder:
    """The model of a tenant's settings, or of a generation that was made from them: its dimension is known."""
    dimension = whose.dimension if isinstance(whose, Generation) else None
    return embedder(whose.embedding_model, dimension=dimension)


def chat_model(model: str, *, credentials: Mapping[str, str] | None = None) -> ChatModel:
    """The chat model of this name. As `embedder`."""
    if _is_local(model, LOCAL_CHAT_MODEL, "answer"):
        from minirag_pipelines.core.providers.extractive import Extractive

        return Extractive(_minilm())
    from minirag_pipelines.core.providers.lite_chat import LiteChat

    return LiteChat(model, credentials=credentials)


def _is_local(model: str, local: str, does: str) -> bool:
    """Whether it is the local model. Raises ModelUnknown for another local one and for what can't be a name."""
    if model == local:
        return True
    if model.startswith("local/"):
        raise ModelUnknown(model, f"the local models that {does} are: {local}.")
    if len(model) > 200 or not MODEL.fullmatch(model):
        raise ModelUnknown(model[:200], f"a name looks like {local} or provider/model, as LiteLLM writes it.")
    return False


@lru_cache(maxsize=1)
def _minilm() -> Embedder:
    from minirag_pipelines.core.providers.minilm import MiniLM

    return MiniLM()
