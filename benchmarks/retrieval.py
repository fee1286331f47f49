"""How well does the local model find? SciFact (BEIR): 5,183 abstracts, 300 claims, nDCG@10 by exact search.

Each abstract is one text, cut at what the model reads, as in the published figures (0.645 for all-MiniLM-L6-v2).
    .venv/bin/python -m benchmarks.retrieval
Needs ../shared/data/scifact. Some 5 minutes on 2 cores.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from minirag_pipelines.core.providers.minilm import MiniLM

DATA = Path(__file__).parents[2] / "shared" / "data" / "scifact"


def main() -> None:
    documents = [json.loads(line) for line in (DATA / "corpus.jsonl").read_text().splitlines()]
    claims = [json.loads(line) for line in (DATA / "queries.jsonl").read_text().splitlines()]
    relevant: dict[str, set[str]] = {}
    for line in (DATA / "qrels.tsv").read_text().splitlines()[1:]:
        claim, document, _ = line.split("\t")
        relevant.setdefault(claim, set()).add(document)
    embedder, began = MiniLM(), time.perf_counter()
    held = embedder.embed([f"{line['title']} {line['text']}" for line in documents], "query").vectors
    print(f"{len(documents) / (time.perf_counter() - began):.1f} texts/s")
    asked = embedder.embed([line["text"] for line in claims], "query").vectors
    gains = []
    for claim, scores in zip(claims, asked @ held.T, strict=True):
        wanted = relevant.get(claim["_id"], set())
        found = [documents[number]["_id"] in wanted for number in np.argsort(-scores, kind="stable")[:10]]
        discounts = 1 / np.log2(np.arange(2, 12))
        gains.append(float(discounts @ found) / float(discounts[: len(wanted)].sum()))
    print(f"nDCG@10 {np.mean(gains):.3f} of {len(gains)} claims")


if __name__ == "__main__":
    main()
