"""Other people's programs, run so that none outlives the process that asked."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.formats import Tool

PR_SET_PDEATHSIG = 1
# What Haskell's runtime (pandoc) and C++'s (Tesseract, LibreOffice) say last.
_NO_MEMORY = (b"might be out of memory", b"std::bad_alloc")


def program(tool: Tool, what: str) -> str:
    """The path of a tool. Raises DocumentUnreadable when it is not installed; its absence is in the fingerprint."""
    path = tool.path()
    if path is None:
        raise DocumentUnreadable("missing_tool", f"{what} can't be read without {tool.name}: {tool.install}.")
    return path


def run(arguments: Sequence[str], *, stdin: bytes = b"", what: str) -> subprocess.CompletedProcess[bytes]:
    """What the program wrote. Raises DocumentUnreadable: `corrupt` when it does not accept its input.

    A program is held to the memory limit of the process that starts it: that it ran out of it is no damage.
    """
    finished = subprocess.run(
        arguments,
        input=stdin,
        capture_output=True,
        check=False,
        # No other way to do this; it runs in a parsing process, which has one thread that does anything.
        preexec_fn=_die_with_parent(),
    )
    if finished.returncode:
        # Its words are not repeated: they quote the document.
        name = arguments[0].rsplit("/", 1)[-1]
        if any(words in finished.stderr for words in _NO_MEMORY):
            reason = f"{name} takes more memory to read it than is allowed."
            raise DocumentUnreadable("out_of_memory", reason, permanent=False)
        if finished.returncode < 0:
            reason = f"{name} crashed on it (signal {-finished.returncode})."
            raise DocumentUnreadable("crashed", reason, permanent=False)
        raise DocumentUnreadable(
            "corrupt", f"{what} is damaged: {name} could not read it (status {finished.returncode})."
        )
    return finished


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
