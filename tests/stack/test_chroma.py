from __future__ import annotations

import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.stack import chroma as module
from minirag_pipelines.stack.chroma import ChromaServer
from minirag_pipelines.stack.processes import free_port

pytestmark = pytest.mark.stack


@pytest.fixture
def chroma(home: Path) -> Iterator[ChromaServer]:
    chroma = ChromaServer(home)
    yield chroma
    chroma.stop()


def test_it_starts_answers_and_stops_at_the_same_address(chroma: ChromaServer) -> None:
    chroma.start()
    url = chroma.url
    with urllib.request.urlopen(f"{url}/api/v2/heartbeat", timeout=5) as answer:  # noqa: S310 - a constant scheme
        assert answer.status == 200
    process = chroma.process()
    chroma.start()
    assert chroma.process() == process
    assert chroma.stop()
    assert not chroma.running()
    assert not chroma.stop()
    chroma.start()
    assert chroma.url == url


def test_it_listens_on_loopback_only_and_tells_nobody(chroma: ChromaServer) -> None:
    chroma.start()
    process = chroma.process()
    assert process is not None
    running = psutil.Process(process.pid)
    listening = [c for c in running.net_connections("all") if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
    assert running.environ()["ANONYMIZED_TELEMETRY"] == "False"
    assert chroma.folder.stat().st_mode & 0o777 == 0o700


def test_a_killed_one_is_started_again(chroma: ChromaServer) -> None:
    chroma.start()
    process = chroma.process()
    assert process is not None
    process.signal(signal.SIGKILL)
    assert process.wait(5)
    assert not chroma.running()
    chroma.start()
    assert chroma.running()


def test_one_that_was_started_but_not_written_down_is_replaced(chroma: ChromaServer) -> None:
    chroma.start()
    unknown = chroma.process()
    assert unknown is not None
    (chroma.home / "chroma.json").unlink()
    chroma.start()
    assert not unknown.alive()
    assert chroma.running()


def test_a_port_that_is_taken_between_the_look_and_the_start_is_exchanged(
    chroma: ChromaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answers = iter([port])
        monkeypatch.setattr(module, "free_port", lambda *a, **k: next(answers, None) or free_port(*a, **k))
        chroma.start()
        assert chroma.port != port
        assert chroma.running()


def test_one_that_can_not_start_says_why_and_names_its_log(chroma: ChromaServer) -> None:
    chroma.home.mkdir()
    chroma.folder.mkdir()
    (chroma.folder / "chroma.sqlite3").mkdir()
    with pytest.raises(StackFailed, match=r"chroma did not come up: .+chroma\.log"):
        chroma.start()
