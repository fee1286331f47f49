"""PostgreSQL: connecting, and transactions that belong to one tenant.

Every transaction sets its tenant for itself, so a pooled connection carries nothing over, and runs as `minirag_app`, a
role that owns nothing and bypasses nothing: with no tenant set, no row is seen.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import psycopg
import psycopg_pool
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import RowMaker, namedtuple_row

from minirag_pipelines.core.errors import (
    DatabaseUnavailable,
    InvalidInput,
    RehearsalInterrupted,
    SchemaOutdated,
    SyncInProgress,
    WriterSuperseded,
)

SCHEMA_VERSION = "0003"
OWNER, OPERATOR, APP = "minirag_owner", "minirag_operator", "minirag_app"
_log = logging.getLogger(__name__)

# Shared: all that works for a run holds it, and it goes with the last of them.
HOLD_RUN = "SELECT pg_advisory_lock_shared(%s)"
# Well below the time after which a vector that nothing needs may be deleted.
LATE_S = 2.0
# One row for everybody who waits for this session; `writer` says that it is for the right to write.
_KEPT_WAITING = (
    b"SELECT locktype = 'advisory' AS writer FROM pg_locks"
    b" WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)) ORDER BY writer DESC LIMIT 1"
)
_LOOK_S = 0.5
Row = Any  # a named tuple: a field a column


def _rows(cursor: psycopg.Cursor[Any]) -> RowMaker[Row]:
    return namedtuple_row(cursor)


@cache
def statements(package: str, name: str) -> Mapping[str, bytes]:
    """The statements of one .sql file, by the name in the `-- name:` line above each."""
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {title: body.strip().encode() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction of one tenant. The caller owns it; stores run their statements through it."""

    connection: psycopg.Connection[Row]
    tenant_id: str

    def run(self, statement: bytes, **parameters: object) -> psycopg.Cursor[Row]:
        """Run a named statement; `tenant_id` is always among its parameters."""
        return self.connection.execute(statement, {"tenant_id": self.tenant_id, **parameters})

    def one(self, statement: bytes, **parameters: object) -> Row:
        """The row of a statement that always has one."""
        row = self.run(statement, **parameters).fetchone()
        if row is None:
            raise LookupError(statement.decode())
        return row

    def set(self) -> None:
        self.connection.execute("SELECT set_config('minirag.tenant_id', %s, true)", [self.tenant_id])


@contextmanager
def transaction(connection: psycopg.Connection[Row], tenant_id: str) -> Iterator[Transaction]:
    """A transaction of one tenant, READ COMMITTED, on a connection that the caller has."""
    with connection.transaction():
        opened = Transaction(connection, tenant_id)
        opened.set()
        yield opened


@contextmanager
def snapshot(connection: psycopg.Connection[Row], tenant_id: str) -> Iterator[Transaction]:
    """A read-only transaction of one tenant in which everything is seen as of one instant."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    try:
        with transaction(connection, tenant_id) as opened:
            yield opened
    finally:
        if not connection.closed:
            connection.isolation_level = None
            connection.read_only = None


class Database:
    """A pool of connections to MiniRAG's database. Close it, or use it as a context manager."""

    def __init__(self, url: str, *, max_connections: int = 8) -> None:
        self._conninfo = _app_conninfo(url)
        self.address = address(url)
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=0,
            max_size=max_connections,
            open=False,
            timeout=30,
            check=psycopg_pool.ConnectionPool.check_connection,
            kwargs={"autocommit": True, "row_factory": _rows},
        )
        self._checked = False

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Row]]:
        """A connection with no tenant set, outside any transaction: it sees no tenant's rows."""
        if not self._checked:
            # A pool retries in the background and then says only that it timed out.
            connect(self._conninfo, self.address).close()
            self._pool.open()
            self._checked = True
        try:
            with self._pool.connection() as connection:
                yield connection
        except psycopg_pool.PoolTimeout as error:
            raise DatabaseUnavailable(self.address, "no connection became free within 30 s.") from error
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(self.address, first_line(error)) from error
        except (UnicodeEncodeError, psycopg.DataError) as error:
            if isinstance(error, UnicodeEncodeError) or "NUL" in str(error):
                raise InvalidInput("text", "holds a character that can't be stored (NUL, or half of one).") from error
            raise

    @contextmanager
    def transaction(self, tenant_id: str) -> Iterator[Transaction]:
        """A transaction of one tenant, READ COMMITTED."""
        with self.connection() as connection, transaction(connection, tenant_id) as opened:
            yield opened

    @contextmanager
    def writer(
        self, tenant_id: str, run_id: str | None = None, *, wait_s: float = 0.0, for_rehearsal: bool = False
    ) -> Iterator[Writer]:
        """The one writer of a tenant, on a connection of its own, for as long as the block lasts.

        `run_id` is the Dagster run that writes; None where no run does.
        Raises SyncInProgress when another process is writing this tenant and does not end within `wait_s`.
        """
        writer = Writer(connect(self._conninfo, self.address), tenant_id, run_id or str(uuid.uuid4()), self.address)
        try:
            writer.lock(wait_s, for_rehearsal=for_rehearsal)
            yield writer
        finally:
            writer.close()


