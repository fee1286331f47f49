"""The command as a process: what it prints, on which stream, and how it exits."""

from __future__ import annotations

import signal
import time

import psycopg
import pytest

from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.vector_store import VectorStore
from tests.cli.command import Command
from tests.cli.conftest import FERRY
from tests.fakes import OpenAIServer

pytestmark = [pytest.mark.postgres, pytest.mark.chroma, pytest.mark.dagster]


def test_the_main_job_from_the_command_line(acme: Command) -> None:
    done = acme.json("sync", "acme")
    assert done["status"] == "ok"
    assert {name: done["sources"][name] for name in ("new", "changed", "renamed", "removed", "unchanged")} == {
        "new": 1, "changed": 0, "renamed": 0, "removed": 0, "unchanged": 0,
    }  # fmt: skip
    assert done["documents"]["parsed"] == 1
    assert done["embeddings"]["embedded"] == done["chunks"]["added"] == done["collection"]["chunks"] == 1
    assert done["embeddings"]["cost_usd"] > 0
    found = acme.json("search", "acme", "When does the night ferry leave?", "--top-k", "2")
    assert (found["tenant"], found["generation"], len(found["hits"])) == ("acme", 1, 1)
    hit = found["hits"][0]
    assert set(hit) >= {
        "rank", "score", "text", "document_id", "source", "uri", "also_in", "title", "headings", "page", "span",
    }  # fmt: skip
    answer = acme.json("ask", "acme", "When does the night ferry leave?")
    assert set(answer) >= {"answer", "citations", "model", "usage", "seconds"}
    assert "22:40" in answer["answer"]
    assert answer["citations"][0]["document_id"] == hit["document_id"]
    assert set(answer["citations"][0]) >= {"rank", "document_id", "uri", "page", "span", "quote"}
    documents = acme.json("documents", "acme")
    assert [(one["state"], one["source"], one["chunks"], one["bytes"]) for one in documents] == [
        ("live", "docs", 1, len(FERRY))
    ]
    again = acme.json("sync", "acme")
    assert (again["status"], again["sources"]["unchanged"], again["embeddings"]["embedded"]) == ("ok", 1, 0)


def test_a_sync_with_a_bad_document_warns_and_says_why(acme: Command) -> None:
    (acme.folder / "docs" / "broken.docx").write_bytes(b"no archive")
    done = acme.json("sync", "acme")
    assert (done["status"], done["documents"]["quarantined"]) == ("warning", 1)
    quarantined = acme.json("documents", "acme", "--state", "quarantined")
    assert len(quarantined) == 1
    assert quarantined[0]["uri"].endswith("broken.docx")
    assert quarantined[0]["reason"]


def test_a_sync_that_fails_says_so_and_exits_with_1(acme: Command) -> None:
    (acme.folder / "docs").rename(acme.folder / "away")
    done = acme.json("sync", "acme", exits=1)
    assert done["status"] == "failed"
    assert "can't be listed" in done["error"]


def test_a_plan_says_what_the_sync_then_does_and_asks_neither_the_model_nor_chroma(
    acme: Command, provider: OpenAIServer
) -> None:
    provider.count_tokens = tokenizer_for("openai/text-embedding-3-small").count
    (acme.folder / "docs" / "broken.docx").write_bytes(b"no archive")
    chroma_url = acme.environment["MINIRAG_CHROMA_URL"]
    acme.environment["MINIRAG_CHROMA_URL"] = "http://127.0.0.1:1"
    planned = acme.json("plan", "acme")
    shown = acme.run("plan", "acme")
    assert (provider.stats()["requests"], acme.json("documents", "acme")) == (0, [])
    acme.environment["MINIRAG_CHROMA_URL"] = chroma_url
    done = acme.json("sync", "acme")
    assert planned["sources"] == done["sources"]
    assert planned["chunks"] == done["chunks"]
    assert planned["quarantined"] == done["documents"]["reasons"] == {"corrupt": 1}
    assert planned["embeddings"] == {
        "texts": done["embeddings"]["embedded"],
        "reused": 0,
        "tokens": done["embeddings"]["tokens"],
        "cost_usd": pytest.approx(done["embeddings"]["cost_usd"]),
        "tokens_counted_by": "cl100k_base",
    }
    assert (planned["tenant"], planned["reasons"], planned["build"]) == ("acme", {"new": 2}, None)
    broken, ferry = planned["documents"]
    assert set(ferry) == {"document_id", "uri", "why", "texts", "tokens"}
    assert (broken["texts"], ferry["texts"], ferry["tokens"]) == (0, 1, planned["embeddings"]["tokens"])
    assert shown.returncode == 0
    assert "2 new" in shown.stdout
    assert ferry["uri"] in shown.stdout
    assert "nothing to do" in acme.run("plan", "acme").stdout


