"""Dagster's three services: what starts them, what they find in their environment, and whether they are well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.files import read_json, write_json
from minirag_pipelines.stack.processes import SERVICE_VARIABLE, ProcessId, end, free_port, rotate, spawn

CODE_LOCATION, WEBSERVER, DAEMON = "code-location", "webserver", "daemon"
NAMES = (CODE_LOCATION, WEBSERVER, DAEMON)
DEFINITIONS = "minirag_pipelines.definitions"
UI_PORT = 3000  # Dagster's own

HEALTH = """{
  workspaceOrError { ... on Workspace { locationEntries {
    locationOrLoadError { __typename ... on PythonError { message } } } } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } }
}"""


@dataclass(frozen=True, slots=True)
class Service:
    """A program of Dagster's. `mark` is how its processes are found again."""

    name: str
    command: list[str]
    log: Path
    mark: str

    def start(self, environment: dict[str, str]) -> ProcessId:
        rotate(self.log)
        return spawn(self.command, env=environment | {SERVICE_VARIABLE: self.mark}, log=self.log)


def mark(home: Path, name: str) -> str:
    return f"{home}|{name}"


def end_service(home: Path, name: str, process: ProcessId | None) -> bool:
    """End it and what it left; also what nobody wrote down. Returns whether anything ran."""
    return end(process, mark(home, name))


def services(home: Path, ports: dict[str, int], definitions: str) -> list[Service]:
    """In the order in which they are started.

    `dagster api grpc` rather than `dagster code-server start`: one process instead of two, 100 MB less and 1.5 s
    sooner. What it lacks is reading the code again while it runs, for which the stack is started again.
    """
    workspace = str(dagster_files()[1])
    address = ["-h", "127.0.0.1", "-p"]
    location = ["api", "grpc", "-m", definitions, "-a", "defs", "--location-name", "minirag"]
    location += ["--empty-working-directory", *address, str(ports[CODE_LOCATION])]
    commands = {
        CODE_LOCATION: [*_program("dagster", "dagster"), *location],
        WEBSERVER: [
            *_program("dagster-webserver", "dagster_webserver"),
            *["-w", workspace, *address, str(ports[WEBSERVER])],
        ],
        DAEMON: [*_program("dagster-daemon", "dagster._daemon"), "run", "-w", workspace],
    }
    return [Service(name, commands[name], home / "logs" / f"{name}.log", mark(home, name)) for name in NAMES]


def choose_ports(known: dict[str, int]) -> dict[str, int]:
    """The known ones as far as they are free."""
    code_location = free_port(known.get(CODE_LOCATION))
    return {CODE_LOCATION: code_location, WEBSERVER: free_port(known.get(WEBSERVER, UI_PORT), taken=[code_location])}


def port_is_free(name: str, ports: dict[str, int]) -> bool:
    """Whether the service could listen at its port; true of one that has none."""
    return name not in ports or free_port(ports[name]) == ports[name]


def environment(settings: Settings) -> dict[str, str]:
    """Ours, with every setting spelt out."""
    given = dict(os.environ)
    # Without compiled bytecode every run takes twice as long to start.
    given.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            given[f"MINIRAG_{name.upper()}"] = str(value)
    return given | {"PYTHONUNBUFFERED": "1"}


def dagster_home(home: Path) -> Path:
    """The folder of Dagster's instance, with our configuration in it."""
    folder = home / "dagster"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(dagster_files()[0], folder / "dagster.yaml")
    return folder


def prepare_schema(environment: dict[str, str]) -> None:
    """Make Dagster's tables, or bring them to the installed version: once for each version and database.

    Left to themselves the three services make them at the same time and get into each other's way: now and then one
    gives up. Raises StackFailed.
    """
    done = Path(environment["DAGSTER_HOME"]) / "schema.json"
    address = urlsplit(environment["MINIRAG_DAGSTER_DATABASE_URL"])
    wanted = {"dagster": version("dagster"), "database": f"{address.hostname}{address.path}"}
    if read_json(done) == wanted:
        return
    migrate = subprocess.run(
        [*_program("dagster", "dagster"), "instance", "migrate"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # out of reach of a terminal's Ctrl-C
    )
    if migrate.returncode != 0:
        lines = (migrate.stderr + migrate.stdout).strip().splitlines()
        raise StackFailed("dagster", f"its tables can't be made: {lines[-1] if lines else 'it does not say why'}")
    write_json(done, wanted)


def dagster_files() -> tuple[Path, Path]:
    """`dagster.yaml` and `workspace.yaml`: beside this module when installed, at the top of a checkout."""
    here = Path(__file__).parent
    for folder in (here, here.parents[1]):
        files = folder / "dagster.yaml", folder / "workspace.yaml"
        if all(file.is_file() for file in files):
            return files
    raise StackFailed("dagster", f"dagster.yaml and workspace.yaml are missing beside {here}.")


def ailing(webserver: ProcessId, ui_port: int, since: float) -> dict[str, str]:
    """The services that are not well, with the reason; all that can be asked is asked of the webserver.

    `since`, in seconds of the epoch, is when they were started: a heartbeat from before is another daemon's.
    """
    if not webserver.listens(ui_port):  # a stack of another home may answer there, and be well
        return {WEBSERVER: "it does not listen yet"}
    try:
        answer = _graphql(ui_port, HEALTH)
        locations = answer["workspaceOrError"]["locationEntries"]
        daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        return {WEBSERVER: f"it does not answer: {error}"}
    found = {}
    for location in [entry["locationOrLoadError"] for entry in locations] or [None]:
        if location is None or location["__typename"] == "PythonError":
            found[CODE_LOCATION] = (location or {}).get("message", "").strip().split("\n")[0] or "it is loading"
    silent = [
        daemon["daemonType"].lower()
        for daemon in daemons
        if daemon["required"] and not (daemon["healthy"] and (daemon["lastHeartbeatTime"] or 0) >= since)
    ]
    if silent or not daemons:
        found[DAEMON] = f"no heartbeat yet of {', '.join(silent)}"
    return found


def _graphql(port: int, query: str) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request(
            "POST", "/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        return json.loads(connection.getresponse().read())["data"]
    finally:
        connection.close()


def _program(script: str, module: str) -> list[str]:
    """The script beside our interpreter: `python -m` would let modules of the current folder hide installed ones."""
    path = Path(sys.executable).parent / script
    return [sys.executable, str(path)] if path.is_file() else [sys.executable, "-m", module]
