"""The chat model `local/extractive`: quotes the sentences that answer best. It generates nothing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from minirag_pipelines.core.providers.models import (
    LOCAL_CHAT_MODEL,
    NOTHING_FOUND,
    Embedder,
    Passage,
    Question,
    Reply,
    Usage,
)
from minirag_pipelines.core.providers.tokenizers import sentences

# An embedding of a sentence takes some 4 ms on two cores: this keeps an answer well under half a second.
MOST_EMBEDDED = 40
MOST_QUOTED = 3

# Chosen on XQuAD and SciFact: benchmarks/support.py, docs/chunking.md.
SUPPORTED = 0.43
_WEIGHTS = (0.5, 0.1, 0.3, 0.1)
# A further sentence is quoted when it scores nearly as the best.
_NEARLY = 0.85

_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
_LABEL = re.compile(r"[^\d#.!?。！？؟]+")
_CELL = re.compile(r"\s*[|\t]\s*")
_RULE = re.compile(r"[\s|:+=-]+")
# fmt: off
_COMMON = frozenset((
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can",
    "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in",
    "into", "is", "it", "its", "many", "may", "me", "more", "most", "much", "my", "no", "not", "of", "on", "one", "or",
    "our", "out", "she", "should", "so", "some", "than", "that", "the", "their", "them", "there", "these", "they",
    "this", "to", "type", "us", "used", "was", "we", "were", "what", "when", "where", "which", "who", "whom", "whose",
    "why", "will", "with", "would", "you", "your",
    "aber", "als", "auf", "aus", "bei", "das", "dem", "den", "der", "des", "die", "ein", "eine", "einem", "einen",
    "einer", "für", "hat", "im", "in", "ist", "mit", "nach", "oder", "sich", "sie", "sind", "und", "viele", "von",
    "war", "waren", "warum", "was", "welche", "welchem", "welchen", "welcher", "welches", "wann", "wem", "wen", "wer",
    "wie", "wird", "wo", "wurde", "wurden", "zu", "zum", "zur",
    "al", "avec", "ce", "cette", "como", "con", "cual", "cuál", "cuando", "cuándo", "cuántos", "dans", "de", "del",
    "des", "donde", "dónde", "du", "el", "en", "es", "est", "et", "fue", "la", "las", "le", "les", "lo", "los", "par",
    "para", "pas", "por", "pour", "que", "qué", "quel", "quelle", "qui", "quién", "se", "son", "su", "sur", "un", "una",
    "une", "y",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may be quoted. `context` is what it answers or stands under, and is embedded with it."""

    passage: int
    place: int
    quote: str
    context: str

    @property
    def whole(self) -> str:
        return f"{self.context} {self.quote}" if self.context else self.quote


@dataclass(frozen=True, slots=True)
class Scored:
    candidate: Candidate
    score: float


class Extractive:
    """Answers with at most three sentences of the passages, word for word, each with the mark of its passage."""

    model = LOCAL_CHAT_MODEL

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def answer(self, question: Question) -> Reply:
        """`supported` is False, and the text says so, when no sentence is near enough to the question."""
        *_, reply = self.stream(question)
        assert isinstance(reply, Reply)  # noqa: S101  # stream() ends with it
        return reply

    def stream(self, question: Question) -> Iterator[str | Reply]:
        scored, usage = self.scored(question)
        quoted = _chosen(scored)
        pieces = []
        for number, candidate in enumerate(quoted):
            mark = f"[{question.passages[candidate.passage].rank}]"
            pieces.append(("\n\n" if number else "") + f"{candidate.quote} {mark}")
            yield pieces[-1]
        if not pieces:
            pieces = [NOTHING_FOUND]
            yield NOTHING_FOUND
        yield Reply("".join(pieces), bool(quoted), self.model, usage)

    def scored(self, question: Question) -> tuple[list[Scored], Usage]:
        """The sentences that were weighed, the best first, and what weighing took."""
        terms = _terms(question.text)
        found = [c for number, passage in enumerate(question.passages) for c in candidates(number, passage)]
        if not found:
            return [], Usage()
        rarity = _rarity(terms, found)
        covered = [_covered(rarity, candidate.whole) for candidate in found]
        # The retrieval's own order decides between sentences with the same words.
        best = sorted(range(len(found)), key=lambda number: (-covered[number], found[number].passage))[:MOST_EMBEDDED]
        kept = [found[number] for number in sorted(best)]
        embedded = self._embedder.embed([question.text, *(candidate.whole for candidate in kept)], "query")
        near = embedded.vectors[1:] @ embedded.vectors[0]
        features = _features(question.passages, kept, near, rarity)
        scores = features @ np.array(_WEIGHTS)
        order = np.argsort(-scores, kind="stable")
        return [Scored(kept[number], float(scores[number])) for number in order], embedded.usage


