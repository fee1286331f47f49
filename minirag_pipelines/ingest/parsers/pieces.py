"""What every parser yields, and how it becomes a parsed document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from minirag_pipelines.core.records import Element, ParsedDocument

if TYPE_CHECKING:
    from unstructured.documents.elements import Element as UnstructuredElement

Tag: TypeAlias = Any  # an element of lxml, which ships no types

MAX_TITLE_CHARS = 300
_NEW_LINES = re.compile(r"\r\n?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_KINDS = {"Title": "title", "ListItem": "list_item", "CodeSnippet": "code"}


@dataclass(frozen=True, slots=True)
class Piece:
    """An element that does not know yet where it will stand. `header_end` counts from the piece's own start."""

    kind: str
    text: str
    level: int | None = None
    page: int | None = None
    header_end: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one parser found, in reading order."""

    pieces: Sequence[Piece]
    title: str | None = None
    pages: int | None = None
    warnings: tuple[str, ...] = ()


def storable(text: str) -> str:
    """The text as PostgreSQL can hold it and people can read it: same length, but for carriage returns.

    NUL and the other C0 controls become spaces, lone surrogates U+FFFD; lines end in a line feed.
    """
    text = _NEW_LINES.sub("\n", text) if "\r" in text else text
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub(" ", text))


def title_text(title: str | None) -> str | None:
    """A title on one line, None when nothing is left of it."""
    words = " ".join(storable(title).split()) if title else ""
    return words[:MAX_TITLE_CHARS].rstrip() or None


def assemble(parsed: Parsed) -> ParsedDocument:
    """The document whose text is its pieces with an empty line between them."""
    texts: list[str] = []
    elements: list[Element] = []
    position = 0
    for piece in map(_trimmed, parsed.pieces):
        if not piece.text:
            continue
        position += 2 if texts else 0
        end = position + len(piece.text)
        header_end = None if piece.header_end is None else position + piece.header_end
        elements.append(Element(piece.kind, position, end, piece.level, piece.page, header_end))
        texts.append(piece.text)
        position = end
    title = title_text(parsed.title) or first_heading(parsed.pieces)
    return ParsedDocument(title, "\n\n".join(texts), tuple(elements), parsed.pages, parsed.warnings)


def first_heading(pieces: Iterable[Piece]) -> str | None:
    """The text of the first outermost heading. A guessed title, one without a level, is none."""
    levels = [piece for piece in pieces if piece.kind == "title" and piece.level is not None]
    outermost = min(levels, key=lambda piece: piece.level or 0, default=None)
    return title_text(outermost.text) if outermost else None


def table(rows: Iterable[Sequence[str]], *, header_rows: int = 1, page: int | None = None) -> Piece | None:
    """Rows as lines of cells joined by " | ", the header first; None when no cell holds anything.

    Rows and columns in which every cell is empty are left out.
    """
    # Cleaned here, so that no later step moves the end of the header.
    cleaned = [[" ".join(storable(cell).split()) for cell in row] for row in rows]
    filled = [row for row in cleaned if any(row)]
    used = sorted({column for row in filled for column, cell in enumerate(row) if cell})
    if not used:
        return None
    lines = [" | ".join(_without_tail([row[column] for column in used if column < len(row)])) for row in filled]
    header = sum(len(line) + 1 for line in lines[:header_rows]) if 0 < header_rows < len(lines) else None
    return Piece("table", "\n".join(lines), page=page, header_end=header)


def _without_tail(cells: list[str]) -> list[str]:
    while not cells[-1]:
        cells.pop()
    return cells


def pieces_of(elements: Iterable[UnstructuredElement]) -> list[Piece]:
    """Elements of unstructured as pieces. Tables are laid out as rows again, from the HTML it keeps of them."""
    pieces: list[Piece] = []
    for element in elements:
        page = element.metadata.page_number
        if element.category == "Table":
            pieces += _table_pieces(element.text, element.metadata.text_as_html, page)
            continue
        kind = _KINDS.get(element.category, "text")
        level = (element.metadata.category_depth or 0) if kind == "title" else None
        pieces.append(Piece(kind, element.text, level, page))
    return pieces


def _table_pieces(text: str, markup: str | None, page: int | None) -> list[Piece]:
    """A caption, if there is one, and the table. Without markup (a table of very many cells) the text as it is."""
    if not markup:
        return [Piece("table", text, page=page)]
    from lxml import html  # type: ignore[import-untyped]  # ships no types

    root = html.fragment_fromstring(markup)
    captions = [Piece("text", " ".join(node.itertext()), page=page) for node in root.iter("caption")]
    rows = list(root.iter("tr"))
    header_rows = next((i for i, row in enumerate(rows) if not _is_header(row)), len(rows))
    found = table(grid(rows), header_rows=header_rows or 1, page=page)
    return [*captions, found] if found else captions


def _is_header(row: Tag) -> bool:
    parent = row.getparent()
    return (parent is not None and parent.tag == "thead") or {cell.tag for cell in row} == {"th"}


def grid(rows: Sequence[Tag]) -> list[list[str]]:
    """Cells in their columns: a cell that spans rows is said in each of them, so that each row stands by itself."""
    grid: list[list[str]] = []
    below: dict[int, tuple[int, str]] = {}
    for row in rows:
        cells: list[str] = []
        spanning: dict[int, tuple[int, str]] = {}
        for cell in row.iterchildren("td", "th"):
            while len(cells) in below:
                cells.append(_spanned(below, spanning, len(cells)))
            text = " ".join(cell.itertext())
            if (height := _span(cell, "rowspan")) > 1:
                spanning[len(cells)] = (height - 1, text)
            cells += [text] + [""] * (_span(cell, "colspan") - 1)
        while len(cells) in below:
            cells.append(_spanned(below, spanning, len(cells)))
        grid.append(cells)
        below = spanning
    return grid


def _spanned(below: dict[int, tuple[int, str]], spanning: dict[int, tuple[int, str]], column: int) -> str:
    left, text = below[column]
    if left > 1:
        spanning[column] = (left - 1, text)
    return text


def _span(cell: Tag, name: str) -> int:
    value = cell.get(name, "1")
    return min(int(value), 1000) if value.isdecimal() and int(value) > 0 else 1


def _trimmed(piece: Piece) -> Piece:
    """The piece with storable text and no white space around it; a listing keeps its first line's indentation."""
    if piece.kind == "table" and piece.header_end is not None:
        return piece
    text = storable(piece.text)
    text = text.rstrip().lstrip("\n") if piece.kind == "code" else text.strip()
    return replace(piece, text=text)
