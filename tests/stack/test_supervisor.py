from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minirag_pipelines.core.errors import AlreadyUp, StackFailed
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.chroma import ChromaServer
from minirag_pipelines.stack.embedded import available
from minirag_pipelines.stack.postgres import Postgres
from minirag_pipelines.stack.processes import ProcessId, free_port, wait_until
from minirag_pipelines.stack.records import StackRecord, StackState
from minirag_pipelines.stack.services import WEBSERVER, ailing
from minirag_pipelines.stack.supervisor import start_detached, state, stop

# A whole stack is heavy: one after another.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(600), pytest.mark.xdist_group("stack")]

DEFINITIONS = "tiny_definitions"
ALL = ["postgres", "chroma", "code-location", "webserver", "daemon"]
FOREGROUND = """
import pathlib, sys
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.supervisor import run
run(Settings(home=pathlib.Path(sys.argv[1])), lambda event: print(event.text, flush=True), definitions=sys.argv[2])
"""


def pids(found: StackState) -> dict[str, int | None]:
    return {service.name: service.pid for service in found.services}


def kill(pid: int | None) -> None:
    process = ProcessId.of(pid or 0)
    assert process is not None
    process.signal(signal.SIGKILL)
    assert process.wait(5)


def ui_port(found: StackState) -> int:
    assert found.ui_url is not None
    return int(found.ui_url.rpartition(":")[2])


