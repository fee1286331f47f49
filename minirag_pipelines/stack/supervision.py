"""One run of the stack: its services are started, watched, started again and stopped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from minirag_pipelines.core.errors import MiniRAGError, StackFailed
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack import services as dagster
from minirag_pipelines.stack.databases import dagster_database_url
from minirag_pipelines.stack.embedded import Stores, available, write_addresses
from minirag_pipelines.stack.processes import ProcessId, tail, wait_until
from minirag_pipelines.stack.records import ServicePhase, StackRecord

READY_TIMEOUT_S = 120.0
STEADY_S = 60.0  # a service that lived this long is started again at once


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line to a person."""

    service: str
    state: ServicePhase
    text: str


OnEvent = Callable[[Event], None]


class Supervision:
    """Made for one run, under the lock of the home's only supervisor."""

    def __init__(self, settings: Settings, on_event: OnEvent, definitions: str, stopping: threading.Event) -> None:
        self._settings = settings
        self._on_event = on_event
        self._definitions = definitions
        self._stopping = stopping
        self._home = settings.home.absolute()
        self._record = StackRecord()
        self._addressed = settings
        self._environment: dict[str, str] = {}
        self._started_at: dict[str, float] = {}
        self._elsewhere = 0
        self._seen: dict[str, ProcessId | None] = {}
        self._attempts: dict[str, int] = {}
        self._next_attempt_at: dict[str, float] = {}

    def run(self) -> None:
        left = StackRecord.read(self._home)
        for name in reversed(dagster.NAMES):
            if dagster.end_service(self._home, name, left.services.get(name)):
                self._say(name, "stopped", "was left running by a stack that was killed; stopped")
        supervisor = ProcessId.of(os.getpid())
        self._record = StackRecord("starting", supervisor, ports=left.ports)
        self._record.write(self._home)
        try:
            self._say("stack", "starting", f"starting in {self._home}")
            for name in self._stores():
                self._say(name, "starting", "starting")
            with available(self._settings) as addressed:
                try:
                    self._run_dagster(addressed)
                finally:
                    self._record.phase = "stopping"
                    self._stop_dagster()
            self._record.phase = "stopped"
        except MiniRAGError as error:
            self._record.phase = "failed"
            if isinstance(error, StackFailed):
                self._record.error = {"service": error.service, "reason": error.reason, "log": error.log}
            else:
                self._record.error = {"service": "stack", "reason": str(error), "log": None}
            raise
        finally:
            if self._record.phase not in ("stopped", "failed"):
                self._record.phase = "failed"
            self._record.write(self._home)
            self._say("stack", "stopped", "stopped")

    def _run_dagster(self, addressed: Settings) -> None:
        self._seen = self._stores()
        for name in self._seen:
            self._say(name, "running", "running")
        self._start_dagster(addressed)
        if not self._wait_until_well():
            return
        self._record.phase = "running"
        self._record.write(self._home)
        self._say("stack", "running", f"up: {self._environment['MINIRAG_UI_URL']}")
        while not self._stopping.wait(0.5):
            try:
                self._look_after_stores()
                self._look_after_dagster()
            except MiniRAGError as error:
                self._say("stack", "failed", f"{error} Trying again.")
                self._stopping.wait(5.0)

    def _start_dagster(self, addressed: Settings) -> None:
        """Start all three, at the addresses of the stores as they are now."""
        self._addressed = addressed
        if not Stores.of(self._settings).postgres:
            addressed = addressed.model_copy(
                update={"dagster_database_url": SecretStr(dagster_database_url(addressed))}
            )
        ports = self._record.ports = dagster.choose_ports(self._record.ports)
        here = {
            "home": self._home,
            "admin_database_url": None,
            "ui_url": f"http://127.0.0.1:{ports[dagster.WEBSERVER]}",
            "code_location_host": "127.0.0.1",
            "code_location_port": ports[dagster.CODE_LOCATION],
        }
        self._environment = dagster.environment(addressed.model_copy(update=here))
        self._environment["DAGSTER_HOME"] = str(dagster.dagster_home(self._home))
        dagster.prepare_schema(self._environment)
        write_addresses(self._home, {name: here[name] for name in ("ui_url", "code_location_port")})
        for service in self._services():
            self._start(service)
            if service.name == dagster.CODE_LOCATION:
                # A daemon that does not find it fails each run that it is to launch, for up to ten seconds.
                self._wait_until_it_listens(service.name)

    def _wait_until_it_listens(self, name: str) -> None:
        """Or is dead, or has taken too long: both are found later."""
        process, port = self._record.services[name], self._record.ports[name]
        wait_until(lambda: self._stopping.is_set() or not process.alive() or process.listens(port), READY_TIMEOUT_S)

    def _start(self, service: dagster.Service) -> None:
        self._say(service.name, "starting", "starting")
        self._started_at[service.name] = time.time()
        self._record.services[service.name] = service.start(self._environment)
        self._record.write(self._home)

    def _wait_until_well(self) -> bool:
        """Whether all came up; False when told to stop meanwhile. Raises StackFailed."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = dict.fromkeys(dagster.NAMES, "")
        while waiting:
            if self._stopping.wait(0.1):
                return False
            if dead := [service for service in self._services() if not self._record.services[service.name].alive()]:
                self._start_elsewhere(dead[0])
                waiting = dict.fromkeys(dagster.NAMES, "")
            webserver = self._record.services[dagster.WEBSERVER]
            ailing = dagster.ailing(
                webserver, self._record.ports[dagster.WEBSERVER], since=min(self._started_at.values())
            )
            if dagster.WEBSERVER not in ailing:
                for name in [name for name in waiting if name not in ailing]:
                    self._say(name, "running", "running")
                    del waiting[name]
            waiting |= {name: reason for name, reason in ailing.items() if name in waiting}
            if waiting and time.monotonic() > deadline:
                name = next((name for name, reason in waiting.items() if reason), dagster.WEBSERVER)
                raise StackFailed(name, waiting[name], str(self._home / "logs" / f"{name}.log"))
        return True

    def _start_elsewhere(self, dead: dagster.Service) -> None:
        """Start again at other ports when another program took one since we looked. Raises StackFailed otherwise."""
        self._elsewhere += 1
        # The other program may be gone again by now.
        taken = not dagster.port_is_free(dead.name, self._record.ports) or "already in use" in tail(dead.log)
        if not taken or self._elsewhere > 3:
            raise StackFailed(dead.name, tail(dead.log, 1), str(dead.log))
        self._stop_dagster()
        self._start_dagster(self._addressed)

    def _look_after_stores(self) -> None:
        dead = [name for name, process in self._stores().items() if process is None]
        if dead and self._may_try(*dead):
            for name in dead:
                self._say_dead(name)
            try:
                Stores.of(self._settings).start()
            except StackFailed as error:
                self._say(error.service, "failed", str(error))
                return
        for name, process in self._stores().items():
            if process and process != self._seen[name]:
                if name not in dead:  # it died while the other was being started, or a command started it again
                    self._say_dead(name)
                self._say(name, "running", "running again")
                self._seen[name] = process
        addressed = Stores.of(self._settings).addressed(self._settings)
        if (addressed.database_url, addressed.chroma_url) != (self._addressed.database_url, self._addressed.chroma_url):
            # A port was taken meanwhile. The environment of a running process can't be changed.
            self._stop_dagster()
            self._start_dagster(addressed)

    def _look_after_dagster(self) -> None:
        for service in self._services():
            process = self._record.services.get(service.name)
            if process and process.alive():
                if time.time() - self._started_at[service.name] > STEADY_S:
                    self._attempts.pop(service.name, None)
            elif self._may_try(service.name):
                self._say_dead(service.name)
                # What a dead code location leaves behind would answer at its port, beside the new one.
                dagster.end_service(self._home, service.name, process)
                if dagster.port_is_free(service.name, self._record.ports):
                    self._start(service)
                else:
                    self._stop_dagster()
                    self._start_dagster(self._addressed)
                    return

    def _may_try(self, *names: str) -> bool:
        """Whether it is time for the next attempt; each comes later than the one before."""
        now = time.monotonic()
        if any(now < self._next_attempt_at.get(name, 0.0) for name in names):
            return False
        for name in names:
            attempts = self._attempts[name] = self._attempts.get(name, 0) + 1
            self._next_attempt_at[name] = now + min(0.5 * 2 ** min(attempts, 6), 30.0)
        return True

    def _stop_dagster(self) -> None:
        """The daemon first, so that it does not launch a run at a code location that is going."""
        write_addresses(self._home, {"ui_url": None, "code_location_port": None})
        for name in reversed(dagster.NAMES):
            process = self._record.services.pop(name, None)
            if process:
                dagster.end_service(self._home, name, process)
                self._say(name, "stopped", "stopped")
        self._record.write(self._home)

    def _services(self) -> list[dagster.Service]:
        return dagster.services(self._home, self._record.ports, self._definitions)

    def _stores(self) -> dict[str, ProcessId | None]:
        """The stores that are ours to keep up, with their processes."""
        stores = Stores.of(self._settings)
        found = {}
        if stores.postgres:
            found["postgres"] = stores.postgres.process()
        if stores.chroma:
            found["chroma"] = stores.chroma.process()
        return found

    def _say_dead(self, name: str) -> None:
        self._say(name, "failed", f"has died; starting it again. Its log: {self._home / 'logs' / f'{name}.log'}")

    def _say(self, service: str, state: ServicePhase, text: str) -> None:
        self._on_event(Event(service, state, text))
