"""Files to ingest: real ones, small generated ones, and what happens to them between two syncs."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

HISTORY = Path(__file__).parents[2] / "shared" / "data" / "docs-history" / "fastapi-docs.bundle"
_PARAGRAPH = re.compile(r"(?:\A|\n\n)([A-Za-z][^\n]{60,})(?=\n\n|\n?\Z)")


def base_snapshot(folder: Path) -> Path:
    """The oldest state of the documentation in ../shared/data/docs-history, written under `folder`."""
    if not HISTORY.is_file():
        raise SystemExit(f"{HISTORY} is not there: name a folder of documents with --source.")
    git = shutil.which("git")
    if git is None:
        raise SystemExit("git is not installed: name a folder of documents with --source.")
    repository, archive = folder / "history.git", folder / "base.tar"
    subprocess.run([git, "clone", "--quiet", "--bare", str(HISTORY), str(repository)], check=True)
    history = [git, f"--git-dir={repository}"]
    commits = subprocess.run(
        [*history, "rev-list", "--first-parent", "--reverse", "HEAD"], check=True, capture_output=True, text=True
    )
    subprocess.run([*history, "archive", "--output", str(archive), commits.stdout.split()[0]], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "base", filter="data")
    return folder / "base"


def copy_files(source: Path, folder: Path, most: int) -> list[Path]:
    """The first `most` files of the source, English ones first, copied with their folders."""
    found = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: _place(source, path))
    copies = []
    for path in found[:most]:
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copies.append(copy)
    return copies


def _place(source: Path, path: Path) -> tuple[bool, str]:
    return "en" not in path.relative_to(source).parts, str(path)


def edit_paragraphs(files: list[Path], count: int) -> int:
    """Add a sentence to one paragraph of each of the first `count` texts that have one; how many that were."""
    edited = 0
    for path in files:
        if edited == count:
            break
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = list(_PARAGRAPH.finditer(text))
        if found:
            end = found[len(found) // 2].end(1)
            path.write_text(f"{text[:end]} This sentence is new in {path.stem}.{text[end:]}", encoding="utf-8")
            edited += 1
    return edited


def rename_files(files: list[Path], count: int) -> int:
    """Give the last `count` files another name; how many that were."""
    for path in files[-count:]:
        path.rename(path.with_name(f"renamed-{path.name}"))
    return len(files[-count:])


def small_files(folder: Path, count: int) -> None:
    """`count` Markdown files of a heading and two short paragraphs, no two alike, 100 to a folder."""
    draw = random.Random(count)  # noqa: S311 - words, not secrets
    words = ["".join(draw.choices("aeiou" if i % 2 else "bdklmnrst", k=1)[0] for i in range(6)) for _ in range(4000)]
    for number in range(count):
        path = folder / f"{number // 100:04}" / f"{number:06}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        paragraphs = [f"{' '.join(draw.choices(words, k=45)).capitalize()} {number}." for _ in range(2)]
        path.write_text(f"# Item {number}\n\n" + "\n\n".join(paragraphs) + "\n", encoding="utf-8")
