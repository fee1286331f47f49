"""What the stack remembers in its home: small private files, and locks that die with their holder."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirag_pipelines.core.errors import InvalidInput, StackFailed


def checked_platform() -> None:
    """Raises StackFailed where the embedded stack can't run."""
    if sys.platform not in ("linux", "darwin"):
        raise StackFailed(
            "stack",
            "it runs on Linux and macOS. Set MINIRAG_DATABASE_URL and MINIRAG_CHROMA_URL to servers of your own.",
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty when there is none."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    except PermissionError as error:
        raise _not_ours(path) from error
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step; readable by its owner only."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except PermissionError as error:
        raise _not_ours(path) from error
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Lock:
    """A file lock that the kernel frees when its holder dies. Not passed on to the programs we start."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise _not_ours(path) from error
        except OSError as error:
            raise InvalidInput(
                "MINIRAG_HOME",
                f"{path.parent} can't be a folder of ours: {error.strerror}. Set it to a folder of yours.",
            ) from error

    def shared(self) -> None:
        self._flock("LOCK_SH")

    def exclusive(self, *, wait: bool = True) -> bool:
        """Whether we have it now; without waiting, False when anybody else holds it."""
        return self._flock("LOCK_EX", wait=wait)

    def close(self) -> None:
        """Also lets go of the lock."""
        os.close(self._descriptor)

    def _flock(self, operation: str, *, wait: bool = True) -> bool:
        import fcntl  # not on Windows, where this module must still import

        try:
            fcntl.flock(self._descriptor, getattr(fcntl, operation) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with what the lock stands for, after waiting for whoever is."""
    lock = Lock(path)
    try:
        lock.exclusive()
        yield
    finally:
        lock.close()


def _not_ours(path: Path) -> StackFailed:
    return StackFailed(
        "stack", f"{path} is another user's. Run this as that user, or set MINIRAG_HOME to a folder of yours."
    )
