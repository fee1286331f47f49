from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirag_pipelines.core.providers.lite_chat import LiteChat
from minirag_pipelines.core.providers.models import NOTHING_FOUND, Question, Reply, Turn, Usage
from minirag_serving.answering import Marks, answer, claims, quote, stream
from minirag_serving.records import Answer, Hit, SearchResult
from tests.fakes import OpenAIServer

REFUNDS = "Orders can be returned. Refunds are paid within 30 days of the return. Shipping is not refunded."
HOURS = "The office is open from 9 to 17 daily. It is closed on Sundays."


class Scripted:
    """A chat model that says what it was made with."""

    model = "test/scripted"

    def __init__(self, text: str, *, supported: bool = True, piece: int = 3) -> None:
        self.text, self.supported, self.piece = text, supported, piece
        self.asked: list[Question] = []

    def answer(self, question: Question) -> Reply:
        self.asked.append(question)
        return Reply(self.text, self.supported, self.model, Usage(1, 10, 5, None))

    def stream(self, question: Question) -> Iterator[str | Reply]:
        for start in range(0, len(self.text), self.piece):
            yield self.text[start : start + self.piece]
        yield self.answer(question)


def hit(rank: int, text: str, *, start: int = 0, end: int | None = None, page: int | None = None) -> Hit:
    return Hit(
        rank=rank,
        score=1 / rank,
        text=text,
        document_id=uuid.UUID(int=rank),
        version_id=uuid.UUID(int=100 + rank),
        source="handbook",
        uri=f"file:///{rank}.md",
        also_in=(),
        also_in_count=0,
        title="Handbook",
        headings=("Rules", "Returns"),
        page=page,
        span=(start, start + len(text) if end is None else end),
        chunk_id=f"chunk-{rank}",
        text_hash=f"{rank:064x}",
    )


def streamed(text: str, hits: Sequence[Hit], piece: int = 3) -> tuple[str, Answer]:
    *pieces, whole = stream("?", hits, Scripted(text, piece=piece))
    assert isinstance(whole, Answer)
    return "".join(str(part) for part in pieces), whole


def test_a_citation_quotes_the_sentence_that_supports_the_claim() -> None:
    document = "x" * 100 + REFUNDS
    found = answer("?", [hit(1, HOURS), hit(2, REFUNDS, start=100, page=4)], Scripted("You get it in 30 days [2]."))
    [citation] = found.citations
    assert citation.quote == "Refunds are paid within 30 days of the return."
    assert document[slice(*citation.span)] == citation.quote
    assert (citation.rank, citation.page, citation.uri) == (2, 4, "file:///2.md")
    assert citation.document_id == uuid.UUID(int=2)
    assert found.supported


def test_a_chunk_that_repeats_a_header_is_cited_by_its_whole_span() -> None:
    text = "| day | hours |\n\nThe office is open from 9 to 17."
    [citation] = answer("?", [hit(1, text, start=50, end=70)], Scripted("It is open from 9 to 17 [1].")).citations
    assert citation.span == (50, 70)
    assert citation.quote == "The office is open from 9 to 17."


def test_a_mark_that_names_no_passage_is_removed_and_counted() -> None:
    found = answer("?", [hit(1, HOURS)], Scripted("Open at 9 [1], they say [7]. Closed [2, 1] on Sundays [0]."))
    assert found.text == "Open at 9 [1], they say. Closed [1] on Sundays."
    assert found.invented == 3
    assert [citation.rank for citation in found.citations] == [1]


def test_marks_in_one_bracket_are_taken_apart() -> None:
    found = answer("?", [hit(1, HOURS), hit(2, REFUNDS)], Scripted("Both [1, 2]."))
    assert found.text == "Both [1][2]."
    assert [citation.rank for citation in found.citations] == [1, 2]


def test_a_year_in_brackets_and_an_index_in_code_are_no_marks() -> None:
    text = "In [2024] write `a[0]` or\n```\nb[9] = [1]\n```\nas told [1]."
    found = answer("?", [hit(1, HOURS)], Scripted(text))
    assert found.text == text
    assert found.invented == 0


def test_a_lonely_backtick_hides_marks_until_the_end_of_its_line_only() -> None:
    found = answer("?", [hit(1, HOURS)], Scripted("A ` here.\nOpen at 9 [1] [8]."))
    assert found.text == "A ` here.\nOpen at 9 [1]."


def test_an_answer_without_a_citation_is_not_supported() -> None:
    found = answer("?", [hit(1, HOURS)], Scripted("It is open, I am sure [3]."))
    assert not found.supported
    assert (found.text, found.invented, found.citations) == ("It is open, I am sure.", 1, ())


def test_a_model_that_finds_nothing_cites_nothing() -> None:
    found = answer("?", [hit(1, HOURS)], Scripted("Nothing in [1] answers this.", supported=False))
    assert not found.supported
    assert found.citations == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open at nine. [1] Closed on Sundays. [2]", {1: "Open at nine.", 2: "Closed on Sundays."}),
        ("Open at nine.[1] Closed on Sundays.[2]", {1: "Open at nine.", 2: "Closed on Sundays."}),
        ("- Open at nine [1]\n- Closed on Sundays [2]", {1: "- Open at nine", 2: "- Closed on Sundays"}),
        ("One [1]. Two [2]. Three [1].", {1: "One . Three .", 2: "Two ."}),
        ("No marks, `a[1]` is code.", {}),
    ],
)
def test_a_mark_bears_the_sentence_it_ends(text: str, expected: dict[int, str]) -> None:
    assert claims(text) == expected


