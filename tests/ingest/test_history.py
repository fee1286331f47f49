"""Real commits, replayed: what is embedded is what changed, and what is held is what the files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.history import Replay
from benchmarks.material import HISTORY, History
from benchmarks.stages import usual_pool
from minirag_pipelines.core.database import Database
from minirag_pipelines.core.settings import Settings
from tests.fakes import OpenAIServer

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.chroma,
    pytest.mark.shared_data,
    pytest.mark.skipif(
        not HISTORY.is_file(), reason="real commits are looked for in ../shared/data, and there are none"
    ),
]


def test_three_steps_of_real_commits_embed_what_changed_and_nothing_else(
    database: Database, chroma_url: str, provider: OpenAIServer, tmp_path: Path
) -> None:
    history = History(tmp_path)
    settings = Settings(home=tmp_path / "home", chroma_url=chroma_url, retire_after_s=0)
    with usual_pool(settings) as pool:
        replay = Replay.of(database, settings, provider, pool, tmp_path / "docs", tokens=256)
        for commit in history.spread(3):
            history.write(commit, "docs/en/docs/how-to", replay.folder)
            step = replay.step()
            assert step.wrong == []
            assert step.changed_texts > 0
            assert step.embedded == step.embedded_said == step.changed_texts
            assert step.again == 0
