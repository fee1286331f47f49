"""Question and hits → an answer whose every mark [n] is a citation."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from minirag_pipelines.core.providers.models import ChatModel, Passage, Question, Reply, Turn
from minirag_pipelines.core.providers.tokenizers import sentences
from minirag_serving.records import Answer, Citation, Hit

MOST_SENTENCES = 3  # in a quote
MOST_CHARACTERS = 600

_NUMBERS = r"\[\s*\d{1,3}(?:\s*[,;]\s*\d{1,3})*\s*\]"
_TOKEN = re.compile(rf"`+|\s*{_NUMBERS}|\n")
# What may go on in the next piece: backticks, white space in front of a mark, a mark not yet closed.
_UNFINISHED = re.compile(r"(?:`+|\s*\[[\d\s,;]*|\s+)\Z")
_WORD = re.compile(r"\w+")


def answer(
    question: str, hits: Sequence[Hit], model: ChatModel, *, instructions: str = "", history: Sequence[Turn] = ()
) -> Answer:
    """The model's answer from the hits, with citations.

    Raises ProviderUnavailable when asking again may help, ProviderRefused when it can't.
    """
    began = time.monotonic()
    reply = model.answer(_question(question, hits, instructions, history))
    marks = Marks(hits)
    text = marks.read(reply.text) + marks.end()
    return _answer(text, marks, hits, reply, time.monotonic() - began)


def stream(
    question: str, hits: Sequence[Hit], model: ChatModel, *, instructions: str = "", history: Sequence[Turn] = ()
) -> Iterator[str | Answer]:
    """As `answer`: its text piece by piece, then the whole. The pieces together are the answer's text."""
    began = time.monotonic()
    marks = Marks(hits)
    pieces: list[str] = []
    for part in model.stream(_question(question, hits, instructions, history)):
        piece = marks.read(part) if isinstance(part, str) else marks.end()
        if piece:
            pieces.append(piece)
            yield piece
        if isinstance(part, Reply):
            yield _answer("".join(pieces), marks, hits, part, time.monotonic() - began)
            return


class Marks:
    """Reads an answer's marks as it comes, and drops those that name no hit. `invented` counts the dropped.

    [1, 2] becomes [1][2]. What stands in backticks is code, where [0] is no mark.
    """

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._ranks = {hit.rank for hit in hits}
        self._held = ""
        self._fence = ""
        self._begun = False
        self.invented = 0

    def read(self, text: str) -> str:
        """What of the answer so far, beyond what was returned before, can be shown."""
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        unfinished = _UNFINISHED.search(text)
        shown = text[: unfinished.start()] if unfinished else text
        self._held = text[len(shown) :]
        return _TOKEN.sub(self._replaced, shown)

    def end(self) -> str:
        """What was held back, without white space at the end."""
        held, self._held = self._held, ""
        return _TOKEN.sub(self._replaced, held).rstrip()

    def _replaced(self, token: re.Match[str]) -> str:
        text = token[0]
        if "\n" in text and self._fence in {"`", "``"}:  # inline code ends with its line
            self._fence = ""
        if text == "\n":
            return text
        if text.startswith("`"):
            if not self._fence:
                self._fence = text
            elif self._fence == text:
                self._fence = ""
            return text
        if self._fence:
            return text
        named = [int(number) for number in re.findall(r"\d+", text)]
        known = [rank for rank in named if rank in self._ranks]
        self.invented += len(named) - len(known)
        space = text[: len(text) - len(text.lstrip())]
        return space + "".join(f"[{rank}]" for rank in known) if known else ""


def claims(text: str) -> dict[int, str]:
    """What an answer says on the authority of each rank it names: the sentences that bear the mark."""
    said: dict[int, list[str]] = {}
    latest = ""
    for sentence in _sentences(_without_code(text)):
        words = " ".join(re.sub(_NUMBERS, " ", sentence).split())
        # Marks may stand behind the full stop: "… in 30 days. [1] The next …".
        behind = re.match(rf"(?:\s*{_NUMBERS})*", sentence)
        length = behind.end() if behind else 0
        for rank in _ranks(sentence[:length]):
            said.setdefault(rank, []).append(latest or words)
        latest = words or latest
        for rank in _ranks(sentence[length:]):
            said.setdefault(rank, []).append(latest)
    return {rank: " ".join(dict.fromkeys(parts)) for rank, parts in said.items()}


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():  # items of a list are claims of their own
        apart = re.sub(rf"(?<=[.!?])(?={_NUMBERS})", " ", line)
        yield from (apart[start:end] for start, end in sentences(apart))


def _ranks(text: str) -> list[int]:
    return [int(number) for mark in re.findall(_NUMBERS, text) for number in re.findall(r"\d+", mark)]


def _without_code(text: str) -> str:
    """The text with the brackets in code blanked, every character in its place."""
    code = re.compile(r"(```+)(?s:.*?)(?:\1|\Z)|(?<!`)(`{1,2})(?!`)[^\n]*?\2(?!`)")
    return code.sub(lambda found: re.sub(r"[\[\]]", " ", found[0]), text)


def quote(text: str, claim: str) -> tuple[int, int]:
    """The half-open span of the sentences, at most three in a row, that share most with a claim.

    Nothing shared, as in another language: the first sentence.
    """
    spans = list(_quotable(text)) or [(0, len(text))]
    wanted = _words(claim)
    best, best_score = spans[0], 0.0
    for first, (start, _) in enumerate(spans):
        for _, end in spans[first : first + MOST_SENTENCES]:
            if end - start > MOST_CHARACTERS:
                break
            found = _words(text[start:end])
            score = 2 * len(wanted & found) / (len(wanted) + len(found) or 1)
            if score > best_score:
                best, best_score = (start, end), score
    return best


def _quotable(text: str) -> Iterator[tuple[int, int]]:
    """The spans of a text's sentences; of one too long to quote, those of its lines, cut short."""
    for start, end in sentences(text):
        if end - start <= MOST_CHARACTERS:
            yield start, end
            continue
        for line in re.finditer(r"\S[^\n]*", text[start:end]):
            yield start + line.start(), start + min(line.end(), line.start() + MOST_CHARACTERS)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _question(question: str, hits: Sequence[Hit], instructions: str, history: Sequence[Turn]) -> Question:
    passages = tuple(Passage(hit.rank, hit.text, hit.headings, hit.title) for hit in hits)
    return Question(question, passages, instructions, tuple(history))


def _answer(text: str, marks: Marks, hits: Sequence[Hit], reply: Reply, seconds: float) -> Answer:
    said = claims(text) if reply.supported else {}
    citations = tuple(_citation(hit, said[hit.rank]) for hit in hits if hit.rank in said)
    supported = reply.supported and bool(citations)
    return Answer(text, citations, supported, reply.model, reply.usage, marks.invented, seconds)


def _citation(hit: Hit, claim: str) -> Citation:
    start, end = quote(hit.text, claim)
    # A chunk that repeats a table's header is longer than its span: there, positions can't be carried over.
    exact = len(hit.text) == hit.span[1] - hit.span[0]
    span = (hit.span[0] + start, hit.span[0] + end) if exact else hit.span
    return Citation(hit.rank, hit.chunk_id, hit.document_id, hit.uri, hit.page, span, hit.text[start:end])
