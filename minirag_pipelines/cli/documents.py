"""`minirag documents …`: what state each document is in, and why; forget one, restore it, try again what failed."""

from __future__ import annotations

from typing import Annotated

import typer

from minirag_pipelines.cli.groups import ListByDefault
from minirag_pipelines.cli.output import AsJson, print_done, print_json, print_table
from minirag_pipelines.cli.session import catalog_of, session
from minirag_pipelines.cli.syncing import show_report, synced
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.errors import InvalidInput, NotFound, SyncInProgress
from minirag_pipelines.core.records import Document, uuid_of

app = typer.Typer(
    cls=ListByDefault,
    no_args_is_help=True,
    help="Documents: what state each is in, and why. `minirag documents TENANT` lists them.",
)
STATES = ("live", "pending", "quarantined", "removed", "forgotten")

Uri = Annotated[str, typer.Argument(metavar="URI", help="The document's URI or id, or the path of a local file.")]


@app.command("list")
def list_(
    tenant: TenantId,
    state: Annotated[str | None, typer.Option(help=f"Only those: {', '.join(STATES)}.")] = None,
    as_json: AsJson = False,
) -> None:
    """A tenant's documents: what state each is in, and why."""
    if state is not None and state not in STATES:
        raise InvalidInput("state", f"{state!r} is none of {', '.join(STATES)}.")
    with catalog_of(tenant) as catalog:
        rows = [row._asdict() for row in Corpus(catalog.transaction).documents(state)]
    if as_json:
        print_json(rows)
        return
    columns = ("state", "uri", "chunks", "bytes", "reason")
    print_table(
        columns,
        ([row[column] for column in columns] for row in rows),
        empty="No document" + (f" is {state}." if state else " yet."),
    )


@app.command()
def forget(tenant: TenantId, uri: Uri, as_json: AsJson = False) -> None:
    """Take a document out of all answers at once, and for good, although its source still lists it."""
    from minirag_pipelines.ingest.erasing import erase_forgotten

    with session() as opened:
        opened.tenant(tenant)
        with opened.database.transaction(tenant) as transaction:
            corpus = Corpus(transaction)
            document = _document(corpus, uri)
            corpus.forget(document.document_id)
        erased = True
        try:
            with opened.database.writer(tenant) as writer:
                erase_forgotten(writer)
        except SyncInProgress:
            erased = False  # the sync that runs does it, or the next one
    print_done(
        {"document_id": document.document_id, "uri": document.uri, "state": "forgotten", "erased": erased},
        f"Forgot {document.uri}: no question returns it any more, and its vectors leave Chroma with the next sync. "
        f"To take it back: minirag documents restore {tenant} URI",
        as_json=as_json,
    )


@app.command()
def restore(tenant: TenantId, uri: Uri, as_json: AsJson = False) -> None:
    """Take back that a document was forgotten: the next sync reads it again."""
    with catalog_of(tenant) as catalog:
        corpus = Corpus(catalog.transaction)
        document = _document(corpus, uri)
        if not corpus.restore(document.document_id):
            raise InvalidInput("URI", f"{document.uri} is not forgotten.")
    when = "when its source lists it again" if document.removed_at else "after the next sync"
    print_done(
        {
            "document_id": document.document_id,
            "uri": document.uri,
            "state": "removed" if document.removed_at else "pending",
        },
        f"Restored {document.uri}; it answers {when}: minirag sync {tenant}",
        as_json=as_json,
    )


@app.command()
def retry(
    tenant: TenantId,
    uri: Annotated[
        str | None, typer.Argument(metavar="[URI]", help="Only this one: its URI or id, or a local file's path.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try again now what could not be read or parsed, by a sync."""
    with session() as opened:
        opened.tenant(tenant)
        with opened.database.transaction(tenant) as transaction:
            corpus = Corpus(transaction)
            document = None if uri is None else _document(corpus, uri)
            due = corpus.retry(None if document is None else document.document_id)
        if document is not None and not due:
            raise InvalidInput("URI", f"{document.uri} has not failed: there is nothing to try again.")
        report = synced(opened, tenant)
    show_report(report, as_json=as_json)


def _document(corpus: Corpus, uri: str) -> Document:
    """By URI or id, or by the path of a local file. Raises NotFound."""
    from minirag_pipelines.ingest.connectors.files import addresses

    found = corpus.find_document(uuid_of(uri), addresses(uri))
    if found is None:
        raise NotFound("document", uri)
    return found
