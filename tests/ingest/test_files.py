"""Folders with things in them that are no files, or no longer, or not as they were listed."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import Item, Problem
from minirag_pipelines.ingest.connectors.files import Config, LocalFiles, RemoteFiles, connect, file_uri
from tests.workbench import Workbench

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
MANY = 2**20


def files(path: Path) -> LocalFiles | RemoteFiles:
    return connect(Config(path=str(path)))


def refusal(folder: Path, path: Path, max_bytes: int = MANY) -> tuple[str, str, bool]:
    with pytest.raises(DocumentUnreadable) as raised:
        files(folder).read(file_uri(str(path)), max_bytes=max_bytes)
    return raised.value.code, raised.value.reason, raised.value.permanent


def names(found: list[Item | Problem]) -> list[str]:
    return [each.uri.rsplit("/", 1)[1] for each in found]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions bind every user but root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_is_left_out_of_a_listing_is_said_once_for_each_kind(workbench: Workbench, tmp_path: Path) -> None:
    workbench.write("ferry.md", "The night ferry leaves at 22:40.")
    workbench.write("inside/pier.md", "The pier is closed.")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "other.md").write_text("Not ours.")
    for number in range(3):
        os.mkfifo(workbench.folder / f"pipe{number}")
        (workbench.folder / f"away{number}").symlink_to(tmp_path / "outside")
    (workbench.folder / "again").symlink_to(workbench.folder / "inside")
    (workbench.folder / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(workbench.folder)  # the address of a socket is short
        try:
            server.bind("socket")
        finally:
            os.chdir(before)
        done = workbench.sync()
    assert sorted(done.sources.problems) == [
        "docs: 3 × A linked folder was left out: to have its files, add it as a source.",
        "docs: 5 × A pipe, socket or device was left out.",
    ]
    assert (done.sources.new, done.documents.quarantined) == (2, {})
    (workbench.folder / "inside" / "pier.md").unlink()
    assert workbench.sync().sources.removed == 1  # what is left out holds up no removal


def test_a_pipe_that_takes_a_files_place_after_the_listing_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("Notes.")
    assert names(list(files(tmp_path).items())) == ["notes.md"]
    path.unlink()
    os.mkfifo(path)
    assert refusal(tmp_path, path) == ("refused", "It is not a regular file.", True)


def test_a_folder_that_takes_a_files_place_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.mkdir()
    code, reason, _ = refusal(tmp_path, path)
    assert (code, reason) == ("unreadable", "It can't be read: Is a directory.")


def test_links_that_lead_nowhere_or_out_or_to_themselves_say_so(workbench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "outside.md").write_text("Not ours.")
    (workbench.folder / "dangling.md").symlink_to(workbench.folder / "gone.md")
    (workbench.folder / "out.md").symlink_to(tmp_path / "outside.md")
    (workbench.folder / "loop.md").symlink_to(workbench.folder / "loop.md")
    workbench.sync()
    reasons = {row.uri.rsplit("/", 1)[1]: row.reason for row in workbench.documents("quarantined")}
    assert reasons.pop("loop.md") in (
        "The symbolic link leads to itself.",
        "It can't be read: Too many levels of symbolic links.",
    )
    assert reasons == {
        "dangling.md": "The symbolic link leads to nothing.",
        "out.md": "The symbolic link leads out of the source's folder.",
    }


def test_a_file_that_vanished_since_it_was_listed_may_come_back(tmp_path: Path) -> None:
    found = refusal(tmp_path, tmp_path / "gone.md")
    assert found == ("vanished", "It was listed, and is gone now.", False)


def test_a_file_that_grows_while_it_is_read_ends_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 1000)
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 100 * MANY:
                file.write(b"x" * 65536)

    writing = threading.Thread(target=grow)
    writing.start()
    try:
        found = set()
        for _ in range(200):
            try:
                assert len(files(tmp_path).read(file_uri(str(path)), max_bytes=MANY)) <= MANY
            except DocumentUnreadable as error:
                found.add(error.code)
                break
        assert found == {"too_large"}
    finally:
        stop.set()
        writing.join()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux has files that are longer than they say")
def test_a_file_that_is_longer_than_its_size_says_is_read_up_to_the_limit() -> None:
    status = Path(f"/proc/{os.getpid()}/status")
    assert status.stat().st_size == 0
    assert files(status.parent).read(file_uri(str(status)), max_bytes=MANY).startswith(b"Name:")
    code, reason, permanent = refusal(status.parent, status, max_bytes=100)
    assert (code, permanent) == ("too_large", True)
    assert reason == "It has more than 0 MiB; the limit is 0 MiB (MINIRAG_MAX_DOCUMENT_MIB)."


def test_a_remote_file_is_refused_by_its_size_before_it_is_read() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/limits/large.txt", b"x" * (3 * MANY))
    remote = connect(Config(path="memory://limits"))
    with pytest.raises(DocumentUnreadable, match=r"MiB; the limit is 2 MiB \(MINIRAG_MAX_DOCUMENT_MIB\)"):
        remote.read("memory://limits/large.txt", max_bytes=2 * MANY)
    assert len(remote.read("memory://limits/large.txt", max_bytes=3 * MANY)) == 3 * MANY


def test_a_file_that_may_not_be_read_says_so_and_is_tried_again(open_folder: Path) -> None:
    path = open_folder / "secret.md"
    path.write_text("Notes.")
    path.chmod(0)
    with unprivileged():
        assert names(list(files(open_folder).items())) == ["secret.md"]
        assert refusal(open_folder, path) == ("unreadable", "It can't be read: Permission denied.", False)


def test_files_that_may_not_be_looked_at_are_a_problem_and_nothing_is_taken_for_removed(open_folder: Path) -> None:
    folder = open_folder / "listed"
    folder.mkdir()
    (folder / "notes.md").write_text("Notes.")
    folder.chmod(0o444)  # names can be listed, and nothing else
    with unprivileged():
        found = list(files(open_folder).items())
    folder.chmod(0o755)
    assert found == [
        Problem(file_uri(str(folder / "notes.md")), "A file can't be looked at: Permission denied.", incomplete=True)
    ]


def test_a_file_of_no_bytes_is_an_empty_document(workbench: Workbench) -> None:
    workbench.write("empty.pdf", b"")
    assert workbench.sync().documents.quarantined == {}
    (row,) = workbench.documents("live")
    assert (row.chunks, row.reason) == (0, "The document is empty.")
