"""How often is `local/extractive` right that something, or nothing, answers?

A question is put to the five nearest passages (something answers) and to the five nearest that are of another topic
(nothing does). Prints recall (answered when something answers), precision (of what it answered, what could be) and how
often the quoted sentences hold the answer. Odd questions choose a threshold, even ones are reported.
    .venv/bin/python -m benchmarks.support [--set en de scifact]
Needs ../shared/data/xquad and scifact. One to three minutes a set on 2 cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirag_pipelines.core.providers import extractive
from minirag_pipelines.core.providers.extractive import Extractive
from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.models import Embedded, Passage, Purpose, Question, Tokenizer, Usage, Vectors

DATA = Path(__file__).parents[2] / "shared" / "data"


class Remembering:
    """The local model, which embeds each text once."""

    def __init__(self) -> None:
        self._embedder = MiniLM()
        self._known: dict[str, Vectors] = {}
        self.model, self.fingerprint = self._embedder.model, self._embedder.fingerprint
        self.dimension, self.max_tokens = self._embedder.dimension, self._embedder.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        return self._embedder.tokenizer

    def embed(self, texts: Sequence[str], purpose: Purpose = "document") -> Embedded:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known |= dict(zip(new, self._embedder.embed(new, "query").vectors, strict=True))
        return Embedded(np.stack([self._known[text] for text in texts]), Usage())

    def estimate(self, texts: Sequence[str]) -> Usage:
        return self._embedder.estimate(texts)


@dataclass(frozen=True)
class Posed:
    """A question, its nearest passages, the nearest of other topics, and the words that answer it, if known."""

    text: str
    near: tuple[Passage, ...]
    foreign: tuple[Passage, ...]
    answer: str | None


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def judgements(path: Path) -> dict[str, set[str]]:
    relevant: dict[str, set[str]] = {}
    for line in path.read_text().splitlines()[1:]:
        question, document, _ = line.split("\t")
        relevant.setdefault(question, set()).add(document)
    return relevant


def xquad(embedder: Remembering, language: str) -> Iterator[Posed]:
    documents = [line for line in lines(DATA / "xquad/corpus.jsonl") if str(line["_id"]).startswith(language + "-")]
    questions = [line for line in lines(DATA / "xquad/queries.jsonl") if str(line["_id"]).startswith(language + "-")]
    # An id is language-article-paragraph: paragraphs of one article are one topic.
    topics = np.array([str(document["_id"]).rsplit("-", 1)[0] for document in documents])
    relevant = judgements(DATA / "xquad/qrels.tsv")
    scores = similarities(embedder, questions, documents)
    for question, row in zip(questions, scores, strict=True):
        topic = next(iter(relevant[str(question["_id"])])).rsplit("-", 1)[0]
        about = question["metadata"]
        assert isinstance(about, dict)
        answer = about["answers"][0]
        yield Posed(
            str(question["text"]),
            passages(documents, row),
            passages(documents, np.where(topics == topic, -1, row)),
            str(answer),
        )


def scifact(embedder: Remembering) -> Iterator[Posed]:
    """Claims; a passage of another topic is one that is not judged relevant, which is harder than it sounds."""
    relevant = judgements(DATA / "scifact/qrels.tsv")
    judged = set.union(*relevant.values())
    documents = [line for line in lines(DATA / "scifact/corpus.jsonl") if line["_id"] in judged]
    claims = [line for line in lines(DATA / "scifact/queries.jsonl") if line["_id"] in relevant]
    ids = np.array([document["_id"] for document in documents])
    for claim, row in zip(claims, similarities(embedder, claims, documents), strict=True):
        own = np.isin(ids, list(relevant[str(claim["_id"])]))
        yield Posed(str(claim["text"]), passages(documents, row), passages(documents, np.where(own, -1, row)), None)


def similarities(
    embedder: Remembering, questions: Sequence[dict[str, object]], documents: Sequence[dict[str, object]]
) -> Vectors:
    asked, held = (
        embedder.embed([str(line["text"]) for line in group], "query").vectors for group in (questions, documents)
    )
    nearness: Vectors = asked @ held.T
    return nearness


def passages(documents: Sequence[dict[str, object]], scores: Vectors) -> tuple[Passage, ...]:
    best = np.argsort(-scores, kind="stable")[:5]
    return tuple(Passage(rank, str(documents[number]["text"])) for rank, number in enumerate(best, start=1))


def best_score(model: Extractive, text: str, given: tuple[Passage, ...]) -> float:
    scored, _ = model.scored(Question(text, given))
    return scored[0].score if scored else 0.0


def report(name: str, posed: Sequence[Posed], model: Extractive) -> None:
    near = np.array([best_score(model, one.text, one.near) for one in posed])
    foreign = np.array([best_score(model, one.text, one.foreign) for one in posed])
    thresholds = np.linspace(0.2, 0.8, 121)
    odd = slice(1, None, 2)
    chosen = max(thresholds, key=lambda least: (near[odd] >= least).mean() + (foreign[odd] < least).mean())
    for label, least in (("set", extractive.SUPPORTED), ("best", chosen)):
        recall, wrong = (near[::2] >= least).mean(), (foreign[::2] >= least).mean()
        precision = recall / (recall + wrong)
        print(f"{name:8} threshold {label} {least:.3f}: recall {recall:.3f}, precision {precision:.3f}", flush=True)
    answers = [(model.answer(Question(one.text, one.near)).text, one.answer) for one in posed if one.answer]
    if answers:
        held = np.mean([answer in text for text, answer in answers if answer])
        print(f"{name:8} the answer's words stand in what is quoted: {held:.3f} of {len(answers)}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--set", nargs="+", default=["en", "de", "scifact"])
    for name in arguments.parse_args().set:
        embedder = Remembering()
        posed = list(scifact(embedder) if name == "scifact" else xquad(embedder, name))
        report(name, posed, Extractive(embedder))


if __name__ == "__main__":
    main()
