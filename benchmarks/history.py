"""Does a sync embed what changed, and nothing else? Real commits, replayed step by step; a language is a tenant.

What changed is found by the benchmark itself: it parses and cuts every file of every step, and remembers which texts a
tenant has ever had. What was embedded is counted at the provider, what was written at the collection. After each step
PostgreSQL and Chroma are compared with the files, and a second sync has to do nothing. See docs/benchmarks.md.
    .venv/bin/python -m benchmarks.history [40] [--tenants en es …] [--tokens 512]
Needs ../shared/data/docs-history and git.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.material import History
from benchmarks.stack import MODELS, clear_environment, credentials, machine, work_folder
from benchmarks.stages import Stages, add_tenant, opened, usual_pool
from minirag_pipelines.core.database import Database, statements
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.lite_embedder import PROBE
from minirag_pipelines.core.providers.models import Vectors
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Generation, content_hash, embedded_text, text_hash
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import Collection, Near, VectorStore
from minirag_pipelines.ingest.chunking import chunk
from minirag_pipelines.ingest.connectors.files import file_uri
from minirag_pipelines.ingest.formats import kind_of
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parser_pool import ParserPool
from minirag_pipelines.ingest.parsing import parse
from tests.fakes import OpenAIServer

SQL = statements("benchmarks", "history.sql")


@dataclass
class Written:
    """Vectors that Chroma was given and told to delete."""

    upserted: int = 0
    deleted: int = 0


class CountedCollection(Collection):
    """A collection that counts what is written to it."""

    def __init__(self, inner: Collection, written: Written) -> None:
        self._inner = inner
        self._written = written

    @property
    def name(self) -> str:
        return self._inner.name

    def upsert(
        self,
        vectors: Mapping[bytes, Any],
        passages: Mapping[bytes, tuple[str, str]] | None = None,
        *,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._written.upserted += len(vectors)
        self._inner.upsert(vectors, passages, check=check)

    def nearest(self, vector: Vectors, limit: int) -> list[Near]:
        return self._inner.nearest(vector, limit)

    def delete(self, text_hashes: Sequence[bytes], *, check: Callable[[], None] | None = None) -> None:
        self._written.deleted += len(text_hashes)
        self._inner.delete(text_hashes, check=check)

    def count(self) -> int:
        return self._inner.count()


class CountedVectors(VectorStore):
    """A Chroma server that counts what is written to its collections."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.written = Written()

    def create(self, generation: Generation) -> Collection:
        return CountedCollection(super().create(generation), self.written)

    def collection(self, generation: Generation) -> Collection:
        return CountedCollection(super().collection(generation), self.written)


@dataclass(frozen=True, slots=True)
class Files:
    """A tenant's files at one step: what each holds, by URI, and the texts of each content, in reading order."""

    contents: dict[str, bytes]
    texts: dict[bytes, list[str]]

    def text_hashes(self) -> dict[bytes, str]:
        """Every text that some file has, by its hash."""
        return {text_hash(text): text for content in set(self.contents.values()) for text in self.texts[content]}


class Reading:
    """Parses and cuts a folder's files, each content once, with no part of a sync."""

    def __init__(self, chunker: ChunkerSettings, model: str, languages: Sequence[str]) -> None:
        self._chunker, self._tokenizer, self._languages = chunker, tokenizer_for(model), languages
        self._limits = Limits.of(Settings())
        self._texts: dict[bytes, list[str]] = {}

    def files(self, folder: Path) -> Files:
        contents = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content, uri = path.read_bytes(), file_uri(str(path))
            contents[uri] = content_hash(content)
            if contents[uri] not in self._texts:
                document = parse(content, kind_of(uri), name=uri, languages=self._languages, limits=self._limits)
                self._texts[contents[uri]] = [
                    embedded_text(draft.headings, draft.text)
                    for draft in chunk(document, self._chunker, self._tokenizer)
                ]
        return Files(contents, self._texts)


@dataclass
class Step:
    """One step of one tenant, or several added up. `changed_texts` are those that the tenant never had before.

    `embedded` is counted at the provider, `embedded_said` in the report; the same for `upserted` and `deleted` at the
    collection. `again` counts texts embedded and vectors written by a second sync.
    """

    new: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    changed_texts: int = 0
    embedded: int = 0
    embedded_said: int = 0
    upserted: int = 0
    deleted: int = 0
    again: int = 0
    wrong: list[str] = field(default_factory=list)

    def __iadd__(self, other: Step) -> Step:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self


