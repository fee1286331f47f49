"""What does a sync cost? N real files, synced by the command through the running stack, beside the floor.

Cold, with nothing changed, with 30 files edited (a sentence each), with 30 renamed. See docs/benchmarks.md.
    .venv/bin/python -m benchmarks.sync [300] [--embedder fake|local] [--source DIR | --small] [--repeat 3]
    .venv/bin/python -m benchmarks.sync --in-process [--profile]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.material import base_snapshot, copy_files, edit_paragraphs, rename_files, small_files
from benchmarks.processes import run
from benchmarks.stack import (
    MODELS,
    PARTS,
    Stack,
    Sync,
    clear_environment,
    credentials,
    machine,
    provider,
    running_stack,
    work_folder,
)
from benchmarks.stages import syncs_in_process

CHANGED = 30
# What the command gives a tenant of either model by default.
TOKENS = {"fake": 512, "local": 254}
# What of the floor stands beside which part of a sync.
_FLOOR_PARTS = {"imports": "process", "parse": "documents", "chunk": "chunks", "embed": "embeddings", "upsert": "end"}
Column = dict[str, float]


@dataclass(frozen=True, slots=True)
class Given:
    files: int
    embedder: str
    source: Path | None
    repeat: int


def measured(stack: Stack, given: Given, source: Path, folder: Path) -> dict[str, Column]:
    """One column of figures for the floor and for each of the syncs, all on the same copy of the files."""
    files = copy_files(source, folder, given.files)
    model, tenant = MODELS[given.embedder], folder.name
    columns = {"floor": floor(stack, given, folder)}
    stack.add_tenant(tenant, folder, model)
    for name, change in changes(files).items():
        change()
        columns[name] = column(stack.sync(tenant))
    return columns


def changes(files: list[Path]) -> dict[str, Callable[[], object]]:
    """What happens to the files before each sync."""
    return {
        "cold": lambda: None,
        "no change": lambda: None,
        "edited": lambda: edit_paragraphs(files, CHANGED),
        "renamed": lambda: rename_files(files, CHANGED),
    }


def floor(stack: Stack, given: Given, folder: Path) -> Column:
    """The bare script on these files, as a command."""
    before = stack.counters("nobody")
    command = [sys.executable, "-m", "benchmarks.floor", str(folder), "--chroma", stack.chroma_url]
    command += ["--model", MODELS[given.embedder], "--tokens", str(TOKENS[given.embedder])]
    ended = run(command, stack.environment | {"PYTHONPATH": str(Path(__file__).parents[1])})
    said, after = json.loads(ended.output), stack.counters("nobody")
    shown = {f"s {part}": said["laps"][stage] for stage, part in _FLOOR_PARTS.items()}
    return {
        "seconds": ended.seconds,
        **shown,
        "s command": ended.seconds - sum(shown.values()),
        "cpu run": ended.cpu_s,
        "MiB run": said["peak_mib"],
        "chunks": said["chunks"],
        "provider calls": after.requests - before.requests,
        "texts embedded": after.texts - before.texts,
    }


def column(sync: Sync) -> Column:
    return {
        "seconds": sync.seconds,
        **{f"s {part}": sync.parts[part] for part in PARTS},
        **{f"cpu {name}": seconds for name, seconds in sync.cpu_s.items()},
        "MiB run": sync.run_mib,
        "MiB workers": sync.workers_mib,
        "chunks": sync.report["collection"]["chunks"],
        "provider calls": sync.provider_calls,
        "texts embedded": sync.texts,
        "Chroma writes": sync.chroma_writes,
        "rows written": sync.rows_written,
    }


def medians(repeated: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """Figure by figure."""
    return {
        name: {figure: median(one[name][figure] for one in repeated) for figure in first}
        for name, first in repeated[0].items()
    }


def with_ratios(columns: dict[str, Column]) -> dict[str, Column]:
    """Each column led by its seconds, and how often the floor's they are."""
    floor_s = columns["floor"]["seconds"]
    return {
        name: {"seconds": one["seconds"], "× floor": one["seconds"] / floor_s, **one} for name, one in columns.items()
    }


def table(columns: Mapping[str, Column]) -> str:
    """A column a sync, a row a figure; what does not apply is left open."""
    figures = list(dict.fromkeys(figure for name in reversed(list(columns)) for figure in columns[name]))
    rows = [["", *columns], *([figure, *(_shown(one, figure) for one in columns.values())] for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _shown(one: Column, figure: str) -> str:
    if figure not in one:
        return ""
    return f"{one[figure]:,.2f}" if figure.startswith(("s", "cpu", "×")) else f"{one[figure]:,.0f}"


def through_the_stack(given: Given, folder: Path, source: Path) -> dict[str, Any]:
    with running_stack(given.embedder, folder) as stack:
        # What is read and compiled for the first time is none of the sync's.
        warm = Given(5, given.embedder, given.source, 1)
        measured(stack, warm, source, folder / "warm")
        repeated = [measured(stack, given, source, folder / f"round-{i}") for i in range(given.repeat)]
    return with_ratios(medians(repeated))


def in_process(given: Given, folder: Path, source: Path, *, profiled: bool) -> None:
    files = copy_files(source, folder / "files", given.files)
    clear_environment()
    with provider(given.embedder) as provider_url:
        os.environ.update(credentials(provider_url))
        seconds, profiles = syncs_in_process(
            folder / "home",
            folder / "files",
            MODELS[given.embedder],
            TOKENS[given.embedder],
            profiled=profiled,
            changes=changes(files),
        )
    print(
        table(
            {
                name: {"seconds": sum(one.values()), **{f"s {k}": v for k, v in one.items()}}
                for name, one in seconds.items()
            }
        )
    )
    print(profiles)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", type=int, nargs="?", default=300)
    arguments.add_argument("--embedder", choices=sorted(MODELS), default="fake")
    arguments.add_argument("--source", type=Path, metavar="DIR")
    arguments.add_argument("--small", action="store_true", help="small generated files instead of real ones")
    arguments.add_argument("--repeat", type=int, default=1, help="rounds; the table shows medians")
    arguments.add_argument("--in-process", action="store_true", help="the stages alone, without Dagster")
    arguments.add_argument("--profile", action="store_true", help="in process: where each stage's time goes")
    asked = arguments.parse_args()
    given = Given(asked.files, asked.embedder, asked.source, asked.repeat)
    with work_folder() as folder:
        if asked.small:
            small_files(folder / "small", given.files)
        source = folder / "small" if asked.small else given.source or base_snapshot(folder)
        print(f"{given.files} files, embedder {given.embedder}; {machine()}", flush=True)
        if asked.in_process:
            in_process(given, folder, source, profiled=asked.profile)
        else:
            print(table(through_the_stack(given, folder, source)))
    print(f"At the end: {machine()}")


if __name__ == "__main__":
    main()
