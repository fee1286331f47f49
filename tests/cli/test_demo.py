"""The demo, as a person runs it: with the default models, on a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from minirag_pipelines.demo import generate

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "minirag-docs": ["architecture.md", "architecture.md", "configuration.md"],
    "harbour-handbook": ["safety-on-board.pdf", "working-time-and-leave.docx", "piers-and-keys.md"],
}


def demo(home: Path, *options: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MINIRAG_")}
    done = subprocess.run(
        [sys.executable, "-m", "minirag_pipelines.cli.main", "demo", *options],
        cwd=ROOT,
        env=environment | {"MINIRAG_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def counts(report: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [
        (
            told["sync"]["documents"]["parsed"],
            told["sync"]["documents"]["quarantined"],
            told["sync"]["embeddings"]["embedded"],
        )
        for told in report["tenants"]
    ]


@pytest.mark.stack
@pytest.mark.xdist_group("stack")
@pytest.mark.timeout(900)
def test_the_demo_cites_its_documents_keeps_tenants_apart_and_does_nothing_twice(tmp_path: Path) -> None:
    first = json.loads(demo(tmp_path / "home", "--json"))

    for told in first["tenants"]:
        assert all(answer["supported"] for answer in told["answers"])
        cited = [answer["documents"] for answer in told["answers"]]
        for expected, documents in zip(EXPECTED[told["tenant"]], cited, strict=True):
            assert expected in documents
        assert told["sync"]["status"] == "ok"
    handbook = first["tenants"][1]
    assert handbook["sync"]["documents"]["parsed"] == len(list(generate.HANDBOOK.iterdir()))
    assert handbook["answers"][0]["citations"][0]["page"] == 2

    assert [answer["tenant"] for answer in first["isolation"]] == ["harbour-handbook", "minirag-docs"]
    for answer in first["isolation"]:
        assert not answer["supported"]
        assert answer["citations"] == []

    again = demo(tmp_path / "home")
    assert again.count("known already, all of it used again: 0 parsed, 0 embedded") == 2
    assert "The key safe at North Pier opens with the code 4471. [1]" in again
    third = json.loads(demo(tmp_path / "home", "--json"))
    assert counts(third) == [(0, 0, 0), (0, 0, 0)]
    assert [told["added"] for told in third["tenants"]] == [False, False]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("working-time-and-leave.docx", lambda: generate.word(generate.LEAVE)),
        ("expenses-and-training.docx", lambda: generate.word(generate.EXPENSES)),
        ("fleet.xlsx", lambda: generate.excel(generate.FLEET)),
    ],
)
def test_the_handbook_s_office_files_are_what_the_generator_makes(name: str, made: Any) -> None:
    assert contents(made()) == contents((generate.HANDBOOK / name).read_bytes())


def test_the_handbook_s_pdf_is_what_the_generator_makes() -> None:
    assert generate.pdf(generate.SAFETY) == (generate.HANDBOOK / "safety-on-board.pdf").read_bytes()


def test_the_demo_s_documents_stay_small() -> None:
    assert sum(path.stat().st_size for path in generate.HANDBOOK.iterdir()) < 300_000


def contents(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(archive)) as held:
        return {name: held.read(name) for name in held.namelist()}
