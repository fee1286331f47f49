"""Forgetting, trying again, changing the model and going back, by the command as a process."""

from __future__ import annotations

import pytest

from tests.cli.command import Command
from tests.fakes import OpenAIServer

pytestmark = [pytest.mark.postgres, pytest.mark.chroma, pytest.mark.dagster]


def test_a_document_is_forgotten_and_restored(acme: Command) -> None:
    acme.json("sync", "acme")
    forgotten = acme.json("documents", "forget", "acme", "docs/ferry.md")
    assert (forgotten["state"], forgotten["erased"]) == ("forgotten", True)
    assert acme.json("search", "acme", "night ferry")["hits"] == []
    assert acme.json("sync", "acme")["collection"]["documents"] == 0
    assert [one["state"] for one in acme.json("documents", "acme")] == ["forgotten"]
    assert acme.json("documents", "restore", "acme", forgotten["uri"])["document_id"] == forgotten["document_id"]
    assert acme.json("sync", "acme")["collection"]["documents"] == 1
    missing = acme.run("documents", "forget", "acme", "docs/other.md")
    assert (missing.returncode, missing.stderr.strip()) == (1, "minirag: There is no document 'docs/other.md'.")


def test_what_failed_is_tried_again_at_once_when_asked(acme: Command) -> None:
    docs = acme.folder / "docs"
    (docs / "link.md").symlink_to(acme.folder / "later.md")
    assert acme.json("sync", "acme")["status"] == "warning"
    [failed] = acme.json("documents", "acme", "--state", "quarantined")
    assert failed["attempts"] == 1
    assert failed["first_failed_at"] <= failed["last_failed_at"] < failed["next_attempt_at"]
    again = acme.json("documents", "retry", "acme")
    assert again["documents"]["quarantined"] == 1
    assert acme.json("documents", "list", "acme", "--state", "quarantined")[0]["attempts"] == 2
    assert acme.run("documents", "retry", "acme", "docs/ferry.md").returncode == 2


def test_a_tenant_leaves_a_model_that_is_gone_and_comes_back(acme: Command, provider: OpenAIServer) -> None:
    acme.json("sync", "acme")
    provider.refused_models = {"text-embedding-3-small"}
    (acme.folder / "docs" / "new.md").write_text("A harbour was built.")
    refused = acme.json("sync", "acme", exits=1)
    assert "refused" in refused["error"]
    assert refused["collection"] == {"generation": 1, "documents": 1, "chunks": 1}
    acme.json("tenant", "set", "acme", "--embedding-model", "openai/text-embedding-3-large")
    done = acme.json("sync", "acme")
    assert done["status"] == "warning"
    assert any("refused" in problem for problem in done["sources"]["problems"])
    assert done["build"] == {"generation": 2, "documents": 2, "left": 0, "live": True}
    assert done["collection"] == {"generation": 2, "documents": 2, "chunks": 2}
    assert done["embeddings"]["embedded"] == 2
    assert [(one["number"], one["state"]) for one in acme.json("generations", "acme")] == [(1, "kept"), (2, "live")]
    provider.refused_models = set()
    back = acme.json("generations", "rollback", "acme")
    assert back == {"generation": 1, "displaced": 2, "documents_changed": 0, "documents_added": 1}
    assert "A harbour was built." in [hit["text"] for hit in acme.json("search", "acme", "harbour")["hits"]]
    assert acme.json("tenant", "show", "acme")["embedding_model"] == "openai/text-embedding-3-small"
    after = acme.json("sync", "acme")
    assert (after["build"], after["collection"]["documents"], after["collection"]["generation"]) == (None, 2, 1)


def test_a_failed_sync_names_its_source_among_the_problems(acme: Command) -> None:
    acme.json("sync", "acme")
    (acme.folder / "docs").rename(acme.folder / "away")
    failed = acme.json("sync", "acme", exits=1)
    assert failed["collection"] == {"generation": 1, "documents": 1, "chunks": 1}
    assert failed["sources"]["problems"] == [
        "docs: No such file or directory. Nothing of it was removed. If it is meant to be empty, sync with --allow-empty."
    ]


@pytest.mark.parametrize("home", ["file", "file/below", "/proc/minirag"])
def test_a_home_that_can_not_be_a_folder_is_said(minirag: Command, home: str) -> None:
    for name in ("MINIRAG_DATABASE_URL", "MINIRAG_CHROMA_URL"):
        del minirag.environment[name]
    (minirag.folder / "file").touch()
    minirag.environment["MINIRAG_HOME"] = str(minirag.folder / home)
    done = minirag.run("tenant", "list")
    assert done.returncode == 2
    assert "MINIRAG_HOME" in done.stderr
