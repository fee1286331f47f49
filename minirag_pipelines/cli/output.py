"""What the command prints: JSON for programs on stdout, tables for people, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Into a file or a pipe, each row of a table is one line.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: object) -> None:
    """One JSON document on stdout; ids, times and decimals as strings and numbers."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=_plain) + "\n")


def print_done(done: object, sentence: str, *, as_json: bool) -> None:
    """What a command has done: in JSON, or in a sentence."""
    if as_json:
        print_json(done)
    else:
        out.print(sentence, markup=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or one sentence when there is nothing to show. Cells are text, never markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    if table.row_count:
        out.print(table)
    else:
        out.print(empty)


def shown(cell: object) -> str:
    """A cell as people read it."""
    if cell is None:
        return "–"
    if isinstance(cell, datetime):
        return cell.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return str(cell)


def say(sentence: str) -> None:
    """A line for people, on stderr, so that what is piped on stays clean."""
    err.print(Text(sentence))


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal, nothing elsewhere; the yielded function changes its words."""
    if not err.is_terminal:
        yield lambda words: None
        return
    with err.status(Text(what)) as status:
        yield lambda words: status.update(Text(words))


def _plain(value: Any) -> object:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return float(value)
