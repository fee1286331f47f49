"""Imports point one way, and what is measured stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Who may import whom, beside itself.
MAY_IMPORT = {
    "minirag_pipelines.core": set(),
    "minirag_pipelines.ingest": {"minirag_pipelines.core"},
    "minirag_pipelines.stack": {"minirag_pipelines.core"},
    "minirag_pipelines.defs": {"minirag_pipelines.core", "minirag_pipelines.ingest"},
    "minirag_pipelines.definitions": {"minirag_pipelines.defs"},
    "minirag_serving": {"minirag_pipelines.core"},
    "minirag_pipelines.cli": {
        "minirag_pipelines.core",
        "minirag_pipelines.ingest",
        "minirag_pipelines.stack",
        "minirag_pipelines.definitions",
        "minirag_serving",
    },
}
MODULES = sorted(
    path for package in ("minirag_pipelines", "minirag_serving") for path in (ROOT / package).rglob("*.py")
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(module: str) -> str | None:
    return next((part for part in MAY_IMPORT if module == part or module.startswith(part + ".")), None)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(module_name(path))
    if part is None:
        return
    reached = {target for name in imported(path) if (target := part_of(name))} - {part}
    assert reached <= MAY_IMPORT[part], f"{module_name(path)} must not import {reached - MAY_IMPORT[part]}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_dagster_is_imported_by_its_definitions_only(path: Path) -> None:
    part = part_of(module_name(path))
    if part in ("minirag_pipelines.defs", "minirag_pipelines.definitions"):
        return
    tree = ast.parse(path.read_text())
    late_or_typing = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.If) for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in late_or_typing:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not any(name.split(".")[0] == "dagster" for name in names)


def loaded_by(statement: str) -> set[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


def test_serving_loads_neither_dagster_nor_what_only_the_pipeline_needs() -> None:
    loaded = loaded_by("import minirag_serving")
    assert not loaded & {"dagster", "unstructured", "pandas", "litellm", "chromadb", "onnxruntime"}


def test_the_definitions_load_neither_models_nor_parsers() -> None:
    loaded = loaded_by("import minirag_pipelines.definitions")
    assert not loaded & {"litellm", "unstructured", "pandas", "chromadb", "onnxruntime", "pypdfium2"}


def test_the_command_line_starts_light() -> None:
    loaded = loaded_by("import minirag_pipelines.cli.main")
    assert not loaded & {"dagster", "litellm", "unstructured", "pandas", "chromadb", "onnxruntime", "alembic"}
