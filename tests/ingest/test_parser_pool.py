"""Worker processes: real hangs, crashes, memory hogs, and a parent that is killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.ingest.parser_pool import Outcome, ParseJob, ParserPool
from minirag_pipelines.ingest.parsers.programs import run
from tests.workbench import LIMITS

# Written to a module of its own, because a worker imports what it is to call.
BEHAVIOUR = '''
import ctypes, os, signal, time
from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.ingest.parsers.programs import run

def behave(content, kind, *, name, languages, limits):
    """Does what the document says."""
    word = content.decode()
    if word == "hang":
        time.sleep(600)
    if word == "hang hard":
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
    if word == "exit":
        os._exit(3)
    if word == "abort":
        os.abort()
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "hog":
        hoard = []
        while True:
            hoard.append(bytearray(16 << 20))
    if word.startswith("program "):
        run(["/bin/sh", "-c", 'echo $$ > "$0"; exec sleep 600', word[8:]], what="It")
    if word == "refuse":
        raise DocumentUnreadable("encrypted", "It is sealed.")
    if word == "bug":
        raise LookupError("secret words")
    return ParsedDocument(languages[0], f"{word} {os.getpid()}", ())
'''
Behave = Callable[..., ParsedDocument]


@pytest.fixture(scope="module")
def behave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behave]:
    folder = tmp_path_factory.mktemp("behaviour")
    (folder / "parser_behaviour.py").write_text(BEHAVIOUR)
    sys.path.insert(0, str(folder))
    try:
        import parser_behaviour  # type: ignore[import-not-found]  # written just above

        module: ModuleType = parser_behaviour
        yield module.behave
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("parser_behaviour", None)


def pool(behave: Behave, **options: Any) -> ParserPool:
    defaults: dict[str, Any] = {
        "workers": 2,
        "timeout_s": 60.0,
        "memory_mib": 1024,
        "languages": ("eng",),
        "limits": LIMITS,
    }
    return ParserPool(parse=behave, **(defaults | options))


def jobs(*contents: str) -> list[ParseJob]:
    return [ParseJob(number, f"{number}.txt", "txt", content.encode()) for number, content in enumerate(contents)]


def outcomes(parsing: ParserPool, *contents: str) -> list[Outcome]:
    """What became of the documents, in the order they were given."""
    found = {job.key: outcome for job, outcome in parsing.parse_all(jobs(*contents))}
    return [found[number] for number in range(len(contents))]


def code(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, DocumentUnreadable) else outcome.text.rpartition(" ")[0]


def worker(outcome: Outcome) -> int:
    assert isinstance(outcome, ParsedDocument)
    return int(outcome.text.rpartition(" ")[2])


def workers() -> list[psutil.Process]:
    """This process's parser workers: it may have started the servers of the test run too."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def test_every_document_comes_back_once_with_its_key(behave: Behave) -> None:
    with pool(behave) as parsing:
        found = outcomes(parsing, *(f"text {number}" for number in range(20)))
    assert [code(outcome) for outcome in found] == [f"text {number}" for number in range(20)]
    assert {outcome.title for outcome in found if isinstance(outcome, ParsedDocument)} == {"eng"}


def test_a_document_that_hangs_ends_at_the_time_limit_and_the_rest_goes_on(behave: Behave) -> None:
    with pool(behave, timeout_s=1.0) as parsing:
        found = outcomes(parsing, "a", "hang", "b", "hang hard", "c")
    assert [code(outcome) for outcome in found] == ["a", "timeout", "b", "timeout", "c"]
    assert not any(outcome.permanent for outcome in found if isinstance(outcome, DocumentUnreadable))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a program with its parent")
