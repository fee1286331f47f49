"""Processes that outlive the one that started them: started, recognised and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import SystemRandom

from minirag_pipelines.core.errors import StackFailed

SERVICE_VARIABLE = "MINIRAG_STACK_SERVICE"
LOG_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from any later one with the same number by when it began."""

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The living process with this number. None when there is none, or only its exit status is left."""
        born = _born(pid)
        return cls(pid, born) if born else None

    def alive(self) -> bool:
        return _born(self.pid) == self.born

    def signal(self, number: signal.Signals) -> None:
        """Nothing happens when it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it is gone before the time is up."""
        return wait_until(lambda: not self.alive(), timeout_s)

    def listens(self, port: int) -> bool:
        """Whether it is this process that accepts connections on the port, and not another program."""
        import psutil

        try:
            connections = psutil.Process(self.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _born(pid: int) -> str | None:
    """When the process began: boot and clock ticks since then, which no change of the clock moves."""
    if sys.platform != "linux":
        return _born_by_clock(pid)
    try:
        # The name, in brackets, may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        _reap(pid)
        return None
    return f"{_boot()}:{fields[19]}"


def _born_by_clock(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            _reap(pid)
            return None
        return str(process.create_time())
    except psutil.NoSuchProcess:
        return None


@lru_cache(maxsize=1)
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def spawn(command: list[str], *, env: Mapping[str, str], log: Path) -> ProcessId:
    """Start a program in a session of its own, its output going to the end of `log`.

    In its own session a terminal's Ctrl-C does not reach it. Signals are at their defaults: a shell's `&` leaves
    SIGINT ignored, and Dagster makes SIGTERM do what SIGINT does.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pid = os.posix_spawn(
        command[0],
        command,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD],
    )
    return ProcessId.of(pid) or ProcessId(pid, "")


def rotate(log: Path) -> None:
    """Move a log that has grown large aside, over the one before it."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


def marked(mark: str) -> list[ProcessId]:
    """The processes that began with SERVICE_VARIABLE at `mark`.

    Children inherit the variable, so this finds what a dead service has left, and what was started by a supervisor
    that was killed before it could write that down.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(SERVICE_VARIABLE) == mark:
                found.append(ProcessId.of(process.pid))
    return [process for process in found if process and process.pid != os.getpid()]


def end(leader: ProcessId | None, mark: str, *, grace_s: float = 10.0) -> bool:
    """End a service and all that it started, killing what takes longer. Returns whether anything was running.

    Asked to end are its first process and that one's children (the runs of a code location), but not theirs: a run
    that is ending must not take the death of its own workers for failures.
    """
    import psutil

    asked = [leader] if leader and leader.alive() else marked(mark)
    if leader in asked:
        with contextlib.suppress(psutil.Error):
            children = [ProcessId.of(child.pid) for child in psutil.Process(leader.pid).children()]
            asked += [child for child in children if child]
    for process in asked:
        process.signal(signal.SIGTERM)
    wait_until(lambda: not any(process.alive() for process in asked), grace_s)
    left = marked(mark)
    for process in left:
        process.signal(signal.SIGKILL)
    wait_until(lambda: not any(process.alive() for process in left), 5.0)
    return bool(asked or left)


def end_all(processes: list[ProcessId], *, grace_s: float) -> None:
    """SIGTERM to each, then SIGKILL."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        living = [process for process in processes if process.alive()]
        for process in living:
            process.signal(number)
        if wait_until(lambda: not any(process.alive() for process in processes), patience_s):
            break


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time; asked often at first, then ten times a second."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
    return True


def accepts(port: int) -> bool:
    """Whether something on this machine accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(preferred: int | None = None, *, taken: Iterable[int] = ()) -> int:
    """A port of 127.0.0.1 that nobody listens on: the preferred one if it is free.

    Below the range that systems give to outgoing connections, so that it is still free after a restart.
    """
    taken = set(taken)
    candidates = [SystemRandom().randrange(20_000, 32_000) for _ in range(200)]
    for port in ([preferred] if preferred else []) + candidates:
        with socket.socket() as probe:
            # As servers do: a port that only has connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in taken:
            return port
    raise StackFailed("stack", "no port between 20000 and 32000 is free.")


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log that say something, in one line."""
    try:
        text = log.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])