class Writer:
    """The right to write one tenant: an advisory lock, and an epoch that is checked in every commit.

    The lock and all of the writer's transactions share one connection, so losing it ends both. The epoch is claimed
    with the first write: it stops a process that slept through the loss of its lock.
    """

    def __init__(self, connection: psycopg.Connection[Row], tenant_id: str, run_id: str, address: str) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self.run_id = run_id
        self._address = address
        self._epoch: int | None = None
        self._checked_at = 0.0

    def lock(self, wait_s: float = 0.0, *, for_rehearsal: bool = False) -> None:
        """Take the run's lock, which says that it lives, and the tenant's. Raises SyncInProgress after `wait_s`.

        A rehearsal that has the tenant's lock sees that somebody waits, and gives way; not to another rehearsal.
        """
        key = _lock_key("tenant", self.tenant_id)
        with self._translated():
            self._one(HOLD_RUN, _lock_key("run", self.run_id))
            locked = self._one("SELECT pg_try_advisory_lock(%s)", key)
            if not locked and wait_s > 0:
                locked = self._lock_unseen(key, wait_s) if for_rehearsal else self._lock_seen(key, wait_s)
        if not locked:
            raise SyncInProgress(self.tenant_id)

    def _lock_seen(self, key: int, wait_s: float) -> bool:
        with suppress(psycopg.errors.LockNotAvailable), self.connection.transaction():
            self.connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{wait_s * 1000:.0f}ms"])
            self._one("SELECT pg_advisory_lock(%s)", key)
            return True
        return False

    def _lock_unseen(self, key: int, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            time.sleep(0.2)
            if self._one("SELECT pg_try_advisory_lock(%s)", key):
                return True
        return False

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction of the tenant that writes nothing but temporary tables."""
        with self._translated(), transaction(self.connection, self.tenant_id) as opened:
            yield opened

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction of the tenant that commits only while this is the tenant's writer.

        Raises WriterSuperseded when another process has taken over.
        """
        with self.reading() as opened:
            if self._epoch is None:
                claimed = opened.run(
                    b"UPDATE tenant SET writer_epoch = writer_epoch + 1 WHERE tenant_id = %(tenant_id)s"
                    b" RETURNING writer_epoch"
                ).fetchone()
                if claimed is None:
                    raise WriterSuperseded(self.tenant_id)
                epoch = claimed.writer_epoch
            else:
                epoch = self._epoch
                self._check(opened, epoch)
            self._checked_at = _clock_s()
            yield opened
        self._epoch = epoch

    @contextmanager
    def rehearsing(self) -> Iterator[Writer]:
        """A writer whose transactions are parts of one that is undone at the end: what it writes, nobody else sees.

        Rows that it has written are locked meanwhile. It looks twice a second, between its statements, whether somebody
        waits for them, and then raises RehearsalInterrupted; or for the right to write, and then raises SyncInProgress.
        """
        with self._translated(), self.connection.transaction(force_rollback=True):
            yield _Rehearsal(self.connection, self.tenant_id, self.run_id, self._address)

    def pages(
        self, statement: bytes, key: str, *, most: int, after: object = uuid.UUID(int=0), **parameters: object
    ) -> Iterator[list[Row]]:
        """A statement's rows, page by page behind the last `key`; the caller may write between two of them.

        The statement orders by its key and takes `after` and `most`. Each page is a transaction of its own.
        """
        while True:
            with self.reading() as opened:
                rows = opened.run(statement, after=after, most=most, **parameters).fetchall()
            if not rows:
                return
            yield rows
            after = getattr(rows[-1], key)

    def check(self) -> None:
        """Raises WriterSuperseded when another process has taken over: asked before vectors are deleted."""
        with self.writing():
            pass

    def check_if_late(self) -> None:
        """The same, unless the last check was a moment ago: asked before vectors are sent."""
        if _clock_s() - self._checked_at > LATE_S:
            self.check()

    def _check(self, opened: Transaction, epoch: int) -> None:
        # FOR SHARE: whoever takes over waits until this transaction has ended.
        found = opened.run(
            b"SELECT 1 FROM tenant WHERE tenant_id = %(tenant_id)s AND writer_epoch = %(epoch)s FOR SHARE", epoch=epoch
        ).fetchone()
        if found is None:
            raise WriterSuperseded(self.tenant_id)

    def _one(self, query: str, key: int) -> Any:
        row = self.connection.execute(query.encode(), [key]).fetchone()
        return row[0] if row else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(self._address, first_line(error)) from error


def _clock_s() -> float:
    """Seconds that go on while the process is stopped and, on Linux, while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class _Rehearsal(Writer):
    """A writer within `rehearsing`: each transaction is a savepoint."""

    _looked_at = 0.0

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            with self._translated():
                waiting = self.connection.execute(_KEPT_WAITING).fetchone()
                if waiting and waiting.writer:
                    raise SyncInProgress(self.tenant_id)
                if waiting:
                    raise RehearsalInterrupted(self.tenant_id)
        with super().reading() as opened:
            yield opened


def connect(conninfo: str, shown: str) -> psycopg.Connection[Row]:
    """A connection as minirag_app. Raises SchemaOutdated, or DatabaseUnavailable with what to do."""
    try:
        connection = psycopg.connect(conninfo, autocommit=True, row_factory=_rows, connect_timeout=10)
    except psycopg.OperationalError as error:
        reason = first_line(error)
        if f'role "{APP}" does not exist' in reason:
            raise SchemaOutdated(None, SCHEMA_VERSION) from error
        raise DatabaseUnavailable(shown, reason) from error
    try:
        _admit(connection, shown)
    except BaseException:
        connection.close()
        raise
    return connection


def _admit(connection: psycopg.Connection[Row], shown: str) -> None:
    found = connection.execute(
        b"SELECT rolsuper OR rolbypassrls AS unbound, to_regclass('minirag.alembic_version') IS NOT NULL AS migrated"
        b"  FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if found is None or found.unbound:
        raise DatabaseUnavailable(shown, f"{APP} is not bound by row-level security there; take its privileges away.")
    at = connection.execute(b"SELECT version_num FROM minirag.alembic_version").fetchone() if found.migrated else None
    if at is None or at.version_num != SCHEMA_VERSION:
        raise SchemaOutdated(at.version_num if at else None, SCHEMA_VERSION)


@contextmanager
def run_held(url: str, run_id: str) -> Iterator[None]:
    """The run is known to live for as long as the block lasts, also before its first asset begins."""
    with connect(_app_conninfo(url), address(url)) as connection:
        connection.execute(HOLD_RUN.encode(), [_lock_key("run", run_id)])
        yield


def run_is_alive(url: str, run_id: str) -> bool:
    """Whether some process holds the lock of this run. Raises DatabaseUnavailable."""
    key = _lock_key("run", run_id)
    with connect(_app_conninfo(url), address(url)) as connection:
        held = connection.execute(
            b"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
            b"   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            b"   AND classid::bigint = %(high)s AND objid::bigint = %(low)s",
            {"high": (key >> 32) & 0xFFFFFFFF, "low": key & 0xFFFFFFFF},
        ).fetchone()
    return held is not None


def plain(url: str) -> str:
    """A URL as libpq reads it, without SQLAlchemy's driver suffix."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


def address(url: str) -> str:
    """host:port/database, for messages: never the login."""
    try:
        parts = conninfo_to_dict(plain(url))
    except psycopg.ProgrammingError as error:
        raise InvalidInput("MINIRAG_DATABASE_URL", "is not a PostgreSQL address.") from error
    return f"{parts.get('host') or 'localhost'}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


def _app_conninfo(url: str) -> str:
    """The address with what every session starts with: given at start, a RESET comes back to it.

    The locks of a machine that is lost are free within 30 s: keepalives see to it when nothing is under way, and the
    last of these settings when an answer is.
    """
    try:
        given = conninfo_to_dict(plain(url)).get("options")
    except psycopg.ProgrammingError as error:
        raise InvalidInput("MINIRAG_DATABASE_URL", "is not a PostgreSQL address.") from error
    options = (
        f"{given or ''} -c role={APP} -c search_path=minirag -c timezone=UTC"
        " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
        " -c tcp_user_timeout=25000"
    )
    return make_conninfo(plain(url), options=options.strip(), application_name="minirag")


def _lock_key(kind: str, name: str) -> int:
    digest = hashlib.sha256(f"minirag {kind} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def first_line(error: psycopg.Error) -> str:
    """What the server said, in one line; libpq names the login's host and user, never its password."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
