"""The embedded Chroma server."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.stack.files import checked_platform, read_json, write_json
from minirag_pipelines.stack.processes import (
    SERVICE_VARIABLE,
    ProcessId,
    end,
    free_port,
    rotate,
    spawn,
    tail,
    wait_until,
)

READY_TIMEOUT_S = 60.0
# What the program `chroma` does after importing the whole client: 0.13 s instead of 1.1 s, 40 MB instead of 116.
PROGRAM = "import sys, chromadb_rust_bindings; chromadb_rust_bindings.cli(['chroma', *sys.argv[1:]])"


class ChromaServer:
    """Chroma with its data in `<home>/chroma`. Whoever calls sees to it that only one process starts it."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.folder = self.home / "chroma"
        self.log = self.home / "logs" / "chroma.log"
        self.mark = f"{self.home}|chroma"
        self._memory = self.home / "chroma.json"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """As of the last start."""
        port = read_json(self._memory).get("port")
        if port is None:
            raise StackFailed("chroma", f"{self._memory} holds no port: it has not been started here yet.")
        return int(port)

    def process(self) -> ProcessId | None:
        """The server's process, whoever started it."""
        known = read_json(self._memory)
        process = ProcessId(known.get("pid", 0), known.get("born", ""))
        return process if process.alive() else None

    def running(self) -> bool:
        """Whether it answers."""
        return self.process() is not None and self._answers()

    def start(self) -> None:
        """Make it run; nothing happens when it does. Raises StackFailed."""
        checked_platform()
        if self.running():
            return
        self.stop()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        rotate(self.log)
        tried: set[int] = set()
        port = free_port(read_json(self._memory).get("port"))
        while not self._try_to_start(port):
            # The only failure that another attempt can help: somebody took the port since we looked.
            tried.add(port)
            if free_port(port) == port or len(tried) == 20:
                raise StackFailed("chroma", tail(self.log), str(self.log))
            port = free_port(taken=tried)

    def stop(self) -> bool:
        """Stop it, and what a killed starter left of it. Returns whether it ran."""
        return end(self.process(), self.mark)

    def _try_to_start(self, port: int) -> bool:
        command = [sys.executable, "-P", "-c", PROGRAM, "run"]
        command += ["--path", str(self.folder), "--host", "127.0.0.1", "--port", str(port)]
        env = dict(os.environ) | {SERVICE_VARIABLE: self.mark, "ANONYMIZED_TELEMETRY": "False", "NO_COLOR": "1"}
        process = spawn(command, env=env, log=self.log)
        write_json(self._memory, {"port": port, "pid": process.pid, "born": process.born})
        if not wait_until(lambda: not process.alive() or (self._answers() and process.listens(port)), READY_TIMEOUT_S):
            self.stop()
            raise StackFailed("chroma", f"it did not answer within {READY_TIMEOUT_S:.0f} s.", str(self.log))
        return process.alive()

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/api/v2/heartbeat")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
