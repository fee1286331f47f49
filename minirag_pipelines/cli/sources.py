"""`minirag source …`: where a tenant's documents come from."""

from __future__ import annotations

from typing import Annotated

import typer

from minirag_pipelines.cli.output import AsJson, print_done, print_json, print_table
from minirag_pipelines.cli.session import catalog_of, session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.records import Source

app = typer.Typer(no_args_is_help=True, help="Sources: where a tenant's documents come from.")


@app.command()
def add(
    tenant: TenantId,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="files: a folder, or a single file.")],
    name: Annotated[str, typer.Option(help="What the source is called, within the tenant.")],
    path: Annotated[
        str | None, typer.Option(metavar="DIR", help="files: the folder, the file, or an fsspec URL.")
    ] = None,
    glob: Annotated[
        str | None,
        typer.Option(metavar="G", help="files: which ones, such as '*.md' (at any depth) or 'guides/**/*.pdf'."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a source. Its documents are read at the next sync."""
    from minirag_pipelines.ingest.connectors.kinds import checked_config

    config = checked_config(
        kind, {key: value for key, value in {"path": path, "glob": glob}.items() if value is not None}
    )
    with catalog_of(tenant) as catalog:
        added = catalog.add_source(name, kind, config)
    print_done(_as_json(added), f"Added source {name}. Next: minirag sync {tenant}", as_json=as_json)


@app.command("list")
def list_(tenant: TenantId, as_json: AsJson = False) -> None:
    """A tenant's sources."""
    with catalog_of(tenant) as catalog:
        sources = catalog.sources()
    if as_json:
        print_json([_as_json(source) for source in sources])
        return
    print_table(
        ("name", "kind", "configuration", "created"),
        ([one.name, one.kind, ", ".join(f"{k}={v}" for k, v in one.config.items()), one.created_at] for one in sources),
        empty=f"No source yet: minirag source add {tenant} files --name docs --path DIR",
    )


@app.command()
def remove(
    tenant: TenantId, name: Annotated[str, typer.Argument(help="The source's name.")], as_json: AsJson = False
) -> None:
    """Remove a source, and at once the documents that no other source lists."""
    from minirag_pipelines.ingest.publishing import remove_source

    with session() as opened:
        opened.tenant(tenant)
        with opened.database.writer(tenant, wait_s=30) as writer, writer.writing() as transaction:
            removed = remove_source(transaction, name)
    print_done(
        {"source": name, "documents_removed": removed},
        f"Removed source {name} and {removed:,} documents; no question returns them any more.",
        as_json=as_json,
    )


def _as_json(source: Source) -> dict[str, object]:
    return {
        "source_id": source.source_id,
        "name": source.name,
        "kind": source.kind,
        "config": source.config,
        "created_at": source.created_at,
    }