def test_a_program_that_hangs_ends_with_the_document_it_was_started_for(behave: Behave, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    with pool(behave, timeout_s=1.0) as parsing:
        assert [code(outcome) for outcome in outcomes(parsing, f"program {noted}")] == ["timeout"]
    wait_until(lambda: not psutil.pid_exists(int(noted.read_text())))


def test_a_crash_costs_its_own_document_only(behave: Behave) -> None:
    with pool(behave) as parsing:
        found = outcomes(parsing, "a", "exit", "b", "abort", "c")
    assert [code(outcome) for outcome in found] == ["a", "crashed", "b", "crashed", "c"]
    assert str(found[1]) == "The parser crashed on it: its process ended with status 3."
    assert str(found[3]) == "The parser crashed on it: its process was ended by SIGABRT, perhaps for want of memory."
    assert not any(outcome.permanent for outcome in found if isinstance(outcome, DocumentUnreadable))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_document_that_eats_memory_stops_at_the_limit_and_the_rest_goes_on(behave: Behave) -> None:
    with pool(behave, memory_mib=512) as parsing:
        found = outcomes(parsing, "a", "hog", "b")
    assert [code(outcome) for outcome in found] == ["a", "out_of_memory", "b"]
    assert isinstance(found[1], DocumentUnreadable)
    assert not found[1].permanent


def test_every_way_to_end_a_worker_in_one_sync_costs_those_documents_only(behave: Behave) -> None:
    bad = {"hang": "timeout", "exit": "crashed", "segfault": "crashed", "abort": "crashed", "hog": "out_of_memory"}
    words = [word for number, each in enumerate(bad) for word in (each, f"fine {number}")]
    with pool(behave, timeout_s=15.0, memory_mib=512) as parsing:
        found = outcomes(parsing, *words)
        wait_until(lambda: len(workers()) == 2)  # one that was ended is started again
    assert [code(outcome) for outcome in found] == [bad.get(word, word) for word in words]
    assert str(found[words.index("segfault")]) == "The parser crashed on it: its process was ended by SIGSEGV."
    assert len({worker(outcome) for outcome in found if isinstance(outcome, ParsedDocument)}) > 2


@pytest.mark.parametrize(
    ("script", "code", "permanent"),
    [
        ("echo 'pandoc: Exiting. The system might be out of memory.' >&2; exit 1", "out_of_memory", False),
        ("echo 'what():  std::bad_alloc' >&2; kill -ABRT $$", "out_of_memory", False),
        ("kill -SEGV $$", "crashed", False),
        ("echo 'no such thing' >&2; exit 64", "corrupt", True),
    ],
)
def test_a_program_that_was_short_of_memory_or_crashed_is_no_damage_of_its_document(
    script: str, code: str, permanent: bool
) -> None:
    with pytest.raises(DocumentUnreadable) as raised:
        run(["/bin/sh", "-c", script], what="It")
    assert (raised.value.code, raised.value.permanent) == (code, permanent)


def test_a_document_that_no_worker_could_hold_is_not_sent_to_one(behave: Behave) -> None:
    with pool(behave, memory_mib=256) as parsing:
        found = outcomes(parsing, *["x" * (40 << 20)] * 5, "b")
    assert [code(outcome) for outcome in found] == ["out_of_memory"] * 5 + ["b"]


def test_what_a_parser_refuses_comes_back_as_it_was_said(behave: Behave) -> None:
    with pool(behave) as parsing:
        (found,) = outcomes(parsing, "refuse")
    assert isinstance(found, DocumentUnreadable)
    assert (found.code, found.reason, found.permanent) == ("encrypted", "It is sealed.", True)


def test_a_parsers_bug_is_told_without_the_documents_words(behave: Behave) -> None:
    with pool(behave) as parsing:
        (found,) = outcomes(parsing, "bug")
    assert str(found) == "The parser crashed on it: LookupError."


def test_a_worker_is_replaced_after_so_many_documents(behave: Behave) -> None:
    with pool(behave, workers=1, documents_per_worker=2) as parsing:
        found = outcomes(parsing, *"abcdef")
    assert len({worker(outcome) for outcome in found}) == 3


def test_nothing_starts_before_the_first_document_and_no_more_than_there_are(behave: Behave) -> None:
    with pool(behave, workers=4) as parsing:
        assert list(parsing.parse_all([])) == []
        assert workers() == []
        assert [code(outcome) for outcome in outcomes(parsing, "a")] == ["a"]
        assert len(workers()) == 1
        assert [code(outcome) for outcome in outcomes(parsing, "b", "c")] == ["b", "c"]
        assert len(workers()) == 2


def test_documents_are_taken_as_there_is_room_for_them(behave: Behave) -> None:
    taken = itertools.count()
    held = 0

    def arriving() -> Iterator[ParseJob]:
        nonlocal held
        for number in range(40):
            held = next(taken) + 1
            yield ParseJob(number, "x.txt", "txt", b"x")

    with pool(behave) as parsing:
        for done, _ in enumerate(parsing.parse_all(arriving()), start=1):
            assert held - done <= 2 * 2


def test_leaving_the_pool_leaves_no_process(behave: Behave) -> None:
    with pool(behave) as parsing:
        results = parsing.parse_all(jobs("a", "hang", "hang", "hang"))
        next(results)
        assert workers()
    assert workers() == []


def test_a_pool_whose_idle_workers_were_killed_starts_again(behave: Behave) -> None:
    with pool(behave) as parsing:
        assert [code(outcome) for outcome in outcomes(parsing, "a", "b")] == ["a", "b"]
        for process in workers():
            process.kill()
        assert [code(outcome) for outcome in outcomes(parsing, "c", "d", "e")] == ["c", "d", "e"]


def test_real_documents_are_parsed_in_workers() -> None:
    contents = {"a.md": b"# Title\n\nText.", "b.csv": b"a;b\n1;2\n", "c.json": b"{broken"}
    kinds = {"a.md": "md", "b.csv": "csv", "c.json": "json"}
    with ParserPool(workers=2, timeout_s=60, memory_mib=1024, languages=("eng",), limits=LIMITS) as parsing:
        given = [ParseJob(name, name, kinds[name], content) for name, content in contents.items()]
        found = {job.key: outcome for job, outcome in parsing.parse_all(given)}
    assert isinstance(found["a.md"], ParsedDocument)
    assert found["a.md"].title == "Title"
    assert isinstance(found["b.csv"], ParsedDocument)
    assert found["b.csv"].text == "a | b\n1 | 2"
    assert isinstance(found["c.json"], DocumentUnreadable)


PARENT = """
import sys
sys.path.insert(0, {folder!r})
from parser_behaviour import behave
from minirag_pipelines.ingest.parser_pool import ParseJob, ParserPool

if __name__ == "__main__":
    words = sys.argv[1:]
    settings = dict(workers=2, timeout_s=300, memory_mib=1024, languages=("eng",), limits=None)
    with ParserPool(**settings, parse=behave) as pool:
        for job, outcome in pool.parse_all(ParseJob(i, word, "txt", word.encode()) for i, word in enumerate(words)):
            print(outcome.text, flush=True)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process with a pool of its own, in a process group as a terminal would make it."""
    (tmp_path / "parser_behaviour.py").write_text(BEHAVIOUR)
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT.format(folder=str(tmp_path))))
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_workers_end_when_their_parent_is_killed(parent: Callable[..., subprocess.Popen[str]]) -> None:
    process = parent("a", "hang", "hang")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not alive(children))


def test_an_interrupt_ends_everything_and_only_the_parent_speaks(parent: Callable[..., subprocess.Popen[str]]) -> None:
    process = parent("a", "hang", "hang")
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    wait_until(lambda: not alive(children))
    assert said.count("Traceback") == 1
    assert said.rstrip().endswith("KeyboardInterrupt")