def test_a_claim_in_another_language_is_given_the_first_sentence() -> None:
    assert REFUNDS[slice(*quote(REFUNDS, "払い戻しは可能です"))] == "Orders can be returned."


def test_a_claim_from_two_sentences_is_given_both() -> None:
    start, end = quote(HOURS, "The office is open from 9 to 17 but it is closed on Sundays")
    assert HOURS[start:end] == HOURS


def test_a_row_of_a_long_table_is_quoted_alone() -> None:
    rows = [f"| product {n} | {n * 7} euros | in stock |" for n in range(60)]
    start, end = quote("\n".join(rows), "Product 31 costs 217 euros")
    assert "\n".join(rows)[start:end] == rows[31]


@given(st.text(max_size=700), st.text(max_size=80))
def test_a_quote_is_never_empty_nor_long(text: str, claim: str) -> None:
    start, end = quote(text, claim)
    assert 0 <= start <= end <= len(text)
    assert end > start or not text.strip()


ANSWERS = st.lists(
    st.sampled_from(
        ["word", " ", "  ", "\n", ".", "[1]", "[2]", "[9]", "[1, 9]", "[", "]", "`", "```", "1", ", ", "[12"]
    )
).map("".join)


@given(ANSWERS, st.integers(1, 7))
def test_a_streamed_answer_is_the_answer(text: str, piece: int) -> None:
    hits = [hit(1, HOURS), hit(2, REFUNDS)]
    whole = answer("?", hits, Scripted(text))
    shown, last = streamed(text, hits, piece)
    assert shown == last.text == whole.text
    assert (last.citations, last.invented, last.supported) == (whole.citations, whole.invented, whole.supported)


def test_a_streamed_answer_holds_back_only_what_may_become_a_mark() -> None:
    marks = Marks([hit(1, HOURS)])
    assert marks.read("Open at 9 [") == "Open at 9"
    assert marks.read("9") == ""
    assert marks.read("] today") == " today"
    assert marks.end() == ""
    assert marks.invented == 1


def test_the_model_is_given_the_hits_the_bots_instructions_and_the_turns_before() -> None:
    model = Scripted("At 9 [1].")
    answer("And on Mondays?", [hit(1, HOURS)], model, instructions="Be kind.", history=[Turn("user", "Open?")])
    [asked] = model.asked
    assert (asked.text, asked.instructions, asked.history) == ("And on Mondays?", "Be kind.", (Turn("user", "Open?"),))
    [passage] = asked.passages
    assert (passage.rank, passage.text, passage.title, passage.headings) == (1, HOURS, "Handbook", ("Rules", "Returns"))


def test_an_answer_through_a_provider_is_cited() -> None:
    with OpenAIServer() as server:
        model = LiteChat("openai/gpt-4o-mini", credentials={"api_base": server.url, "api_key": "none"})
        found = answer("When are refunds paid?", [hit(1, REFUNDS), hit(2, HOURS)], model)
        *pieces, last = stream("When are refunds paid?", [hit(1, REFUNDS), hit(2, HOURS)], model)
    assert found.text == "".join(map(str, pieces)) == "Orders can be returned. [1]"
    assert isinstance(last, Answer)
    assert last.citations == found.citations
    assert found.citations[0].quote == "Orders can be returned."


def test_no_hits_are_no_answer_and_no_call() -> None:
    with OpenAIServer() as server:
        model = LiteChat("openai/gpt-4o-mini", credentials={"api_base": server.url})
        found = answer("When?", [], model)
        assert server.requests == 0
    assert (found.text, found.supported, found.usage.requests) == (NOTHING_FOUND, False, 0)


def test_an_answer_as_json() -> None:
    shown = answer("?", [hit(1, HOURS, page=2)], Scripted("Closed on Sundays [1].")).to_json()
    seconds = shown.pop("seconds")
    assert seconds >= 0
    assert shown == {
        "answer": "Closed on Sundays [1].",
        "citations": [
            {
                "rank": 1,
                "chunk_id": "chunk-1",
                "document_id": "00000000-0000-0000-0000-000000000001",
                "uri": "file:///1.md",
                "page": 2,
                "span": [HOURS.index("It"), len(HOURS)],
                "quote": "It is closed on Sundays.",
            }
        ],
        "model": "test/scripted",
        "usage": {"requests": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": None},
        "supported": True,
        "latency_ms": {},
    }


def test_a_search_result_as_json() -> None:
    shown = SearchResult("acme", 3, (hit(1, HOURS),), {"chroma": 2.5}).to_json()
    assert shown == {
        "tenant": "acme",
        "generation": 3,
        "hits": [
            {
                "rank": 1,
                "score": 1.0,
                "text": HOURS,
                "document_id": "00000000-0000-0000-0000-000000000001",
                "version_id": "00000000-0000-0000-0000-000000000065",
                "source": "handbook",
                "uri": "file:///1.md",
                "also_in": [],
                "also_in_count": 0,
                "title": "Handbook",
                "headings": ["Rules", "Returns"],
                "page": None,
                "span": [0, len(HOURS)],
                "chunk_id": "chunk-1",
                "text_hash": f"{1:064x}",
            }
        ],
        "latency_ms": {"chroma": 2.5},
    }


def test_answering_loads_neither_the_pipeline_nor_litellm() -> None:
    heavy = {"dagster", "unstructured", "pandas", "litellm", "openai", "onnxruntime", "chromadb", "tiktoken"}
    code = f"import sys, minirag_serving.answering; print(*(set({sorted(heavy)!r}) & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""
