"""`minirag` in a process of its own, forked from one that has imported what commands import.

`python -m tests.cli.forking` runs one command for each order on its standard input, a JSON object a line, and answers
with the exit code. What a command prints, on which stream, and how it exits is what a fresh process would do; only the
seconds of importing are spared.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Forks:
    """The program. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forking"],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout_s: int
    ) -> subprocess.CompletedProcess[str]:
        """A command that takes longer than `timeout_s` is killed."""
        assert self._process.stdin
        assert self._process.stdout
        order = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
            "timeout_s": timeout_s,
            "stdout": str(self._out),
            "stderr": str(self._err),
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the program that forks commands has died"
        return subprocess.CompletedProcess(arguments, int(answer), self._out.read_text(), self._err.read_text())


# What commands import on their way.
IMPORTED = (
    "chromadb.api.fastapi", "dagster_postgres", "litellm", "openai.resources", "minirag_pipelines.cli.local_run",
    "minirag_pipelines.core.providers.lite_chat", "minirag_pipelines.core.providers.lite_embedder",
    "minirag_pipelines.definitions", "minirag_pipelines.ingest.finishing", "minirag_pipelines.ingest.planning",
    "minirag_pipelines.ingest.reconciling", "minirag_pipelines.ingest.verifying",
)  # fmt: skip


def warm_up() -> None:
    from minirag_pipelines.core.providers.lite import litellm

    litellm()  # it sets what LiteLLM reads when it is imported
    for name in IMPORTED:
        importlib.import_module(name)


def run(order: dict[str, object]) -> None:
    """The command, in a forked process."""
    signal.alarm(int(str(order["timeout_s"])))
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]  # an object of strings
    os.chdir(str(order["folder"]))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in ((1, order["stdout"]), (2, order["stderr"])):
        os.dup2(os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    from minirag_pipelines.cli.main import main

    sys.argv = ["minirag", *order["arguments"]]  # type: ignore[misc]  # a list of strings
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        code = 0
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without taking apart what was imported, which takes longer than most commands.
    os._exit(code)


def serve() -> None:
    warm_up()
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