def test_a_plan_of_sources_that_can_not_be_listed_fails_as_the_sync_does(acme: Command) -> None:
    (acme.folder / "docs" / "ferry.md").unlink()
    (acme.folder / "docs").rmdir()
    done = acme.run("plan", "acme", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "can't be listed" in done.stderr


def test_a_killed_sync_does_not_block_its_tenant(acme: Command, provider: OpenAIServer) -> None:
    provider.delay_s = 30
    process = acme.start("sync", "acme")
    deadline = time.monotonic() + 60
    while provider.stats()["requests"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    provider.delay_s = 0
    done = acme.json("sync", "acme")
    assert done["status"] == "ok"
    assert done["collection"]["documents"] == 1


def test_tokens_and_bots(acme: Command) -> None:
    issued = acme.json("token", "issue", "acme", "--name", "ci")
    assert issued["token"].startswith("mr_")
    listed = acme.run("token", "list", "acme", "--json").stdout
    assert issued["token"] not in listed
    assert acme.json("token", "revoke", "acme", "ci")["revoked_at"]
    acme.json("bot", "add", "acme", "helper", "--model", "openai/gpt-4o-mini", "--top-k", "3")
    assert [bot["name"] for bot in acme.json("bot", "list", "acme")] == ["helper"]
    acme.json("sync", "acme")
    answer = acme.json("ask", "acme", "When does the night ferry leave?", "--bot", "helper")
    assert answer["model"].endswith("gpt-4o-mini")
    assert answer["citations"]


def test_a_removed_source_takes_its_documents_with_it(acme: Command) -> None:
    acme.json("sync", "acme")
    assert acme.json("source", "remove", "acme", "docs")["documents_removed"] == 1
    assert acme.json("search", "acme", "night ferry")["hits"] == []
    assert acme.json("source", "list", "acme") == []


def test_settings_of_a_tenant_can_be_changed(acme: Command) -> None:
    changed = acme.json("tenant", "set", "acme", "--chunk-tokens", "200", "--chunk-overlap", "20", "--name", "Acme Ltd")
    assert (changed["chunk_tokens"], changed["chunk_overlap"], changed["name"]) == (200, 20, "Acme Ltd")
    assert acme.json("tenant", "show", "acme")["chunk_tokens"] == 200
    assert [one["tenant_id"] for one in acme.json("tenant", "list")] == ["acme"]


def test_status_names_services_and_tenants(acme: Command) -> None:
    status = acme.json("status", "acme")
    assert set(status) >= {"ui_url", "api_url", "services", "tenants"}
    assert all(set(service) == {"name", "state", "pid", "log"} for service in status["services"])
    assert [tenant["tenant_id"] for tenant in status["tenants"]] == ["acme"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["sync", "nobody"], 1, "nobody"),
        (["plan", "nobody"], 1, "nobody"),
        (["search", "nobody", "question"], 1, "nobody"),
        (["tenant", "add", "No Id"], 2, "No Id"),
        (["tenant", "add", "acme", "--chunk-tokens", "100000"], 2, "chunk-tokens"),
        (["tenant", "add", "acme", "--embedding-model", "local/none"], 1, "local/all-MiniLM-L6-v2"),
        (["documents", "acme", "--state", "odd"], 2, "odd"),
        (["no-such-command"], 2, "no-such-command"),
        (["tenant"], 2, ""),
    ],
)
def test_wrong_usage_is_one_sentence_and_an_exit_code(
    minirag: Command, arguments: list[str], exit_code: int, words: str
) -> None:
    done = minirag.run(*arguments)
    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_a_missing_path_and_an_odd_kind_are_refused_when_the_source_is_added(acme: Command) -> None:
    for arguments, words in (
        (["files", "--path", "/no/such/folder"], "/no/such/folder"),
        (["files"], "path"),
        (["carrier-pigeon", "--path", "docs"], "carrier-pigeon"),
        (["files", "--path", "s3x://bucket/x"], "s3x"),
    ):
        done = acme.run("source", "add", "acme", arguments[0], "--name", "other", *arguments[1:])
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_an_unreachable_server_is_said_without_its_password(minirag: Command) -> None:
    minirag.environment["MINIRAG_DATABASE_URL"] = "postgresql://user:hunter2@127.0.0.1:1/minirag"
    done = minirag.run("tenant", "list")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "hunter2" not in minirag.run("tenant", "list", "--debug").stderr


