"""Syncs as processes of their own, which a test kills, pauses and lets go on.

`python -m tests.syncs` imports everything once and then forks one process for each order on its standard input, a JSON
object a line. It answers on its standard output: the id of the process, and later how that ended. A sync
passes named points, each before or after something that lasts: `embeddings: before upsert 2` is the second in its stage.
Ordered to die at one, it kills itself there as `kill -9` does; ordered to pause, it stops as with SIGSTOP.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.workbench import Workbench

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Ended:
    """How a sync's process ended: `signal` when it was killed, else `error` with the class of what it raised."""

    signal: int | None
    error: str | None = None
    message: str = ""
    retryable: bool = False
    points: list[str] = field(default_factory=list)
    restored: int = 0

    @property
    def finished(self) -> bool:
        return self.signal is None and self.error is None


class Sync:
    """A sync under way."""

    def __init__(self, starter: Starter, pid: int, result: Path) -> None:
        self._starter = starter
        self.pid = pid
        self._result = result

    def kill(self) -> None:
        """Does nothing when it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait_until_paused(self) -> None:
        """Raises AssertionError when it ends instead."""
        while True:
            state = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "T":
                return
            assert state not in "ZX", f"the sync ended before it paused: {self.ended()}"
            time.sleep(0.01)

    def ended(self) -> Ended:
        """Waits for its end."""
        status = self._starter.wait(self.pid)
        if os.WIFSIGNALED(status):
            return Ended(os.WTERMSIG(status))
        assert status == 0, "the sync raised what no sync should: see the output"
        return Ended(None, **json.loads(self._result.read_text()))


class Starter:
    """The program. A context manager; leaving it kills what it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._statuses: dict[int, int] = {}
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.syncs"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, workbench: Workbench, tenant_id: str = "acme", **order: Any) -> Sync:
        """Begin a sync: `die` and `pause` name a point, `die_after` counts points; `chroma_url` may be another way there."""
        assert self._process.stdin
        self._count += 1
        result = self._folder / f"sync-{self._count}.json"
        order = {
            "chroma_url": workbench.vectors._url,
            "database_url": workbench.database._conninfo,
            "provider_url": workbench.provider.url,
            "tenant_id": tenant_id,
            "result": str(result),
        } | order
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Sync(self, self._read("started")["pid"], result)

    def run(self, workbench: Workbench, tenant_id: str = "acme", **order: Any) -> Ended:
        return self.start(workbench, tenant_id, **order).ended()

    def wait(self, pid: int) -> int:
        while pid not in self._statuses:
            ended = self._read("ended")
            self._statuses[ended["pid"]] = ended["status"]
        return self._statuses.pop(pid)

    def _read(self, what: str) -> dict[str, Any]:
        assert self._process.stdout
        while True:
            line = self._process.stdout.readline()
            assert line, "the program of the syncs has died"
            said: dict[str, Any] = json.loads(line)
            if said["what"] == what:
                return said
            self._statuses[said["pid"]] = said["status"]


