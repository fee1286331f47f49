"""Two tenants that live through the same: what is done to the syncs of the one must not be seen in what they leave."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.lite_embedder import PROBE
from minirag_pipelines.core.records import ChunkerSettings
from tests.states import Chroma, State, state_of
from tests.syncs import Ended, Starter
from tests.workbench import Workbench

BATCH = 4  # texts, as the program of the syncs sets it
# From asking the model to the commit of its vectors: what is paid for in vain when the sync dies here.
UNPAID = ("embeddings: after embedding", "embeddings: before commit")


class Worlds:
    """Two tenants that live through the same changes: `calm`'s syncs are left alone, `acme`'s are killed."""

    def __init__(self, workbench: Workbench, starter: Starter, chroma_url: str, tmp_path: Path) -> None:
        self.workbench = workbench
        self.starter = starter
        self.chroma = Chroma(chroma_url)
        self.random = random.Random(7)  # noqa: S311 - the same for every run
        self.folders = {"acme": workbench.folder, "calm": tmp_path / "calm"}
        self.folders["calm"].mkdir()
        workbench.folder = self.folders["calm"]
        workbench.add_tenant("calm")
        workbench.provider.refused_word = "unspeakable"
        self.texts = {"acme": Counter[str](), "calm": Counter[str]()}
        self.kills = self.kills_unpaid = self.round = 0
        for number in range(6):
            self.write(f"{number}.txt", self._words(number))
        self.write("long.md", "".join(f"# Part {part}\n\n{self._words(part)}\n\n" for part in range(6)))
        self.write("same.md", "# Twice\n\nThe same bytes stand in two documents.\n")
        self.write("again.md", "# Twice\n\nThe same bytes stand in two documents.\n")
        self.write("refused.md", "# Fine\n\nThis can be said.\n\n# Not fine\n\nThis is unspeakable.\n")
        self.write("broken.pdf", "%PDF-1.7 and nothing more")

    def write(self, name: str, text: str) -> None:
        for folder in self.folders.values():
            (folder / name).write_text(text)

    def change(self, *, new_chunker: bool) -> None:
        """Edits, a rename, a removal and additions; if asked for, another chunker too."""
        self.round += 1
        texts = sorted(path.name for path in self.folders["acme"].glob("*.txt"))
        edited, renamed, removed = self.random.sample(texts, 3)
        self.write(edited, self._words(1000 + self.round))
        parts = [self._words(part if part != self.round % 6 else 2000 + self.round) for part in range(6)]
        self.write("long.md", "".join(f"# Part {part}\n\n{words}\n\n" for part, words in enumerate(parts)))
        self.write("refused.md", f"# Fine\n\nThis can be said.\n\n# Not fine\n\nThis is unspeakable {self.round}.\n")
        for folder in self.folders.values():
            (folder / renamed).rename(folder / f"renamed-{self.round}.txt")
            (folder / removed).unlink()
        for number in range(2):
            self.write(f"new-{self.round}-{number}.txt", self._words(3000 + 2 * self.round + number))
        if new_chunker:
            for tenant_id in self.folders:
                with self.workbench.database.transaction(tenant_id) as transaction:
                    Catalog(transaction).change_tenant(chunker=ChunkerSettings(64 + self.round))

    def _words(self, number: int) -> str:
        words = ("mole", "ferry", "pier", "light", "buoy", "crane", "tide", "crew", "deck", "chart")
        chosen = random.Random(number).choices(words, k=12)  # noqa: S311
        return f"Notice {number}: the {' and the '.join(chosen)}."

    def run(self, tenant_id: str = "acme", **order: object) -> Ended:
        """A sync to its end, or to its death."""
        self.workbench.provider.texts.clear()
        ended = self.starter.run(self.workbench, tenant_id, **order)
        self._count(tenant_id, ended)
        return ended

    def run_with(self, **order: object) -> Ended:
        """A sync that may fail, whose last batch may be paid for in vain."""
        self.workbench.provider.texts.clear()
        ended = self.starter.run(self.workbench, **order)
        self.kills_unpaid += 1
        self.texts["acme"].update(text for text in self.workbench.provider.texts if text != PROBE)
        return ended

    def run_calm(self) -> list[str]:
        """A sync that nothing disturbs, from end to end: what it passed."""
        ended = self.run("calm")
        assert ended.finished
        with self.workbench.database.transaction("calm") as transaction:
            assert "building" not in {one.state for one in Generations(transaction).all()}
        return ended.points

    def killed_at(self, point: str) -> bool:
        """Whether a sync reached the point and died there."""
        ended = self.run(die=point)
        self.kills_unpaid += ended.signal is not None and point.startswith(UNPAID)
        return ended.signal is not None

    def killed_after(self, points: int) -> bool:
        ended = self.run(die_after=points)
        self.kills_unpaid += ended.signal is not None
        return ended.signal is not None

    def killed_after_s(self, seconds: float) -> bool:
        self.workbench.provider.texts.clear()
        sync = self.starter.start(self.workbench)
        time.sleep(seconds)
        sync.kill()
        ended = sync.ended()
        self.kills_unpaid += ended.signal is not None
        self._count("acme", ended)
        return ended.signal is not None

    def _count(self, tenant_id: str, ended: Ended) -> None:
        assert ended.signal in (None, signal.SIGKILL)
        assert ended.error is None, ended.message
        self.kills += ended.signal is not None
        self.texts[tenant_id].update(text for text in self.workbench.provider.texts if text != PROBE)

    def check_index(self) -> None:
        """A whole sync of `acme` has ended: what it serves is as in `calm`, which may have seen other things before."""
        acme, calm = self.state("acme"), self.state("calm")
        for name in ("published", "chunks", "indexed", "vectors"):
            assert getattr(acme, name) == getattr(calm, name), name
        listed = [[document for document in one.documents if document[1] != "removed"] for one in (acme, calm)]
        assert listed[0] == listed[1]

    def check(self) -> None:
        """The same, and all else is as in `calm`, and nothing that was committed was paid for twice."""
        acme, calm = self.state("acme"), self.state("calm")
        for name in State.__dataclass_fields__:
            assert getattr(acme, name) == getattr(calm, name), name
        assert self.texts["acme"].keys() == self.texts["calm"].keys()
        assert max(self.texts["calm"].values()) == 1
        in_vain = self.texts["acme"].total() - len(self.texts["acme"])
        assert in_vain <= BATCH * self.kills_unpaid

    def state(self, tenant_id: str) -> State:
        return state_of(self.workbench, self.chroma, tenant_id, str(self.folders[tenant_id]))
