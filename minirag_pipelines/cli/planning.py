"""`minirag plan`: what a sync would do now, why, and what it would cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minirag_pipelines.cli.output import AsJson, out, print_json, print_table, progress
from minirag_pipelines.cli.session import Session, session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.providers.registry import embedder_of

if TYPE_CHECKING:
    from minirag_pipelines.ingest.planning import Plan, PlannedBuild, PlannedDocument, Texts

# Of the documents, so many are shown to people; JSON has them all.
_SHOWN = 20
_WAIT_S = 30


def plan(
    tenant: TenantId,
    force: Annotated[bool, typer.Option(help="As if the sync were to read everything again.")] = False,
    allow_empty: Annotated[
        bool,
        typer.Option(help="As if the sync were to believe a source that lists nothing, or is not there."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What a sync would do now, why, and what it would cost. Nothing is changed, and no model is asked."""
    began = time.monotonic()
    with session() as opened:
        opened.tenant(tenant)
        with progress(f"Planning a sync of {tenant}"):
            found = planned(opened, tenant, force=force, allow_empty=allow_empty)
    report = report_of(tenant, found, time.monotonic() - began)
    if as_json:
        print_json(report)
    else:
        _show(report)


def planned(opened: Session, tenant_id: str, *, force: bool = False, allow_empty: bool = False) -> Plan:
    """Waits for a sync that runs. Raises SyncInProgress when it goes on for too long."""
    from minirag_pipelines.ingest.parser_pool import Parsing
    from minirag_pipelines.ingest.planning import plan_sync

    with opened.database.writer(tenant_id, wait_s=_WAIT_S, for_rehearsal=True) as writer:
        with opened.database.transaction(tenant_id) as transaction:
            catalog = Catalog(transaction)
            tenant, sources = catalog.tenant(), catalog.sources()
        return plan_sync(
            writer,
            tenant,
            sources,
            Parsing.of(opened.settings),
            embedder_of,
            force=force,
            allow_empty=allow_empty or opened.settings.allow_empty,
        )


def report_of(tenant: str, found: Plan, seconds: float) -> dict[str, Any]:
    """The plan's stable shape."""
    sources = found.sources
    return {
        "tenant": tenant,
        "sources": {
            "new": sources.new,
            "changed": sources.changed,
            "renamed": sources.renamed,
            "removed": sources.removed,
            "unchanged": sources.unchanged,
            "problems": sources.problems,
        },
        "reasons": dict(found.reasons.most_common()),
        "documents": [_document(document) for document in found.documents],
        "chunks": {name: getattr(found.chunks, name) for name in ("added", "kept", "dropped")},
        "embeddings": _texts(found.all_texts) | {"tokens_counted_by": found.tokenizer},
        "build": None if found.build is None else _build(found.build),
        "quarantined": dict(found.quarantined.most_common()),
        "seconds": round(seconds, 2),
    }


def _document(document: PlannedDocument) -> dict[str, Any]:
    return {
        "document_id": document.document_id,
        "uri": document.uri,
        "why": document.why,
        **({"from": document.was} if document.was else {}),
        "texts": document.texts.embedded,
        "tokens": document.texts.usage.prompt_tokens,
    }


def _build(build: PlannedBuild) -> dict[str, Any]:
    return {"reason": build.reason, "documents": build.documents, "chunks": build.chunks, **_texts(build.texts)}


def _texts(texts: Texts) -> dict[str, Any]:
    usage = texts.usage
    return {
        "texts": texts.embedded,
        "reused": texts.reused,
        "tokens": usage.prompt_tokens,
        "cost_usd": usage.cost_usd,
    }


def _show(report: dict[str, Any]) -> None:
    sources, chunks, build = report["sources"], report["chunks"], report["build"]
    out.print(f"{report['tenant']}: plan of a sync, {report['seconds']} s; nothing was changed", markup=False)
    lines = {
        "sources": ", ".join(
            f"{sources[one]:,} {one}" for one in ("new", "changed", "renamed", "removed", "unchanged")
        ),
        "why": ", ".join(f"{count:,} {why}" for why, count in report["reasons"].items()) or "nothing to do",
        "chunks": f"{chunks['added']:,} added, {chunks['kept']:,} kept, {chunks['dropped']:,} dropped",
        "embeddings": _words(report["embeddings"]),
    }
    if build is not None:
        lines["build"] = f"another {build['reason']}: {build['documents']:,} documents, {_words(build)}"
    if report["quarantined"]:
        lines["quarantined"] = ", ".join(f"{count:,} {reason}" for reason, count in report["quarantined"].items())
    for name, words in lines.items():
        out.print(f"  {name:<11} {words}", markup=False)
    for problem in sources["problems"]:
        out.print(f"  ! {problem}", markup=False)
    documents = sorted(report["documents"], key=lambda one: -one["tokens"])
    if documents:
        print_table(
            ("why", "texts", "tokens", "document"),
            ([one["why"], one["texts"], one["tokens"], one["uri"]] for one in documents[:_SHOWN]),
            empty="",
        )
    if len(documents) > _SHOWN:
        out.print(f"and {len(documents) - _SHOWN:,} more; --json lists them all.", markup=False)


def _words(texts: dict[str, Any]) -> str:
    cost = "cost unknown" if texts["cost_usd"] is None else f"${texts['cost_usd']:.4f}"
    return f"{texts['texts']:,} to embed, {texts['reused']:,} reused, {texts['tokens']:,} tokens, {cost}"
