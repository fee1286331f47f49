"""Plain text: the text of the document is the file itself, and elements are spans of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from minirag_pipelines.core.records import Element, ParsedDocument
from minirag_pipelines.ingest.parsers.encodings import decoded
from minirag_pipelines.ingest.parsers.pieces import Piece, storable
from minirag_pipelines.ingest.parsers.unstructured_setup import NO_LANGUAGES, prepare

# The most that may stand before an element without being in it: a bullet, a lone dash, a row of marks.
MAX_GAP_CHARS = 200

_INK = re.compile(r"\S")
_PARAGRAPH = re.compile(r"\S(?:.|\n(?!\s*\n))*")
_KINDS = {"Title": "title", "ListItem": "list_item"}


def parse_text(content: bytes) -> ParsedDocument:
    """The decoded file, without byte order mark and with lines ending in a line feed.

    Its titles are guesses by their look: they have no level, and the document takes no title from them.
    """
    source = decoded(content)
    text = storable(source.text) if source.text.strip() else ""
    return ParsedDocument(None, text, tuple(text_elements(text)), warnings=source.warnings)


def text_pieces(text: str) -> list[Piece]:
    """The elements of a text that is a part of something else, such as the body of a mail."""
    text = storable(text)
    return [Piece(element.kind, text[element.start : element.end], element.level) for element in text_elements(text)]


def text_elements(text: str) -> Sequence[Element]:
    """What unstructured finds in a text, as spans that cover all of it but for white space."""
    prepare()
    from unstructured.partition.text import partition_text

    if not text.strip():
        return []
    found = partition_text(text=text, languages=NO_LANGUAGES)
    kinds = [_KINDS.get(element.category, "text") for element in found]
    starts = _starts(text, [element.text for element in found])
    if starts is None:
        return [Element("text", match.start(), match.end()) for match in _PARAGRAPH.finditer(text)]
    return list(_spans(text, starts, kinds))


def _spans(text: str, starts: Sequence[int], kinds: Sequence[str]) -> Iterator[Element]:
    for start, end, kind in zip(starts, [*starts[1:], len(text)], kinds, strict=True):
        yield Element(kind, start, start + len(text[start:end].rstrip()))


def _starts(text: str, found: Sequence[str]) -> list[int] | None:
    """Where each found text begins, None when they are not this text but for white space and bullets.

    unstructured joins lines and drops bullets. What it dropped before an element is counted to that element.
    """
    starts: list[int] = []
    position = 0
    for each in found:
        ink = _INK.search(text, position)
        words = each.split()
        if ink is None or not words:
            return None
        end = _end_of(text, ink.start(), words)
        if end is None:
            return None
        starts.append(ink.start())
        position = end
    if len(text[position:].strip()) > MAX_GAP_CHARS or not starts:
        return None
    return starts


def _end_of(text: str, position: int, words: Sequence[str]) -> int | None:
    """Where these words end, read from here with nothing but white space between them and little before them."""
    first = text.find(words[0], position, position + MAX_GAP_CHARS + len(words[0]))
    while first >= 0:
        end: int | None = first + len(words[0])
        for word in words[1:]:
            ink = _INK.search(text, end or 0)
            if ink is None or not text.startswith(word, ink.start()):
                end = None
                break
            end = ink.start() + len(word)
        if end is not None:
            return end
        first = text.find(words[0], first + 1, position + MAX_GAP_CHARS + len(words[0]))
    return None
