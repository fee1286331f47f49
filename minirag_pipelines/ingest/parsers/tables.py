"""Records in rows: CSV, TSV, Excel; and JSON, as lines of names and values."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsers.archives import check_archive
from minirag_pipelines.ingest.parsers.encodings import decoded
from minirag_pipelines.ingest.parsers.pieces import Parsed, Piece, storable, table

DELIMITERS = ",;\t|"
SNIFFED_ROWS = 50
# Lines above a sheet's header, such as its title and date.
MAX_HEADER_ROWS = 5

_UNNAMED_SHEET = re.compile(r"[^\W\d]+ ?1")

Json = dict[str, "Json"] | list["Json"] | str | bool | None


def parse_csv(content: bytes) -> Parsed:
    """One table, split where its first rows agree to be split. Rows of another length are kept as they are."""
    source = decoded(content)
    text = storable(source.text)
    return Parsed(_table(_split(text, _delimiter(text))), warnings=source.warnings)


def parse_tsv(content: bytes) -> Parsed:
    source = decoded(content)
    return Parsed(_table(_split(storable(source.text), "\t")), warnings=source.warnings)


def parse_xlsx(content: bytes, limits: Limits) -> Parsed:
    """A table for each sheet, under the sheet's name. A formula is the value that was last computed for it."""
    check_archive(content, "workbook", limits)
    import openpyxl  # type: ignore[import-untyped]  # ships no types

    book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
    try:
        sheets = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what the file says of its own size is often wrong
            sheets.append((sheet.title, list(_filled(sheet.iter_rows(values_only=True)))))
        return Parsed(list(_sheets(sheets)), book.properties.title)
    finally:
        book.close()


def parse_xls(content: bytes) -> Parsed:
    import xlrd  # type: ignore[import-untyped]  # ships no types

    try:
        book = xlrd.open_workbook(file_contents=content, logfile=io.StringIO(), on_demand=True)
    except xlrd.XLRDError as error:
        if "encrypted" in str(error):
            raise DocumentUnreadable("encrypted", "The workbook is protected by a password.") from error
        raise
    sheets = []
    for sheet in book.sheets():
        rows = [[_old_cell(cell, book.datemode) for cell in sheet.row(number)] for number in range(sheet.nrows)]
        sheets.append((sheet.name, rows))
    return Parsed(list(_sheets(sheets)))


def parse_json(content: bytes, limits: Limits) -> Parsed:
    """A list gives an element for each item; an object one for its plain values and one for each value within."""
    source = decoded(content)
    text = storable(source.text).strip()
    if not text:
        return Parsed([])
    try:
        found = _loaded(text, limits)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and "\n" in text:
            return parse_ndjson(content, limits)
        raise DocumentUnreadable("corrupt", f"This is no JSON: line {error.lineno} is malformed.") from error
    return Parsed([Piece("text", block) for block in _blocks(found)], warnings=source.warnings)


def parse_ndjson(content: bytes, limits: Limits) -> Parsed:
    """An element for each line. A line that is no JSON is kept as it is, unless all are."""
    source = decoded(content)
    pieces: list[Piece] = []
    malformed: list[int] = []
    for number, line in enumerate(storable(source.text).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = "\n".join(_lines(_loaded(line, limits)))
        except json.JSONDecodeError:
            malformed.append(number)
            record = line
        pieces.append(Piece("text", record))
    if not malformed:
        return Parsed(pieces, warnings=source.warnings)
    if len(malformed) == len(pieces):
        raise DocumentUnreadable("corrupt", "No line of this is JSON.")
    warning = f"Lines that are no JSON and were kept as they are: {len(malformed)}, the first is line {malformed[0]}."
    return Parsed(pieces, warnings=(*source.warnings, warning))


def _split(text: str, delimiter: str) -> list[list[str]]:
    csv.field_size_limit(sys.maxsize)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def _delimiter(text: str) -> str:
    """The one by which most of the first rows have the same number of cells, and then the more cells the better."""
    head = text[: 64 * 1024]
    if len(head) < len(text):
        head = head.rpartition("\n")[0] or head

    def agreement(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in _split(head, delimiter)[:SNIFFED_ROWS] if any(cell.strip() for cell in row)]
        usual = max(set(widths), key=lambda width: (widths.count(width), width), default=1)
        return (widths.count(usual) / len(widths), usual) if usual > 1 else (0.0, 1)

    return max(DELIMITERS, key=agreement)


def _table(rows: Iterable[Sequence[str]]) -> list[Piece]:
    """The table, its header ending with the first row that has most of its columns: titles may stand above it."""
    filled = [row for row in rows if any(cell.strip() for cell in row)]
    widths = [sum(1 for cell in row if cell.strip()) for row in filled]
    header = next((i for i, width in enumerate(widths[:MAX_HEADER_ROWS]) if width > max(widths) / 2), 0)
    found = table(filled, header_rows=header + 1)
    return [found] if found else []


def _sheets(sheets: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> Iterator[Piece]:
    for name, rows in sheets:
        found = _table(rows)
        # The name that every new workbook's only sheet has says nothing.
        if found and not (len(sheets) == 1 and _UNNAMED_SHEET.fullmatch(name)):
            yield Piece("title", name, level=0)
        yield from found


def _filled(rows: Iterable[Sequence[object]]) -> Iterator[list[str]]:
    """The rows that hold anything, without their empty ends: formats alone can fill a sheet of 17 billion cells."""
    for row in rows:
        end = next((length for length in range(len(row), 0, -1) if row[length - 1] is not None), 0)
        if end:
            yield [_cell(value) for value in row[:end]]


def _cell(value: object) -> str:
    """A cell's value as the sheet would show it, without its format."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return format(value, ".15g")
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    return str(value)


def _old_cell(cell: Any, datemode: int) -> str:
    import xlrd

    if cell.ctype == xlrd.XL_CELL_DATE:
        try:
            return _cell(xlrd.xldate_as_datetime(cell.value, datemode))
        except (xlrd.XLDateError, OverflowError):
            return _cell(cell.value)
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return _cell(bool(cell.value))
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(cell.value, "#ERROR"))
    return _cell(cell.value)


def _loaded(text: str, limits: Limits) -> Json:
    """The value, its numbers as they are written. Raises DocumentUnreadable when it is nested too deep."""
    found: Json = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    level: list[Json] = [found]
    depth = 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
    limits.check_nesting(depth)
    return found


def _blocks(value: Json) -> Iterator[str]:
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield "\n".join(_lines(item))
    elif isinstance(value, dict):
        plain: Json = {name: item for name, item in value.items() if not isinstance(item, dict | list)}
        yield "\n".join(_lines(plain))
        for name, item in value.items():
            if isinstance(item, list) and any(isinstance(each, dict | list) for each in item):
                yield from ("\n".join(_lines(each, f"{name}.{i}")) for i, each in enumerate(item))
            elif isinstance(item, dict | list):
                yield "\n".join(_lines(item, name))
    else:
        yield "\n".join(_lines(value))


def _lines(value: Json, name: str = "") -> Iterator[str]:
    """`name.of.value: value`, a line each; a list of plain values is one line."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _lines(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value):
            yield from _lines(item, f"{name}.{i}" if name else str(i))
    else:
        items = value if isinstance(value, list) else [value]
        shown = ", ".join(_plain(item) for item in items)
        if shown.strip():
            yield f"{name}: {shown}" if name else shown


def _plain(value: Json) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
