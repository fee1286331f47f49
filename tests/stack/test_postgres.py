from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.stack import postgres as module
from minirag_pipelines.stack import unprivileged
from minirag_pipelines.stack.postgres import Postgres
from minirag_pipelines.stack.processes import ProcessId, free_port

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
DEBIAN_PYTHON = Path("/usr/bin/python3")


@pytest.fixture
def postgres(home: Path) -> Iterator[Postgres]:
    postgres = Postgres(home)
    yield postgres
    postgres.stop()


def started(postgres: Postgres) -> psycopg.Connection[tuple[object, ...]]:
    postgres.start(durable=False)
    return psycopg.connect(postgres.admin_url, autocommit=True)


def value(connection: psycopg.Connection[tuple[object, ...]], query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def test_it_starts_stops_and_keeps_port_password_and_data(postgres: Postgres) -> None:
    with started(postgres) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
        assert value(connection, "SHOW server_version_num") == "180004"
        assert value(connection, "SHOW server_encoding") == "UTF8"
        assert value(connection, "SELECT datlocprovider::text || datlocale FROM pg_database LIMIT 1") == "bC.UTF-8"
    url = postgres.admin_url
    assert postgres.running()
    postgres.start(durable=False)
    assert postgres.stop()
    assert not postgres.running()
    assert not postgres.stop()
    with started(postgres) as connection:
        assert value(connection, "SELECT a FROM kept") == 1
    assert postgres.admin_url == url


def test_by_default_it_waits_for_the_disk(postgres: Postgres) -> None:
    postgres.start()
    with psycopg.connect(postgres.admin_url) as connection:
        assert value(connection, "SHOW fsync") == "on"
        assert value(connection, "SHOW full_page_writes") == "on"


def test_it_listens_on_loopback_only_and_wants_a_password(postgres: Postgres) -> None:
    started(postgres).close()
    process = postgres.process()
    assert process is not None
    listening = [c for c in psutil.Process(process.pid).net_connections("all") if c.status == psutil.CONN_LISTEN]
    assert [(c.family, c.laddr.ip) for c in listening] == [(socket.AF_INET, "127.0.0.1")]
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres")
    assert (postgres.home / "postgres.json").stat().st_mode & 0o777 == 0o600
    assert (postgres.home / "postgres").stat().st_mode & 0o777 == 0o700
    assert (postgres.home / "logs").stat().st_mode & 0o777 == 0o700
    assert not (postgres.home / ".postgres-password").exists()
    assert postgres.password("postgres") not in " ".join(psutil.Process(process.pid).cmdline())


def test_what_was_committed_survives_kill_9(postgres: Postgres) -> None:
    with started(postgres) as connection:
        connection.execute("CREATE TABLE kept (a int)")
        connection.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
        process = postgres.process()
        assert process is not None
        process.signal(signal.SIGKILL)
        assert process.wait(5)
    assert not postgres.running()
    with started(postgres) as connection:
        assert value(connection, "SELECT count(*) FROM kept") == 1000


def test_a_process_that_has_got_the_number_of_a_dead_server_is_not_taken_for_it(postgres: Postgres) -> None:
    started(postgres).close()
    process = postgres.process()
    assert process is not None
    process.signal(signal.SIGKILL)
    assert process.wait(5)
    # An ordinary process of the server's own account: PostgreSQL itself would believe that it is still running.
    owner = postgres.folder.stat().st_uid
    with subprocess.Popen(["/bin/sleep", "60"], user=owner if os.geteuid() == 0 else None) as stranger:
        pid_file = postgres.folder / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        assert not postgres.running()
        assert not postgres.stop()
        started(postgres).close()
        assert stranger.poll() is None
        stranger.kill()


def test_a_port_that_is_taken_is_exchanged_for_another(postgres: Postgres) -> None:
    started(postgres).close()
    port = postgres.port
    postgres.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        started(postgres).close()
        assert postgres.port != port


def test_a_port_that_is_taken_between_the_look_and_the_start_is_exchanged_too(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answers = iter([port])
        monkeypatch.setattr(module, "free_port", lambda *a, **k: next(answers, None) or free_port(*a, **k))
        started(postgres).close()
        assert postgres.port != port


def test_an_interrupted_creation_leaves_nothing_that_looks_like_data(postgres: Postgres) -> None:
    postgres.home.mkdir()
    (postgres.home / "postgres.new" / "base").mkdir(parents=True)
    (postgres.home / "postgres").mkdir()
    started(postgres).close()
    assert not (postgres.home / "postgres.new").exists()


def test_data_of_another_major_version_is_refused_with_the_way_out(postgres: Postgres) -> None:
    started(postgres).close()
    postgres.stop()
    (postgres.folder / "PG_VERSION").write_text("17\n")
    with pytest.raises(StackFailed, match=r"PostgreSQL 17's and this MiniRAG brings PostgreSQL 18.*pg_dumpall"):
        postgres.start(durable=False)


def test_data_whose_password_is_lost_is_refused_with_the_file_named(postgres: Postgres) -> None:
    started(postgres).close()
    postgres.stop()
    (postgres.home / "postgres.json").unlink()
    with pytest.raises(StackFailed, match=r"postgres\.json with the password"):
        postgres.start(durable=False)


def test_settings_that_it_refuses_are_said_with_the_log(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    started(postgres).close()
    postgres.stop()
    monkeypatch.setitem(module.SETTINGS, "max_connections", "many")
    with pytest.raises(StackFailed, match=r"max_connections.*postgres\.log"):
        postgres.start(durable=False)


def test_its_log_holds_neither_statements_nor_rows(postgres: Postgres) -> None:
    with started(postgres) as connection:
        connection.execute("CREATE TABLE kept (a text UNIQUE)")
        connection.execute("INSERT INTO kept VALUES ('a secret')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO kept VALUES ('a secret')")
    assert "duplicate key" in postgres.log.read_text()
    assert "secret" not in postgres.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put its data where another account can't go")
def test_root_runs_it_as_another_account_in_a_folder_closed_to_others_without_opening_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    before = {folder: folder.stat().st_mode for folder in [closed, *closed.parents]}
    postgres = Postgres(closed / "deep" / "home")
    try:
        with started(postgres) as connection:
            assert value(connection, "SELECT 1") == 1
        process = postgres.process()
        assert process is not None
        running = psutil.Process(process.pid)
        assert running.uids().real != 0
        assert running.uids().real == postgres.folder.stat().st_uid
        kept = Path(f"/proc/{process.pid}/status").read_text().split("CapAmb:\t")[1].split("\n")[0]
        assert int(kept, 16) == 1 << 2, "the right to read and pass through, and no other"
    finally:
        postgres.stop()
    assert {folder: folder.stat().st_mode for folder in before} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_where_everybody_can_pass_root_gives_it_no_capability(tmp_path: Path) -> None:
    open_folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"minirag-test-{os.getpid()}"  # noqa: S108 - pytest's own are closed
    open_folder.mkdir(mode=0o755)
    postgres = Postgres(open_folder)
    try:
        started(postgres).close()
        process = postgres.process()
        assert process is not None
        assert "CapPrm:\t0000000000000000" in Path(f"/proc/{process.pid}/status").read_text()
    finally:
        postgres.stop()
        shutil.rmtree(open_folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; others run all tests as one")
def test_an_ordinary_user_runs_it_as_himself() -> None:
    if not DEBIAN_PYTHON.exists() or not os.access(module.__file__, os.R_OK):
        pytest.skip("there is no Python that an ordinary user can run")
    folder = Path("/tmp") / f"minirag-user-{os.getpid()}"  # noqa: S108 - pytest's own are closed to others
    folder.mkdir(mode=0o755)
    os.chown(folder, 65534, 65534)
    site = Path(psycopg.__file__).parents[1]
    program = (
        "import sys, pathlib, psycopg; from minirag_pipelines.stack.postgres import Postgres\n"
        "p = Postgres(pathlib.Path(sys.argv[1])); p.start(durable=False)\n"
        "c = psycopg.connect(p.admin_url); print(c.execute('select 1').fetchone()[0], p.folder.stat().st_uid, p.stop())"
    )
    try:
        done = subprocess.run(
            [DEBIAN_PYTHON, "-c", program, folder / "home"],
            user=65534, group=65534, extra_groups=[], cwd="/", text=True, capture_output=True, check=False,
            env={"PYTHONPATH": f"{ROOT}:{site}", "PATH": os.defpath},
        )  # fmt: skip
        if "ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr:
            pytest.skip("the packages do not suit the Python that an ordinary user can run")
        assert done.stdout.split() == ["1", "65534", "True"], done.stderr
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities up")
def test_root_of_a_container_with_its_few_capabilities_runs_it_too(home: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv, to take capabilities away")
    granted = "chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod"
    sets = ",".join(["-all", *(f"+{name}" for name in granted.split())])
    program = (
        "import sys, pathlib, psycopg; from minirag_pipelines.stack.postgres import Postgres\n"
        "p = Postgres(pathlib.Path(sys.argv[1])); p.start(durable=False); c = psycopg.connect(p.admin_url)\n"
        "print(c.execute('select 1').fetchone()[0], p.running(), p.stop(), p.running())"
    )
    command = ["setpriv", "--bounding-set", sets, "--inh-caps", sets, sys.executable, "-c", program, str(home)]
    done = subprocess.run(command, text=True, capture_output=True, check=False, cwd=ROOT)
    assert done.stdout.split() == ["1", "True", "True", "False"], done.stderr


def test_a_server_that_a_killed_starter_left_is_adopted_whatever_was_written_down(postgres: Postgres) -> None:
    started(postgres).close()
    process, port = postgres.process(), postgres.port
    memory = postgres.home / "postgres.json"
    memory.write_text(memory.read_text().replace(str(port), "1"))
    started(postgres).close()
    assert postgres.process() == process
    assert postgres.port == port


def test_the_data_is_found_by_the_process_however_the_folder_is_called(postgres: Postgres, tmp_path: Path) -> None:
    started(postgres).close()
    link = tmp_path / "link"
    link.symlink_to(postgres.home)
    assert Postgres(link).running()
    assert Postgres(link).process() == postgres.process()


def test_two_homes_run_side_by_side(home: Path) -> None:
    one, two = Postgres(home / "one"), Postgres(home / "two")
    try:
        started(one).close()
        started(two).close()
        assert one.port != two.port
        assert isinstance(one.process(), ProcessId)
        assert one.process() != two.process()
    finally:
        one.stop()
        two.stop()


def test_the_launcher_of_root_says_what_stands_in_the_way(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to take the capabilities away")
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    closed.chmod(0o700)
    drop = ["setpriv", "--bounding-set", "-dac_read_search,-dac_override", "--inh-caps", "-all"]
    launcher = [sys.executable, "-I", "-S", str(unprivileged.__file__), "65534", "65534"]
    command = [*drop, *launcher, str(closed / "data"), "/bin/true"]
    done = subprocess.run(command, text=True, capture_output=True, check=False, cwd="/")
    if "Permission denied" in done.stderr:
        pytest.skip("without the capabilities this Python can't be started")
    assert done.returncode != 0
    assert "set MINIRAG_HOME to a folder that every user can pass through" in done.stderr
