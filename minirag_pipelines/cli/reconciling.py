"""`minirag reconcile`: whether PostgreSQL and Chroma still agree on a tenant's index, and mending what does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from minirag_pipelines.cli.output import AsJson, out, print_json, progress, say
from minirag_pipelines.cli.session import session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.vector_store import VectorStore

if TYPE_CHECKING:
    from minirag_pipelines.ingest.reconciling import Reconciliation
    from minirag_pipelines.ingest.repairing import Mended


def reconcile(
    tenant: TenantId,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what has drifted, from stored vectors: no model is asked.")
    ] = False,
    sample: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many vectors of each generation are compared.")
    ] = 1000,
    as_json: AsJson = False,
) -> None:
    """Compare PostgreSQL with Chroma, say what has drifted, and mend it if asked to."""
    from minirag_pipelines.ingest import reconciling

    with session() as opened, progress(f"Comparing {tenant} with its collections"):
        opened.tenant(tenant)
        vectors = VectorStore(opened.settings.chroma_url or "")
        done = reconciling.reconcile(opened.database, vectors, tenant, repair=repair, sample=sample)
    if as_json:
        print_json(_as_json(done))
    else:
        _show(done)
    if done.drifted:
        raise typer.Exit(1)


def _as_json(done: Reconciliation) -> dict[str, object]:
    return {
        "tenant": done.tenant_id,
        "drifted": done.drifted,
        "found": [drift.to_json() | {"sentences": drift.sentences()} for drift in done.found],
        "mended": asdict(done.mended) if done.mended else None,
        "left": [drift.to_json() | {"sentences": drift.sentences()} for drift in done.left],
    }


def _show(done: Reconciliation) -> None:
    for drift in done.found:
        for sentence in drift.sentences():
            out.print(sentence, markup=False)
    texts, compared = sum(one.texts for one in done.found), sum(one.compared for one in done.found)
    looked = f"{done.tenant_id}: {texts:,} texts in {len(done.found)} generations, {compared:,} vectors compared"
    if not any(one.drifted for one in done.found):
        out.print(f"{looked}: nothing has drifted.", markup=False)
    elif done.mended is None:
        out.print(f"{looked}. Mend it: minirag reconcile {done.tenant_id} --repair", markup=False)
    else:
        out.print(f"{looked}. {_mended(done.mended)}", markup=False)
        for drift in done.left:
            for sentence in drift.sentences():
                say(f"After the repair: {sentence}")


def _mended(mended: Mended) -> str:
    did = [
        words.format(f"{number:,}")
        for words, number in (
            ("{} vectors written", mended.written),
            ("{} ids deleted", mended.deleted),
            ("{} vectors recovered from Chroma", mended.recovered),
            ("{} texts left to the next sync", mended.marked),
            ("{} counters set", mended.counters),
        )
        if number
    ]
    return f"Mended: {', '.join(did) or 'nothing'}."
