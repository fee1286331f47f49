"""`minirag sync`: the `sync` job for one tenant, and what it did.

While the stack is up the run is launched through its webserver, like a click in the UI. Otherwise it is done in this
process, as a run of the same job that the UI shows later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from minirag_pipelines.cli.output import AsJson, out, print_json, progress, say
from minirag_pipelines.cli.session import Session, session
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

    def reported(self, asset: str) -> dict[str, Any]:
        """Nothing for an asset that the run did not come to."""
        return self.metadata.get(asset, {})


Runner = Callable[[Settings, str, Mapping[str, Any], Callable[[str], None]], Outcome]


def sync(
    tenant: TenantId,
    force: Annotated[bool, typer.Option(help="Read everything again and try again what failed.")] = False,
    allow_empty: Annotated[
        bool, typer.Option(help="Believe a source that lists nothing, or is not there: remove its documents.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a tenant's live collection up to date with its sources."""
    with session() as opened:
        opened.tenant(tenant)
        report = synced(opened, tenant, force=force, allow_empty=allow_empty)
    show_report(report, as_json=as_json)


def show_report(report: Mapping[str, Any], *, as_json: bool) -> None:
    """On stdout; that of a failed sync ends the command with exit code 1."""
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report["status"] == "failed":
        say(report["error"])
        raise typer.Exit(1)


def synced(opened: Session, tenant: str, *, force: bool = False, allow_empty: bool = False) -> dict[str, Any]:
    """Sync a tenant, slice after slice until nothing is left, and wait; the report, also of a sync that failed."""
    began = time.monotonic()
    run = runner(opened.settings)
    slices: list[Outcome] = []
    with progress(f"Syncing {tenant}") as update:
        while not slices or _goes_on(slices[-1]):
            asked = {"force": force and not slices, "allow_empty": allow_empty}
            config = {"ops": {"sources": {"config": asked}}}
            slices.append(run(opened.settings, tenant, config, lambda words: update(f"Syncing {tenant}: {words}")))
    [now] = opened.overviews([tenant])
    return report_of(tenant, slices, now, time.monotonic() - began)


def _goes_on(slice_: Outcome) -> bool:
    """Whether a slice has left something of a build to the next one; one that got nowhere has not."""
    done = slice_.reported("collection")
    moved = any(done.get(f"build_{name}") for name in ("documents", "chunks", "embedded", "reused"))
    return slice_.succeeded and bool(done.get("build_left")) and moved


def report_of(tenant: str, slices: Sequence[Outcome], now: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The report's stable shape, from what the assets have reported, slice by slice, and from how the tenant is now."""
    last = slices[-1]
    problems = _problems(slices)
    built = last.reported("collection")
    failed = built if "quarantined" in built else last.reported("documents")
    refused = built["build_refused"] if built.get("build_generation") else last.reported("embeddings").get("refused", 0)
    report = {
        "tenant": tenant,
        "run_id": last.run_id,
        "status": "warning" if problems or failed.get("quarantined") or refused else "ok",
        "sources": {name: _total(slices, "sources", name) for name in ("new", "changed", "renamed", "removed")}
        | {"unchanged": slices[0].reported("sources").get("unchanged", 0), "problems": problems},
        "documents": {name: _total(slices, "documents", name) for name in ("parsed", "reused")}
        | {"quarantined": failed.get("quarantined", 0), "reasons": failed.get("reasons", {})},
        "chunks": {
            "added": _total(slices, "chunks", "added") + _total(slices, "collection", "build_chunks"),
            "kept": _total(slices, "chunks", "kept"),
            "dropped": _total(slices, "chunks", "dropped")
            + _total(slices, "sources", "chunks_removed")
            + _total(slices, "collection", "build_dropped"),
        },
        "embeddings": {
            name: _total(slices, "embeddings", name) + _total(slices, "collection", f"build_{name}")
            for name in ("embedded", "reused", "tokens")
        }
        | {"refused": refused, "cost_usd": _cost_usd(slices)},
        "collection": {
            "generation": now["generation"] or 0,
            "documents": now["documents"],
            "chunks": now["chunks"],
        },
        "build": _build(slices),
        "slices": len(slices),
        "seconds": round(seconds, 2),
    }
    return report if last.succeeded else report | {"status": "failed", "error": last.error or "The run failed."}


def _problems(slices: Sequence[Outcome]) -> list[str]:
    """Each once, though every slice has met it."""
    problems = [problem for slice_ in slices for problem in slice_.reported("sources").get("problems", [])]
    last = slices[-1]
    if not last.succeeded and "sources" not in last.metadata:
        problems.append(last.error or "The sources could not be listed.")
    problems += [one.reported("embeddings")["problem"] for one in slices if "problem" in one.reported("embeddings")]
    return list(dict.fromkeys(problems))


def _total(slices: Sequence[Outcome], asset: str, name: str) -> Any:
    return sum(slice_.reported(asset).get(name, 0) for slice_ in slices)


def _cost_usd(slices: Sequence[Outcome]) -> float | None:
    """None where the price of anything is not known."""
    total = 0.0
    for slice_ in slices:
        for asset, asked, cost in (
            ("embeddings", "embedded", "cost_usd"),
            ("collection", "build_generation", "build_cost_usd"),
        ):
            reported = slice_.reported(asset)
            if asked in reported and cost not in reported:
                return None
            total += reported.get(cost, 0.0)
    return total


def _build(slices: Sequence[Outcome]) -> dict[str, Any] | None:
    """The next generation, as far as it was built; None where none was."""
    last = slices[-1].reported("collection")
    if "build_generation" not in last:
        return None
    return {
        "generation": last["build_generation"],
        "documents": _total(slices, "collection", "build_documents"),
        "left": last["build_left"],
        "live": bool(last["build_swapped"]),
    }


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
    if build := report["build"]:
        state = "live now" if build["live"] else f"{build['left']:,} to go"
        out.print(
            f"  build       generation {build['generation']}, {build['documents']:,} documents, {state}", markup=False
        )
    for problem in sources["problems"]:
        if problem == report.get("error"):
            continue  # it is said at the end
        out.print(f"  ! {problem}", markup=False)
    if read["quarantined"]:
        out.print(f"  ! see why: minirag documents {report['tenant']} --state quarantined", markup=False)
