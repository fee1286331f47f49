"""`minirag sync`: the `sync` job for one tenant, and what it did.

While the stack is up the run is launched through its webserver, like a click in the UI. Otherwise it is done in this
process, as a run of the same job that the UI shows later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from minirag_pipelines.cli.output import AsJson, out, print_json, progress, say
from minirag_pipelines.cli.session import session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.settings import Settings

# What Dagster calls our definitions: the code location, and the only repository in it.
LOCATION, REPOSITORY = "minirag", "__repository__"
STEPS = {
    "sources": "listing sources",
    "documents": "reading and parsing documents",
    "chunks": "cutting chunks",
    "embeddings": "embedding",
    "collection": "publishing",
}


@dataclass(slots=True)
class Outcome:
    """How a run ended: `metadata` is what each asset reported, `error` one sentence when it failed."""

    run_id: str
    succeeded: bool
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None


Runner = Callable[[Settings, str, Mapping[str, Any], Callable[[str], None]], Outcome]


def sync(
    tenant: TenantId,
    force: Annotated[bool, typer.Option(help="Read everything again and try again what failed.")] = False,
    allow_empty: Annotated[
        bool, typer.Option(help="Believe a source that lists nothing where there were documents.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a tenant's live collection up to date with its sources."""
    with session() as opened:
        opened.tenant(tenant)
        report = synced(opened.settings, tenant, force=force, allow_empty=allow_empty)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report["status"] == "failed":
        say(report["error"])
        raise typer.Exit(1)


def synced(settings: Settings, tenant: str, *, force: bool = False, allow_empty: bool = False) -> dict[str, Any]:
    """Sync a tenant and wait; the report, also of a run that failed."""
    began = time.monotonic()
    config = {"ops": {"sources": {"config": {"force": force, "allow_empty": allow_empty}}}}
    with progress(f"Syncing {tenant}") as update:
        outcome = runner(settings)(settings, tenant, config, lambda words: update(f"Syncing {tenant}: {words}"))
    return report_of(tenant, outcome, time.monotonic() - began)


def report_of(tenant: str, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The report's stable shape, from what the assets have reported."""
    listed, read, cut, embedded, published = (outcome.metadata.get(asset, {}) for asset in STEPS)
    problems = listed.get("problems", [])
    warned = problems or read.get("quarantined") or embedded.get("refused")
    report = {
        "tenant": tenant,
        "run_id": outcome.run_id,
        "status": "failed" if not outcome.succeeded else "warning" if warned else "ok",
        "sources": _counts(listed, "new", "changed", "renamed", "removed", "unchanged") | {"problems": problems},
        "documents": _counts(read, "parsed", "reused", "quarantined") | {"reasons": read.get("reasons", {})},
        "chunks": {
            "added": cut.get("added", 0),
            "kept": cut.get("kept", 0),
            "dropped": cut.get("dropped", 0) + listed.get("chunks_removed", 0),
        },
        "embeddings": _counts(embedded, "embedded", "reused", "refused", "tokens")
        | {"cost_usd": embedded.get("cost_usd") if embedded else 0.0},
        "collection": _counts(published, "generation", "documents", "chunks"),
        "seconds": round(seconds, 2),
    }
    return report if outcome.succeeded else report | {"error": outcome.error or "The run failed."}


def _counts(metadata: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: metadata.get(name, 0) for name in names}


def runner(settings: Settings) -> Runner:
    """The webserver's way while it is up, this process's own otherwise; Dagster is imported only by the latter."""
    from minirag_pipelines.cli import remote_run

    if remote_run.answers(settings):
        return remote_run.run
    from minirag_pipelines.cli import local_run

    return local_run.run


def _show(report: Mapping[str, Any]) -> None:
    sources, read, cut = report["sources"], report["documents"], report["chunks"]
    embedded, published = report["embeddings"], report["collection"]
    cost = "cost unknown" if embedded["cost_usd"] is None else f"${embedded['cost_usd']:.4f}"
    out.print(f"{report['tenant']}: {report['status']}, {report['seconds']} s, run {report['run_id']}", markup=False)
    for name, words in (
        (
            "sources",
            ", ".join(f"{sources[one]:,} {one}" for one in ("new", "changed", "renamed", "removed", "unchanged")),
        ),
        ("documents", f"{read['parsed']:,} parsed, {read['reused']:,} known, {read['quarantined']:,} quarantined"),
        ("chunks", f"{cut['added']:,} added, {cut['kept']:,} kept, {cut['dropped']:,} dropped"),
        ("embeddings", f"{embedded['embedded']:,} embedded, {embedded['reused']:,} reused, {cost}"),
        (
            "collection",
            f"generation {published['generation']}, {published['documents']:,} documents, "
            f"{published['chunks']:,} chunks",
        ),
    ):
        out.print(f"  {name:<11} {words}", markup=False)
    for problem in sources["problems"]:
        out.print(f"  ! {problem}", markup=False)
    if read["quarantined"]:
        out.print(f"  ! see why: minirag documents {report['tenant']} --state quarantined", markup=False)
