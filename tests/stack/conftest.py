"""A home for each test, and nothing left running in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.processes import ProcessId


@pytest.fixture(autouse=True)
def no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MINIRAG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for a stack; a test that leaves a process there fails."""
    folder = tmp_path / "home"
    yield folder
    left = processes_of(folder)
    for process in left:
        process.signal(signal.SIGKILL)
        process.wait(5.0)
    assert not left, f"left running: {left}"


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home)


def processes_of(home: Path) -> list[ProcessId]:
    """The processes that have to do with this home, by their command line or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            mentions = " ".join(process.cmdline()) + " ".join(process.environ().values())
        except psutil.Error:
            continue
        if f"{home}/" in mentions + "/" or f"{home}|" in mentions:
            found.append(ProcessId.of(process.pid))
    return [process for process in found if process and process.pid != os.getpid()]
