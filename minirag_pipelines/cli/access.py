"""`minirag token …` and `minirag bot …`: who may ask, and how their questions are answered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from minirag_pipelines.cli.output import AsJson, out, print_done, print_json, print_table, say
from minirag_pipelines.cli.session import catalog_of
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.catalog import SCOPES
from minirag_pipelines.core.errors import InvalidInput
from minirag_pipelines.core.providers.models import LOCAL_CHAT_MODEL
from minirag_pipelines.core.providers.registry import chat_model
from minirag_pipelines.core.records import Bot, Token

tokens = typer.Typer(no_args_is_help=True, help="Tokens: what a caller shows to ask for a tenant.")
bots = typer.Typer(no_args_is_help=True, help="Bots: a tenant's assistants: chat model, prompt, retrieval settings.")


@tokens.command()
def issue(
    tenant: TenantId,
    name: Annotated[str, typer.Option(help="What the token is for.")] = "token",
    scope: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SCOPES)}; may be given again.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Expires after so many days; default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a token. It is shown once and stored as a hash only."""
    scopes = tuple(scope or ["query"])
    if unknown := [one for one in scopes if one not in SCOPES]:
        raise InvalidInput("scope", f"{unknown[0]!r} is none of {', '.join(SCOPES)}.")
    expires_at = datetime.now(tz=UTC) + timedelta(days=days) if days else None
    with catalog_of(tenant) as catalog:
        token, issued = catalog.issue_token(name, scopes=scopes, expires_at=expires_at)
    if as_json:
        print_json({"token": token} | _token_json(issued))
    else:
        out.print(token, markup=False)
        say("It is not shown again.")


@tokens.command("list")
def list_tokens(tenant: TenantId, as_json: AsJson = False) -> None:
    """A tenant's tokens, without the tokens themselves."""
    with catalog_of(tenant) as catalog:
        found = catalog.tokens()
    if as_json:
        print_json([_token_json(token) for token in found])
        return
    print_table(
        ("id", "name", "scopes", "created", "expires", "revoked"),
        ([t.token_id, t.name, ", ".join(t.scopes), t.created_at, t.expires_at, t.revoked_at] for t in found),
        empty=f"No token yet: minirag token issue {tenant}",
    )


@tokens.command()
def revoke(
    tenant: TenantId,
    token: Annotated[str, typer.Argument(help="The token's id, or its name where only one has it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a token: the next request that shows it is refused."""
    with catalog_of(tenant) as catalog:
        revoked = catalog.revoke_token(token)
    print_done(_token_json(revoked), f"Revoked token {revoked.name} ({revoked.token_id}).", as_json=as_json)


@bots.command("add")
def add_bot(
    tenant: TenantId,
    name: Annotated[str, typer.Argument(help="What the bot is called, within the tenant.")],
    model: Annotated[
        str,
        typer.Option(help=f"{LOCAL_CHAT_MODEL} quotes; any LiteLLM model such as anthropic/claude-sonnet-4-5 writes."),
    ] = LOCAL_CHAT_MODEL,
    prompt: Annotated[str, typer.Option(help="How it should answer.")] = "",
    top_k: Annotated[int, typer.Option(min=1, max=100, help="How many passages it reads.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Add a bot: ask it with `minirag ask TENANT QUESTION --bot NAME`."""
    chat_model(model)
    with catalog_of(tenant) as catalog:
        added = catalog.add_bot(name, model=model, prompt=prompt, top_k=top_k)
    print_done(_bot_json(added), f"Added bot {name}, which answers with {model}.", as_json=as_json)


@bots.command("list")
def list_bots(tenant: TenantId, as_json: AsJson = False) -> None:
    """A tenant's bots."""
    with catalog_of(tenant) as catalog:
        found = catalog.bots()
    if as_json:
        print_json([_bot_json(bot) for bot in found])
        return
    print_table(
        ("name", "model", "top_k", "prompt"),
        ([bot.name, bot.model, bot.top_k, bot.prompt] for bot in found),
        empty=f"No bot yet: minirag bot add {tenant} NAME",
    )


def _token_json(token: Token) -> dict[str, object]:
    return {
        "token_id": token.token_id,
        "name": token.name,
        "scopes": token.scopes,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


def _bot_json(bot: Bot) -> dict[str, object]:
    return {"bot_id": bot.bot_id, "name": bot.name, "model": bot.model, "prompt": bot.prompt, "top_k": bot.top_k}
