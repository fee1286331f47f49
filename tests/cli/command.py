"""`minirag` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tests.cli.forking import Forks


@dataclass
class Command:
    """`minirag` in a folder of its own, with the test's stores in its environment.

    With `forks`, what is run and waited for is forked from a process that has imported what it needs.
    """

    timeout_s: ClassVar[int] = 120
    folder: Path
    environment: dict[str, str]
    forks: Forks | None = field(default=None, kw_only=True)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "minirag_pipelines.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if self.forks is not None:
            return self.forks.run(arguments, folder=self.folder, environment=self.environment, timeout_s=self.timeout_s)
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=self.timeout_s)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def json(self, *arguments: str, exits: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == exits, done.stderr
        return json.loads(done.stdout)
