"""What the supervisor writes down, so that others can see and end what it started, also after it was killed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from minirag_pipelines.stack.files import read_json, write_json
from minirag_pipelines.stack.processes import ProcessId

STACK_FILE = "stack.json"
StackPhase = Literal["starting", "running", "stopping", "stopped", "failed"]


@dataclass(slots=True)
class StackRecord:
    """The stack of one home. `error` says why it failed (what StackFailed is made of), `ports` are to be used again."""

    phase: StackPhase = "stopped"
    supervisor: ProcessId | None = None
    services: dict[str, ProcessId] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    error: dict[str, str | None] | None = None

    @classmethod
    def read(cls, home: Path) -> StackRecord:
        """As last written; of a stack that never ran, when there is nothing or nothing that can be read."""
        found: dict[str, Any] = read_json(home / STACK_FILE)
        try:
            return cls(
                found["phase"],
                ProcessId(**found["supervisor"]) if found["supervisor"] else None,
                {name: ProcessId(**process) for name, process in found["services"].items()},
                found["ports"],
                found["error"],
            )
        except (KeyError, TypeError):
            return cls()

    def write(self, home: Path) -> None:
        write_json(home / STACK_FILE, asdict(self))


ServicePhase = Literal["running", "stopped", "starting", "failed"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    name: str
    state: ServicePhase
    pid: int | None
    log: Path


@dataclass(frozen=True, slots=True)
class StackState:
    """What of the stack runs. `ui_url` is None unless the whole of it is up."""

    phase: StackPhase
    services: tuple[ServiceState, ...]
    ui_url: str | None
    supervisor_pid: int | None
