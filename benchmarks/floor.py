"""The floor: parse, chunk, embed, upsert with the same libraries, in one process, and nothing else.

No state, no processes, no failures, no tenants: what a sync does besides is measured against this. Prints its seconds
by stage as JSON. `benchmarks.sync` runs it; by itself:
    .venv/bin/python -m benchmarks.floor DIR --chroma http://127.0.0.1:8000 --model local/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import resource
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.models import Vectors
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL, tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Element, ParsedDocument, embedded_text, text_hash
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.ingest.chunking import chunk
from minirag_pipelines.ingest.formats import kind_of
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsers.unstructured_setup import NO_LANGUAGES, prepare
from minirag_pipelines.ingest.parsing import parse

_TEXTS, _VECTORS = 128, 200
_KINDS = {"Title": "title", "ListItem": "list_item", "Table": "table", "CodeSnippet": "code"}


def partitioned(content: bytes, kind: str, name: str) -> ParsedDocument:
    """What unstructured makes of a document, its elements one below the other; kinds besides text, ours."""
    prepare()
    from unstructured.partition.html import partition_html
    from unstructured.partition.md import partition_md
    from unstructured.partition.text import partition_text

    partition: Callable[..., Any] | None = {"md": partition_md, "html": partition_html, "txt": partition_text}.get(kind)
    if partition is None:
        return parse(content, kind, name=name, languages=["eng"], limits=Limits.of(Settings()))
    found = partition(text=content.decode(errors="replace"), languages=NO_LANGUAGES) if content.strip() else []
    elements, texts, end = [], [], 0
    for element in found:
        if element.text.strip():
            depth = element.metadata.category_depth or 0
            level = depth if element.category == "Title" else None
            start, end = end, end + len(element.text)
            elements.append(Element(_KINDS.get(element.category, "text"), start, end, level))
            texts.append(element.text)
            end += 2
    return ParsedDocument(None, "\n\n".join(texts), tuple(elements))


def asker(model: str) -> Callable[[Sequence[str]], Vectors]:
    """What embeds a batch of texts; its library is loaded when this returns."""
    if model == LOCAL_EMBEDDING_MODEL:
        local = MiniLM()
        return lambda texts: local.embed(texts).vectors
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    def ask(texts: Sequence[str]) -> Vectors:
        # Packed, as MiniRAG asks too: written out, the numbers take longer to read than to make.
        reply = litellm.embedding(model=model, input=list(texts), encoding_format="base64")
        return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in reply.data])

    return ask


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--chroma", required=True, metavar="URL")
    arguments.add_argument("--model", default=LOCAL_EMBEDDING_MODEL)
    arguments.add_argument("--tokens", type=int, default=254)
    given = arguments.parse_args()
    laps: dict[str, float] = {}
    began = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal began
        laps[stage], began = time.perf_counter() - began, time.perf_counter()

    import chromadb

    address = urlsplit(given.chroma)
    client = chromadb.HttpClient(host=address.hostname or "", port=address.port or 8000)
    ask, tokenizer = asker(given.model), tokenizer_for(given.model)
    lap("imports")
    files = sorted(path for path in given.folder.rglob("*") if path.is_file())
    documents = []
    for path in files:
        with contextlib.suppress(DocumentUnreadable):
            documents.append(partitioned(path.read_bytes(), kind_of(path.name), path.name))
    lap("parse")
    drafts = [draft for one in documents for draft in chunk(one, ChunkerSettings(given.tokens), tokenizer)]
    lap("chunk")
    texts = {text_hash(text).hex(): text for text in (embedded_text(one.headings, one.text) for one in drafts)}
    ids, values = list(texts), list(texts.values())
    vectors = np.concatenate([ask(values[at : at + _TEXTS]) for at in range(0, len(values), _TEXTS)])
    lap("embed")
    collection = client.create_collection(
        f"floor-{uuid.uuid4().hex}",
        configuration={"hnsw": {"space": "cosine", "sync_threshold": 50, "batch_size": 50}},
        embedding_function=None,
    )
    for at in range(0, len(ids), _VECTORS):
        collection.upsert(ids=ids[at : at + _VECTORS], embeddings=vectors[at : at + _VECTORS])
    lap("upsert")
    client.delete_collection(collection.name)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"laps": laps, "chunks": len(drafts), "texts": len(ids), "peak_mib": usage.ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