@dataclass
class Replay:
    """A tenant whose folder goes through history, one `step` after another."""

    stages: Stages
    vectors: CountedVectors
    provider: OpenAIServer
    folder: Path
    reading: Reading
    before: Files = field(default_factory=lambda: Files({}, {}))
    ever: set[bytes] = field(default_factory=set)

    @classmethod
    def of(
        cls, database: Database, settings: Settings, provider: OpenAIServer, pool: ParserPool, folder: Path, tokens: int
    ) -> Replay:
        """A new tenant, named after the folder, which is made."""
        folder.mkdir(parents=True)
        tenant, sources = add_tenant(database, folder.name, MODELS["fake"], tokens, folder)
        vectors = CountedVectors(settings.chroma_url or "")
        stages = Stages(database, vectors, settings, tenant, sources, pool=lambda: nullcontext(pool))
        reading = Reading(tenant.chunker, tenant.embedding_model, settings.languages.split(","))
        return cls(stages, vectors, provider, folder, reading)

    def step(self) -> Step:
        """Sync what the folder holds now, compare everything with the files, and sync once more."""
        now = self.reading.files(self.folder)
        texts = now.text_hashes()
        fresh = {digest: text for digest, text in texts.items() if digest not in self.ever}
        asked = self._sync()
        if not self.ever and PROBE in asked:
            # A model's dimension is found with a text of its own, once.
            asked.remove(PROBE)
        listed, wrote = self.stages.tallies["list"], self.vectors.written
        done = Step(
            new=listed.new,
            changed=listed.changed,
            renamed=listed.renamed,
            removed=listed.removed,
            changed_texts=len(fresh),
            embedded=len(asked),
            embedded_said=self.stages.tallies["embed"].embedded,
            upserted=wrote.upserted,
            deleted=wrote.deleted,
        )
        differing = set(asked) ^ set(fresh.values())
        done.wrong += [f"{len(differing)} texts were embedded that should not have been, or the reverse"] * bool(
            differing
        )
        said = {name: getattr(done, name) for name in ("new", "changed", "renamed", "removed")}
        found = differences(self.before, now)
        done.wrong += [f"the files say {found}, the report {said}"] * (found != said)
        done.wrong += self._state(now, texts)
        done.again = len(self._sync()) + self.vectors.written.upserted + self.vectors.written.deleted
        self.before, self.ever = now, self.ever | texts.keys()
        return done

    def _sync(self) -> list[str]:
        """The texts that the provider was asked to embed."""
        self.provider.reset()
        self.vectors.written = Written()
        self.stages.sync()
        return list(self.provider.texts)

    def _state(self, now: Files, texts: Mapping[bytes, str]) -> list[str]:
        """What is not as the files say."""
        with self.stages.database.transaction(self.stages.tenant.tenant_id) as transaction:
            live = Generations(transaction).find_live()
            assert live is not None
            published = transaction.run(
                SQL["published"], generation=live.number, chunker=live.chunker_fingerprint
            ).fetchall()
            indexed = transaction.run(SQL["indexed"], generation=live.number).fetchall()
            unfinished = transaction.one(SQL["unfinished"])
        held = dict(in_chroma(self.stages.settings.chroma_url or "", live.collection))
        leaving = {row.text_hash for row in indexed if row.state == "leaving"}
        there = {row.text_hash for row in indexed if row.state == "there"}
        hashes = {content: [text_hash(text) for text in now.texts[content]] for content in now.contents.values()}
        claims = {
            "published documents": {row.uri: row.content_hash for row in published} == now.contents,
            "published texts": all(row.text_hashes == hashes.get(row.content_hash) for row in published),
            "rows of indexed": there == texts.keys() and len(there) + len(leaving) == len(indexed),
            "ids in Chroma": held.keys() - leaving == texts.keys() and held.keys() <= there | leaving,
            "vectors in Chroma": all(
                np.allclose(held[digest], self.provider.embed(text), atol=1e-5)
                for digest, text in texts.items()
                if digest in held
            ),
            "counted documents": live.documents == len(now.contents),
            "counted chunks": live.chunks == sum(len(hashes[content]) for content in now.contents.values()),
            "counted texts": live.texts == len(indexed),
            "nothing pending, nothing failed": (unfinished.pending, unfinished.failures) == (0, 0),
        }
        return [f"not as the files say: {claim}" for claim, holds in claims.items() if not holds]


