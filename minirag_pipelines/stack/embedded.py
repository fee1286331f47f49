"""PostgreSQL and Chroma on this machine, up for as long as somebody uses them.

Users hold a shared lock on `<home>/users.lock`; whoever leaves and then gets it alone was the last, and stops the
servers. The kernel frees the lock of a user that is killed: the servers stay, and the next user adopts them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from minirag_pipelines.core.settings import ADDRESSES_FILE, Settings
from minirag_pipelines.stack.chroma import ChromaServer
from minirag_pipelines.stack.files import Lock, checked_platform, locked, read_json, write_json
from minirag_pipelines.stack.postgres import Postgres
from minirag_pipelines.stack.processes import accepts

DATABASE_ADDRESSES = ("database_url", "admin_database_url", "dagster_database_url")


@dataclass(frozen=True, slots=True)
class Stores:
    """The servers of a home, and which of them these settings leave to us."""

    home: Path
    postgres: Postgres | None
    chroma: ChromaServer | None

    @classmethod
    def of(cls, settings: Settings) -> Stores:
        """An address that the embedded stack itself has written down is not one that somebody chose."""
        home = settings.home.absolute()
        ours = read_json(home / ADDRESSES_FILE)
        database = settings.database_url.get_secret_value() if settings.database_url else None
        return cls(
            home,
            Postgres(home) if database in (None, ours.get("database_url")) else None,
            ChromaServer(home) if settings.chroma_url in (None, ours.get("chroma_url")) else None,
        )

    def start(self) -> None:
        """Start what is not running, and write the addresses down. Cheap when all is up. Raises StackFailed."""
        if self._up():
            return
        with locked(self.home / "start.lock"):
            if self._up():
                return
            found: dict[str, Any] = {}
            if self.postgres:
                from minirag_pipelines.stack import databases

                self.postgres.start()
                found |= databases.prepare(self.postgres)
                self.postgres.set_prepared()
            if self.chroma:
                self.chroma.start()
                found |= {"chroma_url": self.chroma.url}
            write_addresses(self.home, found)

    def stop(self) -> list[str]:
        """Stop them; the names of those that ran."""
        with locked(self.home / "start.lock"):
            chroma = self.chroma is not None and self.chroma.stop()
            postgres = self.postgres is not None and self.postgres.stop()
        return ["chroma"] * chroma + ["postgres"] * postgres

    def addressed(self, settings: Settings) -> Settings:
        """The settings with the addresses of these servers, and none of a PostgreSQL of ours beside another one."""
        ours = read_json(self.home / ADDRESSES_FILE)
        needed = (*DATABASE_ADDRESSES * bool(self.postgres), *["chroma_url"] * bool(self.chroma))
        if not ours.keys() >= set(needed):
            self.start()  # writes them down again
            ours = read_json(self.home / ADDRESSES_FILE)
        found: dict[str, Any] = {"home": self.home}
        for name in DATABASE_ADDRESSES:
            if self.postgres:
                found[name] = SecretStr(ours[name])
            elif (value := getattr(settings, name)) and value.get_secret_value() == ours.get(name):
                found[name] = None
        if self.chroma:
            found["chroma_url"] = ours["chroma_url"]
        return settings.model_copy(update=found)

    def _up(self) -> bool:
        ours = read_json(self.home / ADDRESSES_FILE)
        postgres = self.postgres is None or ("database_url" in ours and self.postgres.prepared())
        chroma = self.chroma is None or (
            "chroma_url" in ours and self.chroma.process() is not None and accepts(self.chroma.port)
        )
        return postgres and chroma


@contextlib.contextmanager
def available(settings: Settings) -> Iterator[Settings]:
    """The settings with addresses of a PostgreSQL and a Chroma that are up for as long as the block lasts.

    Servers of one's own (MINIRAG_DATABASE_URL, MINIRAG_CHROMA_URL) are taken as they are. Otherwise those of the home
    are used, and started first if they don't run. Raises StackFailed.
    """
    stores = Stores.of(settings)
    if stores.postgres is None and stores.chroma is None:
        yield stores.addressed(settings)
        return
    checked_platform()
    users = Lock(stores.home / "users.lock")
    try:
        users.shared()
        stores.start()
        yield stores.addressed(settings)
    finally:
        # Dagster's services, left behind by a supervisor that was killed, keep their stores until they are stopped.
        if users.exclusive(wait=False) and not orphans(stores.home):
            stores.stop()
        users.close()


def stop_unused(settings: Settings) -> list[str]:
    """Stop the servers of the home unless somebody uses them; the names of those stopped."""
    stores = Stores.of(settings)
    if not stores.home.is_dir():
        return []
    users = Lock(stores.home / "users.lock")
    try:
        return stores.stop() if users.exclusive(wait=False) else []
    finally:
        users.close()


def orphans(home: Path) -> list[str]:
    """The names of services of Dagster that run, by what their supervisor last wrote down."""
    from minirag_pipelines.stack.records import StackRecord

    return [name for name, process in StackRecord.read(home).services.items() if process.alive()]


def write_addresses(home: Path, found: dict[str, Any]) -> None:
    """Add to the addresses written down; None takes one away."""
    path = home / ADDRESSES_FILE
    known = read_json(path)
    wanted = {name: value for name, value in (known | found).items() if value is not None}
    if wanted != known:
        write_json(path, wanted)
