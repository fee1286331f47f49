"""Does the chunker find what a plain one finds? Chroma's chunking set: 472 questions, 790 spans, 5 texts.

Prints recall, precision and IoU of the 5 nearest chunks with the local model, beside a recursive splitter:
    .venv/bin/python -m benchmarks.chunking [--tokens 254 200] [--overlap 0]
Needs ../shared/data/chunking_evaluation. Some 10 minutes on 2 cores; vectors are kept under --vectors.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.models import Tokenizer, Vectors
from minirag_pipelines.core.records import ChunkerSettings, Element, ParsedDocument, embedded_text
from minirag_pipelines.ingest.chunking import chunk

DATA = Path(__file__).parents[2] / "shared" / "data" / "chunking_evaluation"
Chunk = tuple[str, int, int, str]


def structured(text: str) -> ParsedDocument:
    """The texts' own structure: lines as paragraphs, ` = Title = ` lines as titles."""
    elements = []
    for line in re.finditer(r"[^\n]*\S[^\n]*", text):
        title = re.fullmatch(r" ?((?:= )+)(.+?)(?: =)+ *", line.group())
        if title:
            elements.append(Element("title", line.start(), line.end(), level=len(title.group(1)) // 2 - 1))
        else:
            elements.append(Element("text", line.start(), line.end()))
    return ParsedDocument(None, text, tuple(elements))


def ours(texts: dict[str, str], tokenizer: Tokenizer, tokens: int, overlap: int) -> list[Chunk]:
    settings = ChunkerSettings(tokens, overlap)
    return [
        (name, draft.start, draft.end, embedded_text(draft.headings, draft.text))
        for name, text in texts.items()
        for draft in chunk(structured(text), settings, tokenizer)
    ]


def recursive(texts: dict[str, str], tokenizer: Tokenizer, tokens: int, overlap: int) -> list[Chunk]:
    """The usual recursive splitter: the coarsest separator that gives pieces that fit, pieces merged while they fit."""
    return [
        (name, start, end, text[start:end])
        for name, text in texts.items()
        for start, end in _merged(text, _pieces(text, 0, len(text), tokenizer, tokens), tokens, overlap)
    ]


def _pieces(text: str, start: int, end: int, tokenizer: Tokenizer, tokens: int) -> list[tuple[int, int, int]]:
    done: list[tuple[int, int, int]] = []
    waiting = [(start, end)]
    for separator in ("\n\n", "\n", ".", "?", "!", " ", ""):
        spans = [
            (found.start() + a, found.end() + a)
            for a, b in waiting
            for found in re.finditer(rf".*?{re.escape(separator)}|.+\Z" if separator else ".", text[a:b], re.DOTALL)
            if found.group()
        ]
        counts = tokenizer.counts([text[a:b] for a, b in spans])
        done += [(a, b, n) for (a, b), n in zip(spans, counts, strict=True) if n <= tokens]
        waiting = [span for span, n in zip(spans, counts, strict=True) if n > tokens]
    return sorted(done)


def _merged(text: str, pieces: list[tuple[int, int, int]], tokens: int, overlap: int) -> list[tuple[int, int]]:
    spans, first, total = [], 0, 0
    for number, (_, _, count) in enumerate(pieces):
        if total + count > tokens:
            spans.append((pieces[first][0], pieces[number - 1][1]))
            while first < number and (total > overlap or total + count > tokens):
                total -= pieces[first][2]
                first += 1
        total += count
    spans.append((pieces[first][0], pieces[-1][1]))
    return [span for span in spans if text[slice(*span)].strip()]


def kept(embedder: MiniLM, folder: Path) -> Callable[[Sequence[str]], Vectors]:
    """Embeds, and remembers every vector under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)

    def embed(texts: Sequence[str]) -> Vectors:
        paths = [folder / (hashlib.sha256(text.encode()).hexdigest() + ".npy") for text in texts]
        new = [number for number, path in enumerate(paths) if not path.exists()]
        for number, vector in zip(new, embedder.embed([texts[n] for n in new], "query").vectors, strict=True):
            np.save(paths[number], vector)
        return np.stack([np.load(path) for path in paths])

    return embed


def scorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score", DATA / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tokens", type=int, nargs="+", default=[254, 200])
    arguments.add_argument("--overlap", type=int, nargs="+", default=[0])
    arguments.add_argument("--vectors", type=Path, default=Path(".minirag/benchmarks"))
    given = arguments.parse_args()
    score, embedder = scorer(), MiniLM()
    embed = kept(embedder, given.vectors)
    for tokens in given.tokens:
        for overlap in given.overlap:
            for name, splitter in (("ours", ours), ("recursive", recursive)):
                began = time.perf_counter()
                chunks = splitter(score.corpora(), embedder.tokenizer, tokens, overlap)
                seconds = time.perf_counter() - began
                print(f"{name:10} {tokens}/{overlap}  cut in {seconds:.1f} s  {score.score(chunks, embed)}", flush=True)


if __name__ == "__main__":
    main()