def graphql(port: int, query: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            data: dict[str, Any] = json.loads(answer.read())["data"]
            return data
    except urllib.error.HTTPError as error:
        pytest.fail(f"{error}: {error.read().decode()}")


def what_ails(settings: Settings) -> dict[str, str]:
    record = StackRecord.read(settings.home)
    return ailing(record.services[WEBSERVER], record.ports[WEBSERVER], 0.0)


def run_job(port: int, job: str) -> str:
    """Launch it, and wait for how it ends."""
    selector = f'{{repositoryName: "__repository__", repositoryLocationName: "minirag", jobName: "{job}"}}'
    launched = graphql(
        port,
        f"mutation {{ launchRun(executionParams: {{selector: {selector}, mode: "
        '"default"}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }',
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    query = f'{{ runOrError(runId: "{launched["run"]["runId"]}") {{ ... on Run {{ status }} }} }}'
    status = ""

    def ended() -> bool:
        nonlocal status
        status = graphql(port, query)["runOrError"]["status"]
        return status in ("SUCCESS", "FAILURE", "CANCELED")

    assert wait_until(ended, 120), status
    return status


def test_the_stack_comes_up_runs_a_job_and_goes_down(settings: Settings, home: Path) -> None:
    found = start_detached(settings, definitions=DEFINITIONS)
    try:
        assert found.phase == "running"
        assert [(service.name, service.state) for service in found.services] == [(name, "running") for name in ALL]
        assert state(settings) == found
        assert run_job(ui_port(found), "nothing_job") == "SUCCESS"
        addressed = Settings(home=home).with_addresses()
        assert addressed.ui_url == found.ui_url
        assert addressed.code_location_port is not None
        with pytest.raises(AlreadyUp, match="up already: http"):
            start_detached(settings, definitions=DEFINITIONS)
        with available(settings):
            pass
        assert pids(state(settings)) == pids(found), "a command that ends leaves the stack alone"
    finally:
        stopped = stop(settings)
    assert stopped == list(reversed(ALL))
    assert stop(settings) == []
    assert {service.state for service in state(settings).services} == {"stopped"}
    addressed = Settings(home=home).with_addresses()
    assert (addressed.ui_url, addressed.code_location_port) == (None, None)
    assert addressed.database_url is not None


def test_two_stacks_that_want_the_same_port_come_up_beside_each_other(settings: Settings, home: Path) -> None:
    port = free_port()
    both = [Settings(home=home / "one"), Settings(home=home / "two")]
    for one in both:
        one.home.mkdir(parents=True)
        StackRecord(ports={WEBSERVER: port}).write(one.home)
    try:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(partial(start_detached, definitions=DEFINITIONS), both))
        assert [one.phase for one in found] == ["running", "running"]
        assert len({one.ui_url for one in found}) == 2
        for one in both:
            assert what_ails(one) == {}
    finally:
        for one in both:
            stop(one)


def test_whatever_is_killed_is_started_again(settings: Settings) -> None:
    start_detached(settings, definitions=DEFINITIONS)
    try:
        assert Settings(home=settings.home).with_addresses().database_url is not None
        for name in ALL:
            before = pids(state(settings))
            kill(before[name])

            def replaced(name: str = name, old: int | None = before[name]) -> bool:
                now = pids(state(settings))
                return now[name] != old and None not in now.values()

            assert wait_until(replaced, 60), name
        assert wait_until(lambda: what_ails(settings) == {}, 90), what_ails(settings)
        assert run_job(ui_port(state(settings)), "nothing_job") == "SUCCESS"
        log = (settings.home / "logs" / "stack.log").read_text()
        for name in ALL:
            assert f"{name}: has died; starting it again. Its log: {settings.home}/logs/{name}.log" in log
    finally:
        stop(settings)


def test_after_the_supervisor_was_killed_the_next_up_takes_over_and_nothing_is_lost(
    settings: Settings, home: Path
) -> None:
    first = start_detached(settings, definitions=DEFINITIONS)
    try:
        with psycopg.connect(Postgres(home).admin_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
        kill(first.supervisor_pid)
        left = state(settings)
        assert left.phase == "failed"
        assert pids(left) == pids(first), "the services go on"
        with available(settings):
            pass
        assert pids(state(settings)) == pids(first), "a command that ends does not take their stores away"
        second = start_detached(settings, definitions=DEFINITIONS)
        assert second.phase == "running"
        assert second.ui_url == first.ui_url, "its port is remembered"
        assert pids(second)["postgres"] == pids(first)["postgres"], "adopted"
        assert not any(pids(second)[name] == pids(first)[name] for name in ALL[2:])
        with psycopg.connect(Postgres(home).admin_url, autocommit=True) as connection:
            assert connection.execute("SELECT a FROM kept").fetchone() == (1,)
        kill(second.supervisor_pid)
    finally:
        stopped = stop(settings)
    assert stopped == list(reversed(ALL)), "what a killed supervisor leaves is stopped too"


def test_ctrl_c_in_the_foreground_stops_everything_but_what_a_command_uses(settings: Settings, home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FOREGROUND, str(home), DEFINITIONS], stdout=subprocess.PIPE, text=True
    ) as foreground:
        assert foreground.stdout is not None
        with available(settings):
            said = ""
            for line in foreground.stdout:
                said += line
                if line.startswith("up: "):
                    break
            assert state(settings).phase == "running", said
            postgres = Postgres(home).process()
            foreground.send_signal(signal.SIGINT)
            assert foreground.wait(60) == 0
            assert Postgres(home).process() == postgres
            assert ChromaServer(home).running()
            assert [service.name for service in state(settings).services if service.pid] == ["postgres", "chroma"]
        assert Postgres(home).process() is None
    assert state(settings).phase == "stopped"


def test_definitions_that_do_not_load_are_said_with_their_log(settings: Settings) -> None:
    with pytest.raises(StackFailed, match=r"code-location did not come up: .*no_such_module.*code-location\.log"):
        start_detached(settings, definitions="no_such_module")
    found = state(settings)
    assert found.phase == "failed"
    assert {service.name: service.state for service in found.services}["code-location"] == "failed"
    assert not any(pids(found).values())
    assert stop(settings) == []


def test_with_servers_of_ones_own_only_dagster_is_started(home: Path, tmp_path: Path) -> None:
    with available(Settings(home=tmp_path / "elsewhere")) as elsewhere:
        chosen = Settings(
            home=home,
            database_url=elsewhere.database_url,
            admin_database_url=elsewhere.admin_database_url,
            chroma_url=elsewhere.chroma_url,
        )
        found = start_detached(chosen, definitions=DEFINITIONS)
        try:
            assert [service.name for service in found.services] == ALL[2:]
            assert not (home / "postgres").exists()
            assert elsewhere.admin_database_url is not None
            with psycopg.connect(elsewhere.admin_database_url.get_secret_value()) as connection:
                owner = connection.execute(
                    "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'minirag_dagster'"
                ).fetchone()
                assert owner == ("minirag_app",)
        finally:
            assert stop(chosen) == list(reversed(ALL[2:]))


def test_asking_for_the_state_of_a_stack_that_never_ran_creates_nothing(settings: Settings, home: Path) -> None:
    found = state(settings)
    assert found.phase == "stopped"
    assert stop(settings) == []
    assert not home.exists()


def test_a_record_of_processes_that_are_others_now_ends_none_of_them(settings: Settings, home: Path) -> None:
    home.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        process = {"pid": stranger.pid, "born": "another boot:1"}
        record = {
            "phase": "running",
            "supervisor": {"pid": os.getpid(), "born": "another boot:1"},
            "services": {"webserver": process},
            "ports": {},
            "error": None,
        }
        (home / "stack.json").write_text(json.dumps(record))
        assert stop(settings) == []
        time.sleep(0.1)
        assert stranger.poll() is None
        stranger.kill()
