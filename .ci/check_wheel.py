"""Whether a wheel holds both packages whole, with the files that are not code, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("minirag_pipelines", "minirag_serving")
# Files that lie elsewhere in a checkout.
MOVED = {
    "minirag_pipelines/stack/dagster.yaml": "dagster.yaml",
    "minirag_pipelines/stack/workspace.yaml": "workspace.yaml",
    "minirag_pipelines/demo/README.md": "README.md",
}
DOCS = "minirag_pipelines/demo/docs/"


def expected() -> set[str]:
    """The names that a wheel of this checkout must have."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    names = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    docs = {DOCS + path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()}
    return names | docs | set(MOVED)


def problems(wheel: Path) -> list[str]:
    """What is missing from a wheel, and what should not be there; a sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = expected()
    return [f"missing: {name}" for name in sorted(wanted - held)] + [
        f"not ours: {name}" for name in sorted(held - wanted)
    ]


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or f"{Path(sys.argv[1]).name} is whole")
    sys.exit(bool(found))
