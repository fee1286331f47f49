"""Files to ingest: real ones, small generated ones, and what happens to them between two syncs."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
from pathlib import Path

HISTORY = Path(__file__).parents[2] / "shared" / "data" / "docs-history" / "fastapi-docs.bundle"
_PARAGRAPH = re.compile(r"(?:\A|\n\n)([A-Za-z][^\n]{60,})(?=\n\n|\n?\Z)")


class History:
    """Real commits of a documentation: Markdown files below docs/<language>/. `commits` are hashes, oldest first."""

    def __init__(self, folder: Path) -> None:
        if not HISTORY.is_file():
            raise SystemExit(f"{HISTORY} is not there.")
        git = shutil.which("git")
        if git is None:
            raise SystemExit("git is not installed.")
        repository = folder / "history.git"
        subprocess.run([git, "clone", "--quiet", "--bare", str(HISTORY), str(repository)], check=True)
        self._git = [git, "-c", "core.quotepath=off", f"--git-dir={repository}"]
        self.commits = self._said("rev-list", "--first-parent", "--reverse", "HEAD").decode().split()

    def spread(self, steps: int) -> list[str]:
        """The oldest commit and, evenly spread over the others, `steps` later ones."""
        each = max(1, (len(self.commits) - 1) // steps)
        return self.commits[0 : each * steps + 1 : each]

    def languages(self, commit: str) -> list[str]:
        return sorted({name.split("/")[1] for name in self.files(commit, "docs")})

    def files(self, commit: str, below: str) -> dict[str, str]:
        """The git id of each file's content, by its path."""
        listed = self._said("ls-tree", "-r", "-z", commit, f"{below}/").decode().split("\0")
        return {line.partition("\t")[2]: line.split()[2] for line in listed if line}

    def write(self, commit: str, below: str, folder: Path) -> None:
        """Bring a folder from any other commit to this one; files that are alike in both are not touched."""
        wanted = self.files(commit, below)
        there = {str(path.relative_to(folder)): _git_id(path) for path in folder.rglob("*") if path.is_file()}
        for name in sorted(there.keys() - wanted.keys()):
            (folder / name).unlink()
        for name in sorted(name for name in wanted if there.get(name) != wanted[name]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(self._said("cat-file", "blob", wanted[name]))

    def _said(self, *command: str) -> bytes:
        return subprocess.run([*self._git, *command], check=True, capture_output=True).stdout


def _git_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's name for it


def base_snapshot(folder: Path) -> Path:
    """The oldest state of the documentation in ../shared/data/docs-history, written under `folder`."""
    history = History(folder)
    (folder / "base").mkdir()
    history.write(history.commits[0], "docs", folder / "base")
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
