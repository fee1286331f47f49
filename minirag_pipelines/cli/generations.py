"""`minirag generations …`: the builds of a tenant's index, and the way back to the one before."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from minirag_pipelines.cli.groups import ListByDefault
from minirag_pipelines.cli.output import AsJson, print_done, print_json, print_table, progress
from minirag_pipelines.cli.session import catalog_of, session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import VectorStore

app = typer.Typer(
    cls=ListByDefault,
    no_args_is_help=True,
    help="Generations: the builds of a tenant's index. `minirag generations TENANT` lists them.",
)


@app.command("list")
def list_(tenant: TenantId, as_json: AsJson = False) -> None:
    """A tenant's generations: model, chunker, counts, state."""
    with catalog_of(tenant) as catalog:
        found = [_as_json(one) for one in Generations(catalog.transaction).all()]
    if as_json:
        print_json(found)
        return
    columns = (
        "number", "state", "embedding_model", "dimension", "chunk_tokens", "chunk_overlap", "documents", "chunks",
        "texts", "live_at",
    )  # fmt: skip
    print_table(
        columns,
        ([one[column] for column in columns] for one in found),
        empty=f"No generation yet: minirag sync {tenant}",
    )


@app.command()
def rollback(
    tenant: TenantId,
    to: Annotated[
        int | None, typer.Option(metavar="N", help="Which kept generation; default: the one that was live last.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a kept generation live again, and the tenant's settings its own."""
    from minirag_pipelines.core.providers.registry import embedder_of
    from minirag_pipelines.ingest.generating import roll_back

    with session() as opened:
        opened.tenant(tenant)
        vectors = VectorStore(opened.settings.chroma_url or "")
        # A sync that is building ends with its slice.
        wait_s = opened.settings.build_slice_s + 30
        with progress(f"Rolling back {tenant}"), opened.database.writer(tenant, wait_s=wait_s) as writer:
            done = roll_back(writer, vectors, embedder_of, to)
    words = f"Generation {done.live.number} of {tenant} is live again, and {done.displaced.number} is kept."
    if done.added:
        words += f" Documents that came since were brought into it: {done.added:,}."
    if done.changed:
        words += (
            f" Documents that changed since: {done.changed:,}; they answer as they last were there until the next "
            f"sync: minirag sync {tenant}"
        )
    print_done(
        {
            "generation": done.live.number,
            "displaced": done.displaced.number,
            "documents_changed": done.changed,
            "documents_added": done.added,
        },
        words,
        as_json=as_json,
    )


def _as_json(generation: Generation) -> dict[str, object]:
    shown = asdict(generation)
    del shown["tenant_id"], shown["chunker"]
    return shown | {
        "chunk_tokens": generation.chunker.max_tokens,
        "chunk_overlap": generation.chunker.overlap_tokens,
    }
