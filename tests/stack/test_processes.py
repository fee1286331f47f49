from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.stack import processes
from minirag_pipelines.stack.files import Lock, checked_platform, read_json, write_json
from minirag_pipelines.stack.processes import SERVICE_VARIABLE, ProcessId, end, free_port, marked, spawn, wait_until

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def sleeping(folder: Path, program: str = "import time; time.sleep(60)") -> ProcessId:
    env = dict(os.environ) | {SERVICE_VARIABLE: f"{folder}|test", "PYTHONUNBUFFERED": "1"}
    return spawn([sys.executable, "-c", program], env=env, log=folder / "logs" / "test.log")


def test_a_process_is_not_taken_for_a_later_one_with_its_number() -> None:
    us = ProcessId.of(os.getpid())
    assert us is not None
    assert us.alive()
    assert not ProcessId(us.pid, us.born + "1").alive()


def test_a_process_that_has_ended_but_was_not_waited_for_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert ProcessId.of(child.pid) is None


def test_a_service_has_its_own_session_and_default_signals(home: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        program = "import os, signal; print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGINT).__name__)"
        process = sleeping(home, program)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.wait(10)
    assert (home / "logs" / "test.log").read_text() == "True default_int_handler\n"
    assert (home / "logs" / "test.log").stat().st_mode & 0o777 == 0o600


def test_ending_a_service_kills_children_that_do_not_listen(home: Path) -> None:
    process = sleeping(home, PARENT)
    log = home / "logs" / "test.log"
    assert wait_until(lambda: log.exists() and log.read_text().endswith("\n"), 10)
    child = ProcessId.of(int(log.read_text()))
    assert child is not None
    assert end(process, f"{home}|test", grace_s=0.5)
    assert not process.alive()
    assert not child.alive()


def test_what_a_killed_service_leaves_is_found_and_ended(home: Path) -> None:
    process = sleeping(home, PARENT)
    log = home / "logs" / "test.log"
    assert wait_until(lambda: log.exists() and log.read_text().endswith("\n"), 10)
    process.signal(signal.SIGKILL)
    assert process.wait(5)
    assert [left.pid for left in marked(f"{home}|test")] == [int(log.read_text())]
    assert end(None, f"{home}|test", grace_s=0.5)
    assert marked(f"{home}|test") == []
    assert not end(None, f"{home}|test")


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
        assert 20_000 <= free_port(port) < 32_000
    assert free_port(port) == port


def test_a_large_log_moves_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    log = tmp_path / "a.log"
    processes.rotate(log)
    log.write_text("short")
    processes.rotate(log)
    assert log.read_text() == "short"
    log.write_text("longer than that\n")
    processes.rotate(log)
    assert not log.exists()
    assert (tmp_path / "a.log.1").read_text() == "longer than that\n"


def test_a_file_of_ours_is_private_and_a_damaged_one_counts_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    path.write_text('{"a": ')
    assert read_json(path) == {}


def test_a_lock_excludes_others_until_it_is_closed(tmp_path: Path) -> None:
    one, two = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    one.shared()
    two.shared()
    assert not one.exclusive(wait=False)
    two.close()
    assert one.exclusive(wait=False)
    one.close()


def test_elsewhere_than_on_linux_and_macos_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(StackFailed, match="Set MINIRAG_DATABASE_URL and MINIRAG_CHROMA_URL"):
        checked_platform()
