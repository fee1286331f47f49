"""What the documentation says of commands, settings, links and files is so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from minirag_pipelines.cli.main import app
from minirag_pipelines.core.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Each name is a field of Settings, or set for a script of ours alone.
OTHER_VARIABLES = {"MINIRAG_PASSWORD"}


def commands() -> dict[str, set[str]]:
    """The options of every command, by what is typed: `minirag tenant add`."""
    return dict(_commands(typer.main.get_command(app), "minirag"))


def _commands(command: Any, path: str) -> Iterator[tuple[str, set[str]]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _commands(below, f"{path} {name}")
    else:
        options = [option for option in command.params if option.param_type_name == "option"]
        yield path, {name for option in options for name in (*option.opts, *option.secondary_opts)}


COMMANDS = commands()


def sections(page: Path) -> dict[str, str]:
    """The text under each heading that is a command, by the command without its arguments."""
    parts = re.split(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        if command := re.fullmatch(r"`(minirag [a-z -]+?)(?: \[?[A-Z_]+\]?)*`", heading):
            found[command[1]] = text
    return found


def commands_in(page: Path) -> set[str]:
    """What the page shows to be typed: in code spans, and in the lines of fenced code."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in fenced for line in block.splitlines()]
    typed = [line.removeprefix(".venv/bin/").split("  #")[0].strip() for line in (*lines, *spans)]
    return {line for line in typed if re.match(r"minirag [a-z]", line)}


def wrong_with(typed: str) -> str | None:
    """Why a line can't be typed, None when it can."""
    words = shlex.split(typed, comments=True)
    if f"minirag {words[1]} list" in COMMANDS and not any(
        f"minirag {words[1]} {word}" in COMMANDS for word in words[2:3]
    ):
        words.insert(2, "list")
    path = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in COMMANDS), None)
    if path is None:
        is_group = len(words) == 2 and any(name.startswith(f"minirag {words[1]} ") for name in COMMANDS)
        return None if is_group else "there is no such command"
    unknown = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - COMMANDS[path] - {"--help"}
    return f"it has no {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_can_be_typed(page: Path) -> None:
    wrong = {typed: reason for typed in commands_in(page) if (reason := wrong_with(typed))}
    assert not wrong


def test_the_command_reference_has_every_command_and_no_other() -> None:
    assert sections(ROOT / "docs" / "commands.md").keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_command_reference_has_every_option_and_no_other(command: str) -> None:
    text = sections(ROOT / "docs" / "commands.md")[command]
    items = [line for line in text.splitlines() if line.startswith("- `-")]
    assert {name for item in items for name in re.findall(r"`(--?[a-z-]+)`", item.split(":")[0])} == COMMANDS[command]


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "docker-compose.yml", ROOT / "Dockerfile", ROOT / "workspace.yaml"],
    ids=lambda page: page.name,
)
def test_every_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    named = set(re.findall(r"\bMINIRAG_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    assert named <= {f"MINIRAG_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `MINIRAG_{name.upper()}` \| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    assert row, f"docs/configuration.md has no row for MINIRAG_{name.upper()}"
    default = Settings.model_fields[name].default
    if default is not None:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert row[1] == f"`{shown}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8"))
    for target, anchor in targets:
        linked = (page.parent / target) if target else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_that_a_page_shows_is_there(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"`make (\w+)`", text) + re.findall(r"^make (\w+)", text, flags=re.MULTILINE)
    assert set(shown) <= targets


def test_a_page_of_the_documentation_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in readme] == []