def differences(before: Files, now: Files) -> dict[str, int]:
    """Documents by what happened to them: a new URI with the content of one that is gone is a rename."""
    fresh = Counter(now.contents[uri] for uri in now.contents.keys() - before.contents.keys())
    gone = Counter(before.contents[uri] for uri in before.contents.keys() - now.contents.keys())
    renamed = (fresh & gone).total()
    kept = now.contents.keys() & before.contents.keys()
    return {
        "new": fresh.total() - renamed,
        "changed": sum(now.contents[uri] != before.contents[uri] for uri in kept),
        "renamed": renamed,
        "removed": gone.total() - renamed,
    }


def in_chroma(url: str, collection: str, page: int = 1000) -> Iterator[tuple[bytes, list[float]]]:
    """Every id and its vector, as Chroma's HTTP interface gives them."""
    collections = f"{url.rstrip('/')}/api/v2/tenants/default_tenant/databases/default_database/collections"
    with httpx.Client(timeout=60) as client:
        found = client.get(f"{collections}/{collection}").raise_for_status().json()
        for offset in range(0, client.get(f"{collections}/{found['id']}/count").raise_for_status().json(), page):
            asked = {"limit": page, "offset": offset, "include": ["embeddings"]}
            rows = client.post(f"{collections}/{found['id']}/get", json=asked).raise_for_status().json()
            yield from zip(map(bytes.fromhex, rows["ids"]), rows["embeddings"], strict=True)


def replay(history: History, commits: Sequence[str], replays: Mapping[str, Replay]) -> Iterator[Step]:
    """A step for each commit: every tenant's folder is brought there, and synced."""
    for commit in commits:
        done = Step()
        for language, one in replays.items():
            history.write(commit, f"docs/{language}", one.folder)
            step = one.step()
            step.wrong = [f"{language}: {reason}" for reason in step.wrong]
            done += step
        yield done


def line(name: str, step: Step) -> str:
    figures = [getattr(step, one.name) for one in fields(step) if one.name != "wrong"]
    ratio = f"{step.embedded / step.changed_texts:.2f}" if step.changed_texts else "1.00" if not step.embedded else "∞"
    cells = "".join(f"{figure:>{width},}" for figure, width in zip(figures, _WIDTHS, strict=True))
    return f"{name:>5}{cells}{ratio:>8}" + "".join(f"\n      {reason}" for reason in step.wrong)


_HEADINGS = (
    "new",
    "changed",
    "renamed",
    "removed",
    "texts changed",
    "embedded",
    "reported",
    "upserted",
    "deleted",
    "again",
)
_WIDTHS = tuple(len(heading) + 2 for heading in _HEADINGS)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("steps", type=int, nargs="?", default=40)
    arguments.add_argument("--tenants", nargs="+", metavar="LANGUAGE", help="default: all")
    arguments.add_argument("--tokens", type=int, default=512, help="of a chunk, at most")
    given = arguments.parse_args()
    print(machine(), flush=True)
    total = Step()
    with work_folder() as folder:
        clear_environment()
        history = History(folder)
        commits = history.spread(given.steps)
        settings = Settings(home=folder / "home", retire_after_s=0)
        with opened(settings) as (chosen, database), OpenAIServer() as provider, usual_pool(chosen) as pool:
            os.environ.update(credentials(provider.url))
            replays = {
                language: Replay.of(
                    database, chosen, provider, pool, folder / "files" / f"docs-{language}", given.tokens
                )
                for language in given.tenants or history.languages(commits[-1])
            }
            print(f"{len(commits) - 1} steps of real commits, {len(replays)} tenants")
            print(" step" + "".join(f"  {heading}" for heading in _HEADINGS) + "   ratio", flush=True)
            for number, step in enumerate(replay(history, commits, replays)):
                print(line(str(number), step), flush=True)
                if number:
                    total += step
                else:
                    total.wrong += step.wrong
    wrong, total.wrong = total.wrong, []
    print(line("1 to", total))
    print(f"At the end: {machine()}")
    if wrong:
        raise SystemExit(f"{len(wrong)} things are wrong.")


if __name__ == "__main__":
    main()
