"""A TCP proxy that a test puts before a server, to spoil what passes through it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

Fault = Literal[
    "cut before",  # the connection ends before the server is told
    "cut after",  # the server has answered, but the client never hears of it
    "hang",  # nobody answers, and the server is not told
    "late",  # as "hang"; the server is told when the test says so
]


@dataclass
class _Passing:
    client: socket.socket
    server: socket.socket
    deaf: bool = False
    late: bool = False
    held: list[bytes] | None = None
    answered: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Proxy:
    """Listens while its context lasts. `arm` spoils the next request that holds a pattern, all others pass."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._passing: list[_Passing] = []
        self._armed: tuple[Fault, bytes] | None = None
        self._skip = 0
        self.struck = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arm(self, fault: Fault, pattern: bytes, *, skip: int = 0) -> None:
        self.struck.clear()
        self._armed, self._skip = (fault, pattern), skip

    def release(self) -> None:
        """Tell the server now what was held back, and wait until it has answered."""
        (passing,) = [one for one in self._passing if one.late and one.held]
        assert passing.held is not None
        passing.server.sendall(b"".join(passing.held))
        assert passing.answered.wait(30)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for passing in self._passing:
            passing.end()
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            passing = _Passing(client, socket.create_connection(self._server))
            self._passing.append(passing)
            self._start(self._to_server, passing)
            self._start(self._to_client, passing)

    def _to_server(self, passing: _Passing) -> None:
        with suppress(OSError):
            while data := passing.client.recv(65536):
                if passing.held is not None:
                    passing.held.append(data)
                    continue
                fault = self._fault(data)
                if fault == "cut before":
                    break
                if fault in ("hang", "late"):
                    passing.deaf, passing.late, passing.held = True, fault == "late", [data]
                    self.struck.set()
                    continue
                # A request's head and its body may come one by one.
                passing.deaf = passing.deaf or fault == "cut after"
                passing.server.sendall(data)
                if fault:
                    self.struck.set()
            if passing.held is not None:
                # The client has given up; what is held may still be told.
                return
        passing.end()

    def _to_client(self, passing: _Passing) -> None:
        with suppress(OSError):
            while data := passing.server.recv(65536):
                if passing.deaf:
                    passing.answered.set()
                    break
                passing.client.sendall(data)
        passing.end()

    def _fault(self, data: bytes) -> Fault | None:
        if self._armed is None or self._armed[1] not in data:
            return None
        if self._skip:
            self._skip -= 1
            return None
        fault, self._armed = self._armed[0], None
        self.struck.set()
        return fault
