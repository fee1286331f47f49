"""`minirag tenant …`: the customers, and how each one's documents are indexed."""

from __future__ import annotations

from typing import Annotated

import typer

from minirag_pipelines.cli.output import AsJson, print_done, print_json, print_table
from minirag_pipelines.cli.session import catalog_of, session
from minirag_pipelines.core.catalog import Catalog, tenant_ids
from minirag_pipelines.core.errors import InvalidInput
from minirag_pipelines.core.providers.models import Embedder
from minirag_pipelines.core.providers.registry import embedder
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL
from minirag_pipelines.core.records import ChunkerSettings, Tenant, checked_tenant_id

app = typer.Typer(no_args_is_help=True, help="Tenants: the unit of isolation, of partitioning and of cost.")

TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
Name = Annotated[str | None, typer.Option(help="A name for people.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help=f"{LOCAL_EMBEDDING_MODEL} (no key, no network), or LiteLLM's name of one: openai/text-embedding-3-small.",
    ),
]
Tokens = Annotated[int | None, typer.Option(metavar="N", help="The longest chunk, in tokens of the embedding model.")]
Overlap = Annotated[int | None, typer.Option(metavar="N", help="How many tokens of a chunk the next one repeats.")]
Portable = Annotated[
    bool | None,
    typer.Option(help="Write texts into Chroma too, for other readers of the collection."),
]
# What is cut by default where the model would take more: longer passages find worse.
_DEFAULT_TOKENS = 512


@app.command()
def add(
    tenant: TenantId,
    name: Name = None,
    embedding_model: Model = None,
    chunk_tokens: Tokens = None,
    chunk_overlap: Overlap = None,
    portable: Portable = None,
    as_json: AsJson = False,
) -> None:
    """Add a tenant. It becomes a partition in Dagster with its first sync, or when the daemon next looks."""
    checked_tenant_id(tenant)
    model = embedder(embedding_model or LOCAL_EMBEDDING_MODEL)
    chunker = _chunker(model, chunk_tokens, chunk_overlap, None)
    with session() as opened, opened.database.transaction(tenant) as transaction:
        added = Catalog(transaction).add_tenant(
            name=name, embedding_model=model.model, chunker=chunker, portable=bool(portable)
        )
    next_step = f"Next: minirag source add {tenant} files --name docs --path DIR"
    print_done(_as_json(added), f"Added tenant {tenant}. {next_step}", as_json=as_json)


@app.command("set")
def set_(
    tenant: TenantId,
    name: Name = None,
    embedding_model: Model = None,
    chunk_tokens: Tokens = None,
    chunk_overlap: Overlap = None,
    portable: Portable = None,
    as_json: AsJson = False,
) -> None:
    """Change a tenant. Another model or chunker is built beside the live index at the next sync, then swapped in."""
    with catalog_of(tenant) as catalog:
        current, chunker = catalog.tenant(), None
        if (embedding_model, chunk_tokens, chunk_overlap) != (None, None, None):
            model = embedder(embedding_model or current.embedding_model)
            chunker = _chunker(model, chunk_tokens, chunk_overlap, current.chunker)
        changed = catalog.change_tenant(name=name, embedding_model=embedding_model, chunker=chunker, portable=portable)
    print_done(_as_json(changed), f"Changed tenant {tenant}.", as_json=as_json)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """All tenants, with what each has."""
    with session() as opened:
        overviews = opened.overviews(tenant_ids(opened.database))
    if as_json:
        print_json(overviews)
        return
    columns = ("tenant_id", "name", "sources", "documents", "chunks", "pending", "quarantined", "changed_at")
    print_table(
        columns,
        ([overview[column] for column in columns] for overview in overviews),
        empty="There is no tenant yet: minirag tenant add ID",
    )


@app.command()
def show(tenant: TenantId, as_json: AsJson = False) -> None:
    """One tenant: its settings and what it has."""
    with catalog_of(tenant) as catalog:
        shown = _as_json(catalog.tenant()) | catalog.overview()._asdict()
    if as_json:
        print_json(shown)
    else:
        print_table(("", ""), shown.items(), empty="")


def _chunker(
    model: Embedder, tokens: int | None, overlap: int | None, current: ChunkerSettings | None
) -> ChunkerSettings:
    """Raises InvalidInput for chunks that the model would not read whole."""
    limit = model.max_tokens
    known = current.max_tokens if current else min(limit, _DEFAULT_TOKENS)
    chosen = known if tokens is None else tokens
    if chosen > limit:
        raise InvalidInput("chunk-tokens", f"{chosen} is more than the {limit} tokens that {model.model} reads.")
    return ChunkerSettings(chosen, overlap if overlap is not None else current.overlap_tokens if current else 0)


def _as_json(tenant: Tenant) -> dict[str, object]:
    return {
        "tenant_id": tenant.tenant_id,
        "name": tenant.name,
        "embedding_model": tenant.embedding_model,
        "chunk_tokens": tenant.chunker.max_tokens,
        "chunk_overlap": tenant.chunker.overlap_tokens,
        "portable": tenant.portable,
        "created_at": tenant.created_at,
    }
