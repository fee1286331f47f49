"""Parsing in worker processes: what hangs, crashes or eats memory costs its own document and nothing else."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.ingest import parsing
from minirag_pipelines.ingest.limits import Limits

if TYPE_CHECKING:
    from pebble import ProcessPool

logger = logging.getLogger(__name__)

DOCUMENTS_PER_WORKER = 1000
OUT_OF_MEMORY_EXIT = 86
MAX_ATTEMPTS = 3
# What a worker needs before it has read anything, and how often a document is held on its way to the parser.
WORKER_BYTES = 200 << 20
COPIES = 3
# A worker stops itself this long after it should have been stopped: its parent is gone, and so is whoever watched it.
GRACE_S = 15.0
# Nothing came back though a document's time has long passed: a worker was killed before it said what it had taken.
STALLED_S = 60.0

Outcome = ParsedDocument | DocumentUnreadable
Parse = Callable[..., ParsedDocument]


@dataclass(frozen=True, slots=True)
class ParseJob:
    """One document to parse; `key` is the caller's, and comes back with the outcome."""

    key: object
    name: str
    kind: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Running:
    job: ParseJob
    pool: ProcessPool
    attempt: int


class ParserPool:
    """Worker processes that parse documents, each within a time and a memory limit. A context manager.

    Nothing is started before the first document, and no more workers than there are documents. `parse` has the
    signature of `parsing.parse` and can be imported by its name. Leaving the context stops whatever still runs.
    """

    def __init__(
        self,
        *,
        workers: int,
        timeout_s: float,
        memory_mib: int,
        languages: Sequence[str],
        limits: Limits,
        documents_per_worker: int = DOCUMENTS_PER_WORKER,
        parse: Parse = parsing.parse,
    ) -> None:
        self._workers = workers
        self._timeout_s = timeout_s
        self._memory_bytes = memory_mib << 20
        self._documents_per_worker = documents_per_worker
        self._parse = functools.partial(parse, languages=tuple(languages), limits=limits)
        self._pool: ProcessPool | None = None
        self._started_workers = 0

    def __enter__(self) -> ParserPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def parse_all(self, jobs: Iterable[ParseJob]) -> Iterator[tuple[ParseJob, Outcome]]:
        """Every job with what became of it, in the order of completion.

        Jobs are taken as there is room for them: at most twice as many as workers are held at a time. One call at a
        time; a call that is not read to its end gives up what it had under way.
        """
        waiting = iter(jobs)
        running: dict[Future[ParsedDocument], _Running] = {}
        try:
            first = list(itertools.islice(waiting, self._workers))
            if first:
                self._running_pool(first)
            arriving = itertools.chain(first, waiting)
            while True:
                arrived = False
                for job in itertools.islice(arriving, 2 * self._workers - len(running)):
                    arrived = True
                    if self._fits(job):
                        self._schedule(running, job)
                    else:
                        yield job, _out_of_memory()
                if running:
                    yield from self._finished(running)
                elif not arrived:
                    return
        finally:
            for future in running:
                future.cancel()

    def _finished(self, running: dict[Future[ParsedDocument], _Running]) -> Iterator[tuple[ParseJob, Outcome]]:
        """Waits for at least one outcome, and parses again what was lost with a pool that broke."""
        done = wait(running, timeout=self._timeout_s + STALLED_S, return_when=FIRST_COMPLETED).done or set(running)
        for future in done:
            entry = running.pop(future)
            if not future.done() or isinstance(future.exception(), BrokenExecutor):
                future.cancel()
                if entry.pool is self._pool:
                    logger.warning("The parser processes broke; they are started again.")
                    self._stop()
                if entry.attempt < MAX_ATTEMPTS:
                    self._schedule(running, entry.job, entry.attempt + 1)
                else:
                    yield entry.job, _crashed("the process that should have parsed it could not be kept running")
            else:
                yield entry.job, _outcome(future, self._timeout_s)

    def _fits(self, job: ParseJob) -> bool:
        # Where it runs out of memory while taking the document, a worker dies without having said which it was.
        return COPIES * len(job.content) <= max(self._memory_bytes - WORKER_BYTES, WORKER_BYTES // 4)

    def _schedule(self, running: dict[Future[ParsedDocument], _Running], job: ParseJob, attempt: int = 1) -> None:
        pool = self._running_pool([job])
        arguments = (self._parse, self._timeout_s, job.content, job.kind, job.name)
        future: Future[ParsedDocument]
        try:
            # Its first call starts the workers and the threads that replace them; all inherit what is blocked.
            with _interrupts_blocked():
                future = pool.schedule(_parse_one, args=arguments, timeout=self._timeout_s)
        except RuntimeError:
            future = _broken()
        running[future] = _Running(job, pool, attempt)

    def _running_pool(self, at_hand: Sequence[ParseJob]) -> ProcessPool:
        """The pool, with a worker for each of these jobs as far as there may be; its first call starts them."""
        wanted = min(self._workers, len(at_hand))
        if wanted > self._started_workers:
            self._stop()
        if self._pool is None:
            from pebble import ProcessPool

            preloaded = sorted({job.kind for job in at_hand}) if self._parse.func is parsing.parse else []
            # Never a plain fork: the parent has threads, and their locks would be copied as they are.
            self._pool = ProcessPool(
                max_workers=wanted,
                max_tasks=self._documents_per_worker,
                initializer=_begin_worker,
                initargs=(self._memory_bytes, preloaded),
                context=multiprocessing.get_context("spawn"),
            )
            self._started_workers = wanted
        return self._pool

    def _stop(self) -> None:
        pool, self._pool, self._started_workers = self._pool, None, 0
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves out its -> None
            pool.join()


@dataclass(frozen=True, slots=True)
class Parsing:
    """How documents are read and parsed: what decides the outcome, and the pool that does it.

    `max_bytes` is the largest document that is read. A pool is made when there is something to parse.
    """

    languages: tuple[str, ...]
    limits: Limits
    max_bytes: int
    pool: Callable[[], contextlib.AbstractContextManager[ParserPool]]

    @classmethod
    def of(cls, settings: Settings, *, workers: int | None = None) -> Parsing:
        """As the settings say; `workers` where fewer are of use."""
        languages = tuple(language.strip() for language in settings.languages.split(","))
        limits = Limits.of(settings)
        pool = functools.partial(
            ParserPool,
            workers=workers or settings.parse_workers,
            timeout_s=settings.parse_timeout_s,
            memory_mib=settings.parse_memory_mib,
            languages=languages,
            limits=limits,
        )
        return cls(languages, limits, settings.max_document_mib * 2**20, pool)


def _outcome(future: Future[ParsedDocument], timeout_s: float) -> Outcome:
    from pebble import ProcessExpired

    try:
        return future.result()
    except DocumentUnreadable as unreadable:
        return unreadable
    except TimeoutError:
        reason = f"It was not parsed within {timeout_s:g} s."
        return DocumentUnreadable("timeout", reason, permanent=False)
    except ProcessExpired as expired:
        code = expired.exitcode or 0
        if code == OUT_OF_MEMORY_EXIT:
            return _out_of_memory()
        return _crashed(_named_signal(-code) if code < 0 else f"its process ended with status {code}")
    # What a parser let through that is none of our errors; its message may quote the document.
    except Exception as error:  # noqa: BLE001  # any exception of any library may arrive here
        return _crashed(type(error).__name__)


def _broken() -> Future[ParsedDocument]:
    future: Future[ParsedDocument] = Future()
    future.set_exception(BrokenExecutor())
    return future


def _crashed(how: str) -> DocumentUnreadable:
    return DocumentUnreadable("crashed", f"The parser crashed on it: {how}.", permanent=False)


def _out_of_memory() -> DocumentUnreadable:
    return DocumentUnreadable("out_of_memory", "It takes more memory to parse than is allowed.", permanent=False)


def _named_signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    # PDFium, for one, ends so when it is given no memory.
    return f"its process was ended by {name}" + (", perhaps for want of memory" if number == signal.SIGABRT else "")


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; one that is just starting would answer it with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its first start unblocks what we block.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(memory_bytes: int, kinds: Sequence[str]) -> None:
    """In the worker, before its first document."""
    # Ends at once, even inside a library that never comes back to the interpreter.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    # Nobody reads what libraries say here, and they say it on the terminal.
    logging.disable(logging.CRITICAL)
    # One document at a time: threads for linear algebra would be for nothing, and each takes memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with contextlib.suppress(ImportError):  # then each document that needs it will say so
        parsing.preload(kinds)
    _limit_memory(memory_bytes)


def _limit_memory(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    # Not RLIMIT_AS, because address space is not memory: pandoc, which inherits the limit, reserves a terabyte.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, however it went: the pipe that only the parent holds is closed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _parse_one(parse: Parse, timeout_s: float, content: bytes, kind: str, name: str) -> ParsedDocument:
    """In the worker. The clock is one that runs without the interpreter's lock, which a library may be holding."""
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True, file=nowhere)
        try:
            return parse(content, kind, name=name)
        except MemoryError:
            # A process that has hit its limit has no room for the next document either.
            os._exit(OUT_OF_MEMORY_EXIT)
        finally:
            faulthandler.cancel_dump_traceback_later()
