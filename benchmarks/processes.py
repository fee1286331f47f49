"""What processes take: time, processor seconds, and the most memory that each has held."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended well. `began_at` is in seconds of the epoch; `cpu_s` is its own, without children's."""

    output: str
    began_at: float
    seconds: float
    cpu_s: float

    @property
    def ended_at(self) -> float:
        return self.began_at + self.seconds


def run(command: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Run a program to its end. Stops the benchmark with what it said when it fails."""
    before = _children_cpu_s()
    began_at, began = time.time(), time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return Ended(ended.stdout, began_at, seconds, _children_cpu_s() - before)


def _children_cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


@dataclass
class Watch:
    """Looks at the processes below one, as long as it is the context: its children are runs, theirs are workers.

    `workers_mib` is the most that all workers held at an instant.
    """

    parent: int
    interval_s: float = 0.2
    runs_mib: dict[int, float] = field(default_factory=dict)
    workers_mib: float = 0.0
    runs_cpu_s: float = 0.0
    workers_cpu_s: float = 0.0

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self._cpu_s: dict[int, float] = {}
        self._workers: set[int] = set()

    @property
    def run_mib(self) -> float:
        """The most that a run's process has held."""
        return max(self.runs_mib.values(), default=0.0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.workers_cpu_s = sum(self._cpu_s[pid] for pid in self._workers)
        self.runs_cpu_s = sum(self._cpu_s.values()) - self.workers_cpu_s

    def _look_on(self) -> None:
        parent = psutil.Process(self.parent)
        known = {child.pid for child in parent.children(recursive=True)}
        while not self._done.wait(self.interval_s):
            held = 0.0
            for process in parent.children(recursive=True):
                if process.pid not in known:
                    held += self._look_at(process)
            self.workers_mib = max(self.workers_mib, held)

    def _look_at(self, process: psutil.Process) -> float:
        """What it holds now, in MiB, if it is a worker."""
        try:
            times, memory, above = process.cpu_times(), process.memory_info().rss / _MIB, process.ppid()
        except psutil.Error:
            return 0.0
        self._cpu_s[process.pid] = times.user + times.system
        if above == self.parent:
            self.runs_mib[process.pid] = max(self.runs_mib.get(process.pid, 0.0), peak_mib(process.pid) or memory)
            return 0.0
        self._workers.add(process.pid)
        return memory


def peak_mib(pid: int) -> float | None:
    """The most that a process has held so far, where the system says so."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
    return int(peak) / 1024 if peak else None