class Points:
    """What a sync passes, and what it does there."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.passed: list[str] = []
        self.stage = "start"
        self._die, self._pause, self._die_after = order.get("die"), order.get("pause"), order.get("die_after", 0)
        self._seen: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        label = f"{self.stage}: {name}"
        self._seen[label] += 1
        label = f"{label} {self._seen[label]}"
        self.passed.append(label)
        if label == self._die or len(self.passed) == self._die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if label == self._pause:
            os.kill(os.getpid(), signal.SIGSTOP)

    def around(self, owner: Any, method: str, name: str) -> None:
        """Make points of the moments before and after each call of a method."""
        original: Callable[..., Any] = getattr(owner, method)

        def called(*args: Any, **options: Any) -> Any:
            self.reach(f"before {name}")
            result = original(*args, **options)
            self.reach(f"after {name}")
            return result

        setattr(owner, method, called)

    def around_commits(self, writer: Any) -> None:
        original = writer.writing

        @contextmanager
        def writing(of: Any) -> Iterator[Any]:
            with original(of) as transaction:
                yield transaction
                self.reach("before commit")
            self.reach("after commit")

        writer.writing = writing

    def around_sending(self) -> None:
        """The last moment before Chroma is told, when all that may be checked has been."""
        import httpx

        original = httpx.HTTPTransport.handle_request

        def handle(transport: Any, request: Any) -> Any:
            what = request.url.path.rsplit("/", 1)[1]
            if what in ("upsert", "delete"):
                self.reach(f"before sending {what}")
            return original(transport, request)

        httpx.HTTPTransport.handle_request = handle  # type: ignore[method-assign]

    def of_stage(self, owner: Any, method: str, stage: str) -> None:
        original: Callable[..., Any] = getattr(owner, method)

        def called(*args: Any, **options: Any) -> Any:
            self.stage = stage
            self.reach("begins")
            result = original(*args, **options)
            self.reach("ends")
            return result

        setattr(owner, method, called)


def small_batches() -> None:
    """Batches of a few, so that a few small documents are many of them."""
    from functools import partial

    import tests.workbench as bench
    from minirag_pipelines.ingest import building, embedding, finishing, publishing, reading

    embedding.EMBED_BATCH, embedding.BATCH, publishing.BATCH, reading._BATCH, building._PAGE = 4, 3, 2, 3, 3
    bench.cut_pending = partial(bench.cut_pending, batch=3)
    finishing.publish_pending = partial(publishing.publish_pending, batch=3)


def put_points(points: Points) -> None:
    from minirag_pipelines.core.database import Writer
    from minirag_pipelines.core.providers.lite_embedder import LiteEmbedder
    from minirag_pipelines.core.vector_store import Collection, VectorStore
    from tests.workbench import Workbench

    points.around_commits(Writer)
    points.around(LiteEmbedder, "embed", "embedding")
    points.around_sending()
    points.around(Collection, "upsert", "upsert")
    points.around(Collection, "delete", "delete")
    points.around(VectorStore, "create", "creating")
    points.around(VectorStore, "drop", "drop")
    stages = {"list": "sources", "read": "documents", "cut": "chunks", "embed": "embeddings", "finish": "collection"}
    for method, stage in stages.items():
        points.of_stage(Workbench, method, stage)


def sync(order: dict[str, Any]) -> None:
    """One sync, in a forked process, as `order` says; what became of it is written to `result`."""
    import tests.workbench as bench
    from minirag_pipelines.core.database import Database
    from minirag_pipelines.core.errors import MiniRAGError
    from minirag_pipelines.core.vector_store import TIMEOUT_S, VectorStore

    os.environ |= {"OPENAI_API_BASE": order["provider_url"], "OPENAI_API_KEY": "sk-test"}
    points = Points(order)
    put_points(points)
    outcome: dict[str, Any] = {}
    with Database(order["database_url"]) as database:
        vectors = VectorStore(order["chroma_url"], timeout_s=order.get("timeout_s", TIMEOUT_S))
        workbench = bench.Workbench(database, vectors, None, Path(), tenant_id=order["tenant_id"])  # type: ignore[arg-type]
        workbench.retire_after_s = order.get("retire_after_s", 0)
        workbench.wait_s = order.get("wait_s", 5)
        try:
            done = workbench.sync()
            outcome["restored"] = done.collection.published.restored
        except MiniRAGError as error:
            outcome = {"error": type(error).__name__, "message": str(error), "retryable": error.retryable}
    Path(order["result"]).write_text(json.dumps(outcome | {"points": points.passed}, default=str))


def warm_up() -> None:
    """Import what a sync imports on its way, so that forked ones need not."""
    import contextlib

    import openai.resources  # noqa: F401

    from minirag_pipelines.core.errors import DocumentUnreadable
    from minirag_pipelines.core.providers import lite
    from minirag_pipelines.core.providers.tokenizers import tokenizer_for
    from minirag_pipelines.ingest.parsing import parse
    from tests.workbench import LIMITS, MODEL

    tokenizer_for(MODEL).count("The vocabulary is loaded now.")
    for kind, content in (("txt", b"Words."), ("md", b"# Words"), ("pdf", b"%PDF-1.7")):
        with contextlib.suppress(DocumentUnreadable):
            parse(content, kind, name="warm", languages=("eng",), limits=LIMITS)
    lite.litellm()


def serve() -> None:
    """Fork a sync for every order; when no more come, kill those that run."""
    warm_up()
    small_batches()
    running: dict[int, int] = {}
    waiting = b""
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for handle in ready:
            if handle != 0:
                pid = running.pop(handle)
                os.close(handle)
                say("ended", pid=pid, status=os.waitpid(pid, 0)[1])
                continue
            received = os.read(0, 65536)
            if not received:
                for pid in running.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, waiting = (waiting + received).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    os.close(0)
                    try:
                        sync(json.loads(line))
                    except BaseException:
                        traceback.print_exc()
                        sys.stderr.flush()
                        os._exit(1)
                    os._exit(0)
                running[os.pidfd_open(pid)] = pid
                say("started", pid=pid)


def say(what: str, **fields: int) -> None:
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


if __name__ == "__main__":
    serve()
