"""`minirag`: every command, and how errors are said."""

from __future__ import annotations

import logging
import os
import sys

import typer
from rich.logging import RichHandler
from rich.text import Text

from minirag_pipelines.cli import (
    access,
    asking,
    demo,
    documents,
    explaining,
    generations,
    operating,
    planning,
    reconciling,
    sources,
    syncing,
    tenants,
)
from minirag_pipelines.cli.output import err
from minirag_pipelines.core.errors import InvalidInput, MiniRAGError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="MiniRAG turns the documents of many tenants into answers with citations.\n\n"
    "First steps: minirag demo · minirag up · minirag tenant add acme",
)
app.command()(operating.up)
app.command()(operating.down)
app.command()(operating.status)
app.add_typer(tenants.app, name="tenant")
app.add_typer(sources.app, name="source")
app.command()(syncing.sync)
app.command()(planning.plan)
app.command()(reconciling.reconcile)
app.add_typer(documents.app, name="documents")
app.add_typer(generations.app, name="generations")
app.command()(asking.search)
app.command()(asking.ask)
app.command()(explaining.explain)
app.add_typer(access.tokens, name="token")
app.add_typer(access.bots, name="bot")
app.command()(demo.demo)
app.command()(operating.doctor)
app.command()(operating.migrate)


def main() -> None:
    """Run the command; an error of ours is one sentence on stderr: exit code 2 for wrong usage, 1 for failure."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    level = logging.INFO if debug else logging.ERROR
    logging.basicConfig(level=level, handlers=[RichHandler(level, console=err)], format="%(message)s")
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
    try:
        app(args=arguments, prog_name="minirag")
    except MiniRAGError as error:
        if debug:
            raise
        err.print(Text(f"minirag: {error}"), style="red")
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    except BrokenPipeError:
        # What read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        err.print(Text(f"minirag: unexpected {type(error).__name__}: {error} (--debug shows where)"), style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
