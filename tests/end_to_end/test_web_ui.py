"""The whole stack as `minirag up` starts it, seen through its web UI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil
import pytest

from minirag_pipelines.cli.remote_run import answers
from minirag_pipelines.core.settings import Settings
from tests.cli.command import Command
from tests.fakes import OpenAIServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

# A whole stack is heavy: one after another.
pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack")]

LINEAGE = ["sources", "documents", "chunks", "embeddings", "collection"]


@dataclass
class Stack(Command):
    """The command in a folder where it runs the whole stack."""

    provider: OpenAIServer
    timeout_s: ClassVar[int] = 240
    ui_url: str = ""

    def out(self, *arguments: str, exits: int = 0) -> str:
        done = self.run(*arguments)
        assert done.returncode == exits, done.stderr
        return done.stdout

    def start_all(self) -> None:
        try:
            self.out("up", "--detach")
        except AssertionError as error:
            logs = sorted((self.folder / "home" / "logs").glob("*.log"))
            pytest.fail("\n".join([str(error), *(f"{log.name}:\n{log.read_text()[-2000:]}" for log in logs)]))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    # Not pytest's own folder: PostgreSQL may run under another account than ours.
    folder = Path(tempfile.mkdtemp(prefix="minirag-stack-"))
    with OpenAIServer() as provider:
        environment = os.environ | {
            "MINIRAG_HOME": str(folder / "home"),
            "OPENAI_API_BASE": provider.url,
            "OPENAI_API_KEY": "sk-test",
        }
        running = Stack(folder, environment, provider)
        try:
            running.start_all()
            running.ui_url = running.json("status")["ui_url"]
            for tenant in ("acme", "harbour"):
                docs = folder / tenant
                docs.mkdir()
                (docs / "ferry.md").write_text(f"# Ferries of {tenant}\n\nThe night ferry leaves at 22:40.\n")
                running.out("tenant", "add", tenant, "--embedding-model", "openai/text-embedding-3-small")
                running.out("source", "add", tenant, "files", "--name", "docs", "--path", str(docs))
            yield running
        finally:
            running.out("down")
            shutil.rmtree(folder)


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield browser.new_page(viewport={"width": 1600, "height": 900})
        browser.close()


def test_a_second_up_says_that_it_is_up(stack: Stack) -> None:
    assert stack.ui_url in stack.out("up", "--detach")


def test_what_answers_where_a_killed_stack_had_been_is_not_taken_for_it(stack: Stack) -> None:
    ours = Settings(home=stack.folder / "home").with_addresses()
    assert answers(ours)
    assert not answers(ours.model_copy(update={"code_location_port": 1}))
    assert not answers(ours.model_copy(update={"ui_url": ours.chroma_url}))
    assert not answers(ours.model_copy(update={"ui_url": stack.provider.url}))
    assert not answers(ours.model_copy(update={"ui_url": "http://127.0.0.1:9"}))


def test_every_service_is_named_with_its_process_and_log(stack: Stack) -> None:
    services = stack.json("status")["services"]
    assert [service["name"] for service in services] == [
        "postgres", "chroma", "code-location", "webserver", "daemon",
    ]  # fmt: skip
    assert {service["state"] for service in services} == {"running"}
    assert all(psutil.pid_exists(service["pid"]) and Path(service["log"]).exists() for service in services)


def test_a_sync_goes_through_the_webserver_and_is_seen_there(stack: Stack, page: Page) -> None:
    done = stack.json("sync", "acme")
    assert (done["status"], done["collection"]["documents"]) == ("ok", 1)
    page.goto(f"{stack.ui_url}/runs/{done['run_id']}")
    page.get_by_text("Success", exact=True).first.wait_for()
    page.goto(f"{stack.ui_url}/locations/__repository__@minirag/asset-groups/index/lineage")
    for asset in LINEAGE:
        page.get_by_text(asset, exact=True).first.wait_for()
    page.goto(f"{stack.ui_url}/assets/collection?view=partitions")
    page.get_by_text("acme", exact=True).first.wait_for()


def test_a_tenant_becomes_a_partition_by_itself(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.ui_url}/assets/sources?view=partitions")
    deadline = time.monotonic() + 60
    while not page.get_by_text("harbour", exact=True).count() and time.monotonic() < deadline:
        page.wait_for_timeout(2000)
        page.reload()
        page.wait_for_load_state("networkidle")
    assert page.get_by_text("harbour", exact=True).count()


def test_a_run_whose_process_is_killed_is_failed_and_frees_its_tenant(stack: Stack) -> None:
    (stack.folder / "harbour" / "new.md").write_text("A return ticket costs 31 crowns.\n")
    before = stack.provider.stats()["requests"]
    stack.provider.delay_s = 120
    waiting = stack.start("sync", "harbour", "--json")
    while stack.provider.stats()["requests"] == before:
        time.sleep(0.1)
        assert waiting.poll() is None, waiting.communicate()
    location = next(one["pid"] for one in stack.json("status")["services"] if one["name"] == "code-location")
    workers = [
        child
        for child in psutil.Process(location).children()
        if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE
    ]
    assert workers
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    stack.provider.delay_s = 0
    stdout, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 1
    assert json.loads(stdout)["status"] == "failed"
    done = stack.json("sync", "harbour")
    assert (done["status"], done["collection"]["documents"]) == ("ok", 2)
