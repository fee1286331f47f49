"""`minirag demo`: real documents of two tenants become answers with citations."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from minirag_pipelines.cli.output import AsJson, out, print_json, progress
from minirag_pipelines.cli.session import Session, session
from minirag_pipelines.cli.syncing import synced
from minirag_pipelines.core.catalog import Catalog, tenant_ids
from minirag_pipelines.core.errors import MiniRAGError, NotFound
from minirag_pipelines.core.providers.registry import embedder
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL
from minirag_pipelines.core.records import AuthContext, ChunkerSettings
from minirag_serving import Answer, MiniRAG

FOLDER = Path(__file__).parents[1] / "demo"


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """`sources` are names with a path below `root`. The last question is asked of the other tenant too."""

    tenant_id: str
    name: str
    root: Path
    sources: dict[str, str]
    questions: tuple[str, ...]


class SyncFailed(MiniRAGError):
    def __init__(self, tenant_id: str, reason: str) -> None:
        super().__init__(f"The sync of {tenant_id} failed: {reason}")
        self.tenant_id = tenant_id


def demo_tenants() -> tuple[DemoTenant, DemoTenant]:
    """Raises NotFound when MiniRAG's own documents are not where they were installed."""
    return (
        DemoTenant(
            "minirag-docs",
            "MiniRAG's own documentation",
            _docs_root(),
            {"docs": "docs", "readme": "README.md"},
            (
                "On which tables is row-level security enabled?",
                "How long does a vector that nothing needs stay in Chroma?",
                "Which setting limits how long parsing one document may take?",
            ),
        ),
        DemoTenant(
            "harbour-handbook",
            "The staff handbook of a ferry company that does not exist",
            FOLDER,
            {"handbook": "handbook"},
            (
                "At what wind speed do the ferries stop sailing?",
                "How many days of annual leave does a full-time employee have?",
                "What is the code of the key safe at North Pier?",
            ),
        ),
    )


def demo(as_json: AsJson = False) -> None:
    """Real documents of two tenants become answers with citations. A second time, all that is known is used again."""
    began = time.monotonic()
    console = Console(quiet=True) if as_json else out
    tenants = demo_tenants()
    report: dict[str, Any] = {"tenants": [], "isolation": []}
    with session() as opened:
        console.print(Text(f"Two tenants, in {opened.settings.home}", style="bold"))
        for tenant in tenants:
            report["tenants"].append(_indexed(opened, tenant, console))
        with MiniRAG(opened.settings) as minirag:
            for tenant, told in zip(tenants, report["tenants"], strict=True):
                console.print()
                console.print(Text(f"{tenant.tenant_id} is asked", style="bold"))
                with _token(opened, minirag, tenant) as who:
                    told["answers"] = [_asked(minirag, who, tenant, one, console) for one in tenant.questions]
            console.print()
            console.print(Text("The last question of each, with the other tenant's token", style="bold"))
            for tenant, other in zip(tenants, reversed(tenants), strict=True):
                with _token(opened, minirag, other) as who:
                    report["isolation"].append(_asked(minirag, who, other, tenant.questions[-1], console))
        report["seconds"] = round(time.monotonic() - began, 2)
        _say_what_next(opened, tenants[1], report, console)
    if as_json:
        print_json(report)


def _docs_root() -> Path:
    """The folder with `docs` and `README.md`: the demo's own when installed, the top of a checkout otherwise."""
    for folder in (FOLDER, FOLDER.parents[1]):
        if (folder / "docs" / "architecture.md").is_file():
            return folder
    raise NotFound("folder", str(FOLDER / "docs"))


def _indexed(opened: Session, tenant: DemoTenant, console: Console) -> dict[str, Any]:
    """Have the tenant and its sources in the catalog, sync it, and tell what that took."""
    added = _catalogued(opened, tenant)
    console.print(Text.assemble("  ", (tenant.tenant_id, "cyan"), f": {tenant.name}"))
    sync = synced(opened, tenant.tenant_id)
    if sync["status"] == "failed":
        raise SyncFailed(tenant.tenant_id, sync["error"])
    read, embedded, live = sync["documents"], sync["embeddings"], sync["collection"]
    known = "known already, all of it used again: " if not (read["parsed"] or embedded["embedded"]) else ""
    console.print(
        Text(
            f"    {live['documents']} documents, {live['chunks']} chunks; "
            f"{known}{read['parsed']} parsed, {embedded['embedded']} embedded, {sync['seconds']:.1f} s"
        )
    )
    return {"tenant": tenant.tenant_id, "added": added, "sync": sync}


