"""The whole stack on this machine: starts it, watches it, stops it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from minirag_pipelines.core.errors import AlreadyUp, MiniRAGError, StackFailed
from minirag_pipelines.core.settings import ADDRESSES_FILE, Settings
from minirag_pipelines.core.settings import settings as process_settings
from minirag_pipelines.stack import services as dagster
from minirag_pipelines.stack.embedded import Stores, stop_unused, write_addresses
from minirag_pipelines.stack.files import Lock, checked_platform, read_json
from minirag_pipelines.stack.processes import ProcessId, rotate, spawn, tail, wait_until
from minirag_pipelines.stack.records import ServicePhase, ServiceState, StackRecord, StackState
from minirag_pipelines.stack.supervision import READY_TIMEOUT_S, Event, OnEvent, Supervision

LOCK_FILE = "supervisor.lock"


def run(settings: Settings, on_event: OnEvent, *, definitions: str = dagster.DEFINITIONS) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP. Raises AlreadyUp, or StackFailed with the log to look at."""
    checked_platform()
    home = settings.home.absolute()
    lock = Lock(home / LOCK_FILE)
    try:
        if not lock.exclusive(wait=False):
            raise _already_up(home)
        with _told_to_stop() as stopping:
            Supervision(settings, on_event, definitions, stopping).run()
    finally:
        lock.close()


def start_detached(settings: Settings, *, definitions: str = dagster.DEFINITIONS) -> StackState:
    """Run the stack in a process of its own; returns when it is up. Raises AlreadyUp or StackFailed."""
    checked_platform()
    home = settings.home.absolute()
    if _supervised(home):
        raise _already_up(home)
    log = home / "logs" / "stack.log"
    rotate(log)
    program = "from minirag_pipelines.stack.supervisor import main; main()"
    stores = Stores.of(settings)
    chosen = settings.model_copy(
        update={"home": home, "ui_url": None, "code_location_port": None}
        | ({"database_url": None, "admin_database_url": None, "dagster_database_url": None} if stores.postgres else {})
        | ({"chroma_url": None} if stores.chroma else {})
    )
    process = spawn([sys.executable, "-P", "-c", program, definitions], env=dagster.environment(chosen), log=log)

    def settled() -> bool:
        return not process.alive() or (
            (record := StackRecord.read(home)).supervisor == process and record.phase == "running"
        )

    wait_until(settled, READY_TIMEOUT_S + 60.0)
    if process.alive() and settled():
        return state(settings)
    record = StackRecord.read(home)
    process.signal(signal.SIGTERM)
    process.wait(30.0)
    if record.supervisor == process and record.error:
        raise StackFailed(str(record.error["service"]), str(record.error["reason"]), record.error["log"])
    raise StackFailed("stack", tail(log), str(log))


def stop(settings: Settings) -> list[str]:
    """Stop the stack, and what a killed one has left; the names of the services stopped.

    PostgreSQL and Chroma stay up while a command uses them: it stops them when it ends.
    """
    home = settings.home.absolute()
    if not home.is_dir():
        return []
    running = [service.name for service in state(settings).services if service.pid]
    record = StackRecord.read(home)
    if record.supervisor and record.supervisor.alive():
        record.supervisor.signal(signal.SIGTERM)
        if not record.supervisor.wait(60.0):
            record.supervisor.signal(signal.SIGKILL)
            record.supervisor.wait(5.0)
        record = StackRecord.read(home)
    for name in reversed(dagster.NAMES):
        if dagster.end_service(home, name, record.services.get(name)) and name not in running:
            running.append(name)
    stop_unused(settings)
    if record.phase != "stopped":
        write_addresses(home, {"ui_url": None, "code_location_port": None})
        StackRecord(ports=record.ports).write(home)
    still = {service.name for service in state(settings).services if service.pid}
    return [name for name in reversed(running) if name not in still]


def state(settings: Settings) -> StackState:
    """What runs now, by the processes themselves rather than by what was written down."""
    home = settings.home.absolute()
    stores = Stores.of(settings)
    record = StackRecord.read(home)
    supervisor = record.supervisor if record.supervisor and record.supervisor.alive() else None
    found = []
    if stores.postgres:
        found.append(_service_state("postgres", stores.postgres.process(), stores.postgres.log, record, supervisor))
    if stores.chroma:
        found.append(_service_state("chroma", stores.chroma.process(), stores.chroma.log, record, supervisor))
    for name in dagster.NAMES:
        process = record.services.get(name)
        process = process if process and process.alive() else None
        found.append(_service_state(name, process, home / "logs" / f"{name}.log", record, supervisor))
    phase = record.phase if supervisor or record.phase in ("stopped", "failed") else "failed"
    up = supervisor is not None and record.phase == "running"
    return StackState(phase, tuple(found), _ui_url(home) if up else None, supervisor.pid if supervisor else None)


def main() -> None:
    """What `start_detached` runs; its events go to a log."""

    def say(event: Event) -> None:
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {event.service}: {event.text}", flush=True)

    try:
        run(process_settings(), say, definitions=sys.argv[1])
    except MiniRAGError as error:
        sys.exit(str(error))


@contextlib.contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that is set by the first signal to stop; a second one interrupts whatever we are waiting for."""
    stopping = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, told) for number in signals}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _supervised(home: Path) -> bool:
    lock = Lock(home / LOCK_FILE)
    try:
        return not lock.exclusive(wait=False)
    finally:
        lock.close()


def _already_up(home: Path) -> AlreadyUp:
    supervisor = StackRecord.read(home).supervisor
    return AlreadyUp(supervisor.pid if supervisor else None, _ui_url(home))


def _ui_url(home: Path) -> str | None:
    url = read_json(home / ADDRESSES_FILE).get("ui_url")
    return str(url) if url else None


def _service_state(
    name: str, process: ProcessId | None, log: Path, record: StackRecord, supervisor: ProcessId | None
) -> ServiceState:
    coming = supervisor is not None and record.phase in ("starting", "running")
    if process:
        found: ServicePhase = "starting" if coming and record.phase == "starting" else "running"
    else:
        found = "starting" if coming else "stopped"
    if record.error and record.error["service"] == name and not process:
        found = "failed"
    return ServiceState(name, found, process.pid if process else None, log)
