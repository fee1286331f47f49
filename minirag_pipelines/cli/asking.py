"""`minirag search` and `minirag ask`: questions to a tenant's live collection, as its operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.text import Text

from minirag_pipelines.cli.output import AsJson, out, print_json, progress
from minirag_pipelines.cli.session import session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.records import AuthContext, heading_path
from minirag_serving import MiniRAG

Question = Annotated[str, typer.Argument(metavar="QUESTION", help="In a natural language.")]


def search(
    tenant: TenantId,
    question: Question,
    top_k: Annotated[int, typer.Option(metavar="N", help="How many passages.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The passages nearest to a question, with where they stand."""
    with _serving(tenant) as (minirag, who), progress("Searching"):
        found = minirag.search(who, question, top_k=top_k)
    if as_json:
        print_json(found.to_json())
        return
    if found.generation is None:
        out.print(f"Nothing has been synced yet: minirag sync {tenant}", markup=False)
    for hit in found.hits:
        page = f", page {hit.page}" if hit.page else ""
        out.print(Text(f"[{hit.rank}] {hit.score:.3f}  {hit.uri}{page}", style="bold"))
        if hit.headings:
            out.print(Text("    " + heading_path(hit.headings), style="dim"))
        out.print(Text(hit.text.strip()), "")


def ask(
    tenant: TenantId,
    question: Question,
    bot: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which bot; default: quotes from the passages.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """An answer from a tenant's documents, with its citations."""
    with _serving(tenant) as (minirag, who), progress("Asking"):
        answer = minirag.ask(who, question, bot=bot)
    if as_json:
        print_json(answer.to_json())
        return
    out.print(Text(answer.text))
    for citation in answer.citations:
        page = f", page {citation.page}" if citation.page else ""
        start, end = citation.span
        out.print(Text(f"  [{citation.rank}] {citation.uri}{page}, characters {start:,}–{end:,}", style="dim"))


@contextmanager
def _serving(tenant: str) -> Iterator[tuple[MiniRAG, AuthContext]]:
    """Serving, for the operator: whoever may run this command may ask for any tenant."""
    with session() as opened:
        opened.tenant(tenant)
        with MiniRAG(opened.settings) as minirag:
            yield minirag, AuthContext(tenant, "operator", None, frozenset({"query"}))