def _catalogued(opened: Session, tenant: DemoTenant) -> bool:
    """Add what is absent; whether anything was."""
    from minirag_pipelines.ingest.connectors.kinds import checked_config
    from minirag_pipelines.ingest.publishing import remove_source

    wanted = {name: checked_config("files", {"path": str(tenant.root / path)}) for name, path in tenant.sources.items()}
    absent = tenant.tenant_id not in tenant_ids(opened.database)
    with opened.database.transaction(tenant.tenant_id) as transaction:
        catalog = Catalog(transaction)
        if absent:
            chunker = ChunkerSettings(embedder(LOCAL_EMBEDDING_MODEL).max_tokens)
            catalog.add_tenant(name=tenant.name, embedding_model=LOCAL_EMBEDDING_MODEL, chunker=chunker)
        found = {source.name: source.config for source in catalog.sources()}
    new = {name: config for name, config in wanted.items() if found.get(name) != config}
    if moved := new.keys() & found.keys():  # MiniRAG was installed anew somewhere else
        with opened.database.writer(tenant.tenant_id, wait_s=30) as writer, writer.writing() as transaction:
            for name in sorted(moved):
                remove_source(transaction, name)
    with opened.database.transaction(tenant.tenant_id) as transaction:
        for name, config in new.items():
            Catalog(transaction).add_source(name, "files", config)
    return bool(new)


@contextmanager
def _token(opened: Session, minirag: MiniRAG, tenant: DemoTenant) -> Iterator[AuthContext]:
    """Who a token of the tenant stands for; the token is revoked afterwards."""
    expires_at = datetime.now(tz=UTC) + timedelta(hours=1)
    with opened.database.transaction(tenant.tenant_id) as transaction:
        token, issued = Catalog(transaction).issue_token("demo", expires_at=expires_at)
    try:
        yield minirag.authenticate(token)
    finally:
        with opened.database.transaction(tenant.tenant_id) as transaction:
            Catalog(transaction).revoke_token(str(issued.token_id))


def _asked(minirag: MiniRAG, who: AuthContext, tenant: DemoTenant, question: str, console: Console) -> dict[str, Any]:
    with progress(f"Asking {tenant.tenant_id}"):
        answer = minirag.ask(who, question)
    places = _places(answer, tenant)
    console.print(Text.assemble("  ? ", (question, "cyan"), "" if places else f"  ({tenant.tenant_id})"))
    for paragraph in answer.text.splitlines():
        console.print(Text(_indented(paragraph, console.width)))
    for place in places:
        console.print(Text(_indented(place, console.width), style="dim"))
    documents = [citation.uri.rsplit("/", 1)[-1] for citation in answer.citations]
    return {"tenant": tenant.tenant_id, "question": question, "documents": documents, **answer.to_json()}


def _indented(text: str, width: int) -> str:
    return textwrap.fill(text, min(width, 100), initial_indent="    ", subsequent_indent="    ", break_long_words=False)


def _places(answer: Answer, tenant: DemoTenant) -> list[str]:
    from minirag_pipelines.ingest.connectors.files import file_path

    return [
        f"[{citation.rank}] {os.path.relpath(file_path(citation.uri), tenant.root)}"
        + (f", page {citation.page}" if citation.page else "")
        for citation in answer.citations
    ]


def _say_what_next(opened: Session, tenant: DemoTenant, report: dict[str, Any], console: Console) -> None:
    from minirag_pipelines.cli import remote_run

    command = _command()
    is_up = remote_run.answers(opened.settings)
    where = f"{opened.settings.ui_url}: " if is_up else f"{command} up, then in the browser: "
    console.print()
    console.print(Text(f"Done in {report['seconds']:.1f} s", style="bold"))
    for text in (
        f"See it   {where}Assets, group index, and the partition {tenant.tenant_id}",
        f'Ask on   {command} ask {tenant.tenant_id} "How often is the first-aid certificate renewed?"',
        f"Again    {command} demo",
    ):
        console.print(Text(f"  {text}"))


def _command() -> str:
    """What to type for this command: its name when that is found, its path otherwise."""
    if (found := shutil.which("minirag")) and Path(found).resolve() == Path(sys.argv[0]).resolve():
        return "minirag"
    path = os.path.relpath(sys.argv[0])
    return path if len(path) < len(sys.argv[0]) else sys.argv[0]