def test_a_hit_is_explained_and_verified_until_its_source_changes(acme: Command) -> None:
    acme.json("sync", "acme")
    hit = acme.json("search", "acme", "When does the night ferry leave?")["hits"][0]
    for subject in (hit["chunk_id"], hit["document_id"], hit["uri"], "docs/ferry.md"):
        found = acme.json("explain", "acme", subject)
        assert (found["tenant"], found["source"]["name"], found["source"]["kind"]) == ("acme", "docs", "files")
        assert (found["document"]["document_id"], found["document"]["state"]) == (hit["document_id"], "live")
        assert found["version"]["version_id"] == hit["version_id"]
        assert [chunk["text"] for chunk in found["chunks"]] == [hit["text"]]
        assert found["chunks"][0]["embeddings"][0]["state"] == "there"
        assert found["generations"][0]["number"] == 1
        run_ids = {
            found["version"]["run_id"],
            found["chunker"]["run_id"],
            found["chunks"][0]["embeddings"][0]["run_id"],
            found["generations"][0]["run_id"],
        }
        assert run_ids == {found["version"]["run_id"]}
        assert found["verified"] == {
            "content": "identical", "parse": "identical", "chunks": "identical", "reason": None,
        }  # fmt: skip
    shown = acme.run("explain", "acme", "docs/ferry.md")
    assert shown.returncode == 0
    assert "22:40" in shown.stdout
    (acme.folder / "docs" / "ferry.md").write_text(FERRY.replace("22:40", "23:10"))
    assert acme.json("explain", "acme", hit["chunk_id"], exits=1)["verified"]["content"] == "changed"
    done = acme.run("explain", "acme", "docs/ferry.md")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has changed since" in done.stderr


def test_what_a_tenant_does_not_have_is_not_explained(acme: Command) -> None:
    acme.json("sync", "acme")
    hit = acme.json("search", "acme", "When does the night ferry leave?")["hits"][0]
    acme.run("tenant", "add", "other", "--embedding-model", "openai/text-embedding-3-small")
    for tenant, subject in (("other", hit["chunk_id"]), ("other", hit["document_id"]), ("acme", "docs/none.md")):
        done = acme.run("explain", tenant, subject)
        assert done.returncode == 1
        assert done.stderr.startswith("minirag: There is no chunk")


def test_drift_is_found_and_mended_without_the_model(acme: Command, provider: OpenAIServer, chroma_url: str) -> None:
    acme.json("sync", "acme")
    assert "nothing has drifted" in acme.run("reconcile", "acme").stdout
    (name,) = [one.name for one in VectorStore(chroma_url)._client.list_collections() if _is_of(acme, one.name)]
    VectorStore(chroma_url)._client.delete_collection(name)
    calls = provider.stats()["requests"]
    found = acme.json("reconcile", "acme", exits=1)
    assert (found["drifted"], found["mended"], found["found"][0]["lost"], found["found"][0]["missing"]) == (
        True, None, True, 1,
    )  # fmt: skip
    shown = acme.run("reconcile", "acme")
    assert shown.returncode == 1
    assert "Chroma has lost the collection." in shown.stdout
    assert "minirag reconcile acme --repair" in shown.stdout
    done = acme.json("reconcile", "acme", "--repair")
    assert (done["drifted"], done["mended"]["written"], done["left"][0]["sentences"]) == (False, 1, [])
    assert provider.stats()["requests"] == calls
    assert "22:40" in acme.json("search", "acme", "When does the night ferry leave?")["hits"][0]["text"]


def _is_of(command: Command, collection: str) -> bool:
    """Whether a collection of the shared server is one of the command's tenants'."""
    with psycopg.connect(command.environment["MINIRAG_DATABASE_URL"]) as admin:
        found = admin.execute("SELECT 1 FROM minirag.generation WHERE collection = %s", [collection]).fetchone()
    return found is not None