def candidates(number: int, passage: Passage) -> Iterator[Candidate]:
    """A passage's sentences and table rows in order; a row is told with its header's words."""
    heading = passage.headings[-1] if passage.headings else passage.title or ""
    place = 0
    blocks = list(_blocks(passage.text))
    for block, following in zip_longest(blocks, blocks[1:]):
        if following is not None and _is_label(block) and not _is_label(following):
            # A title without a mark of its own answers nothing.
            continue
        found = _rows(block) if len(_cells(block[0])) > 1 else _told(block)
        for context, quote in found:
            yield Candidate(number, place, quote, context or heading)
            place += 1


def _is_label(block: Sequence[str]) -> bool:
    """A few words on a line of their own, with no figure and no full stop: a title, or an item of a list."""
    line = block[0].strip()
    return len(block) == 1 and len(_cells(line)) == 1 and len(line.split()) <= 8 and _LABEL.fullmatch(line) is not None


def _blocks(text: str) -> Iterator[list[str]]:
    """Lines that are a table together, and lines that are prose together."""
    block: list[str] = []
    for line in text.splitlines():
        if block and (not line.strip() or (len(_cells(line)) > 1) != (len(_cells(block[0])) > 1)):
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def _cells(line: str) -> list[str]:
    return _CELL.split(line.strip().strip("|").strip()) if "|" in line or "\t" in line.strip() else [line]


def _rows(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    header, *rest = (_cells(line) for line in lines if not _RULE.fullmatch(line))
    if not rest:
        yield "", ", ".join(header)
    for row in rest:
        # Cells that no header names are told bare.
        names = [*header, *[""] * (len(row) - len(header))]
        cells = [f"{name}: {cell}" if name else cell for name, cell in zip(names, row, strict=False) if cell]
        if cells:
            yield "", "; ".join(cells)


def _told(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    text, context = "\n".join(lines), ""
    for start, end in sentences(text):
        sentence = " ".join(text[start:end].split())
        if sentence.startswith("#") or sentence.endswith(("?", "？", "؟")):
            # A heading or a question is no answer; what follows it may be.
            context = sentence.lstrip("# ")
        elif len(sentence) >= 3:
            yield context, sentence
            context = context if not context.endswith(("?", "？", "؟")) else ""


def _terms(text: str) -> list[str]:
    """The words that carry meaning, shortened so that inflected forms meet; pairs of characters in CJK."""
    terms = []
    for word in _WORD.findall(text.lower()):
        if _CJK.search(word):
            terms += [word[place : place + 2] for place in range(max(len(word) - 1, 1))]
        elif word not in _COMMON:
            terms.append(word[:6] if len(word) > 6 else word.removesuffix("s"))
    return terms


def _rarity(terms: Sequence[str], found: Sequence[Candidate]) -> dict[str, float]:
    """What each term of the question weighs: the fewer sentences have it, the more. The weights sum to 1."""
    having = Counter(term for candidate in found for term in set(_terms(candidate.whole)))
    weights = {term: math.log((len(found) + 1.5) / (having[term] + 0.5)) for term in terms}
    total = sum(weights.values())
    return {term: weight / total for term, weight in weights.items()}


def _covered(rarity: dict[str, float], text: str) -> float:
    """The share of the question's weight that a text has the words for."""
    present = set(_terms(text))
    return sum(weight for term, weight in rarity.items() if term in present)


def _features(
    passages: Sequence[Passage], kept: Sequence[Candidate], near: np.ndarray, rarity: dict[str, float]
) -> np.ndarray:
    """(sentences, 4): nearness and covered words, of the sentence and of its passage."""
    numbers = np.array([candidate.passage for candidate in kept])
    nearest = {number: float(near[numbers == number].max()) for number in set(numbers.tolist())}
    covered = {number: _covered(rarity, passages[number].text) for number in nearest}
    rows = [
        (near[row], nearest[c.passage], _covered(rarity, c.whole), covered[c.passage]) for row, c in enumerate(kept)
    ]
    return np.array(rows)


def _chosen(scored: Sequence[Scored]) -> list[Candidate]:
    """The sentences to quote in the order of their passages; none when the best is not near enough."""
    if not scored or scored[0].score < SUPPORTED:
        return []
    chosen: list[Candidate] = []
    for one in scored:
        if one.score < max(SUPPORTED, scored[0].score * _NEARLY) or len(chosen) == MOST_QUOTED:
            break
        if all(one.candidate.quote != other.quote for other in chosen):
            chosen.append(one.candidate)
    return sorted(chosen, key=lambda candidate: (candidate.passage, candidate.place))
