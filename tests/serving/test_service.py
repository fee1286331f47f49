"""The Python surface, as a user's script has it."""

from __future__ import annotations

import pytest

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.errors import InvalidInput, NotAuthenticated, NotFound
from minirag_pipelines.core.settings import Settings
from minirag_serving import Answer, MiniRAG
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]


@pytest.fixture
def token(workbench: Workbench) -> str:
    workbench.write("ferry.txt", "The night ferry to Norhaven leaves at 22:40 from pier four.\n")
    workbench.sync()
    with workbench.database.transaction("acme") as transaction:
        catalog = Catalog(transaction)
        catalog.add_bot("writer", model="openai/gpt-4o-mini", prompt="Be brief.", top_k=3)
        return catalog.issue_token("test")[0]


def test_a_token_asks_its_own_tenant(workbench: Workbench, token: str, environment: None) -> None:
    with MiniRAG() as minirag:
        who = minirag.authenticate(token)
        assert who.tenant_id == "acme"
        assert "22:40" in minirag.search(who, "night ferry").hits[0].text
        with pytest.raises(NotAuthenticated):
            minirag.authenticate("mr_wrong")


def test_an_answer_cites_the_passage_it_stands_on(workbench: Workbench, token: str, environment: None) -> None:
    with MiniRAG() as minirag:
        answer = minirag.ask(minirag.authenticate(token), "When does the night ferry leave?", bot="writer")
    assert answer.supported
    assert answer.citations[0].uri.endswith("ferry.txt")
    assert "22:40" in answer.citations[0].quote
    assert set(answer.latency_ms) >= {"database_ms", "embedding_ms", "chroma_ms", "answer_ms"}


def test_streamed_pieces_make_up_the_answer(workbench: Workbench, token: str, environment: None) -> None:
    with MiniRAG() as minirag:
        *pieces, whole = minirag.stream(minirag.authenticate(token), "When does the night ferry leave?", bot="writer")
    assert isinstance(whole, Answer)
    assert "".join(str(piece) for piece in pieces) == whole.text
    assert whole.citations


def test_another_tenants_bot_is_not_found(workbench: Workbench, token: str, environment: None) -> None:
    workbench.add_tenant("other")
    with workbench.database.transaction("other") as transaction:
        theirs, _ = Catalog(transaction).issue_token("test")
    with MiniRAG() as minirag, pytest.raises(NotFound, match="writer"):
        minirag.ask(minirag.authenticate(theirs), "When does the night ferry leave?", bot="writer")


def test_no_address_is_said_with_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="minirag up"):
        MiniRAG(Settings())
