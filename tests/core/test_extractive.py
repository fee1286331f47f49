from __future__ import annotations

from collections.abc import Sequence

import pytest

from minirag_pipelines.core.providers.extractive import MOST_EMBEDDED, Extractive, candidates
from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.models import (
    NOTHING_FOUND,
    ChatModel,
    Embedded,
    Passage,
    Purpose,
    Question,
    Reply,
)

REFUNDS = Passage(
    1,
    "# Refunds\n\nYou can return any item within 30 days of delivery. Refunds are paid to the card that was charged. "
    "Gift cards can't be returned.",
    ("Shop", "Refunds"),
)
SHIPPING = Passage(2, "Parcels leave our warehouse in Lyon every morning. Delivery to Norway takes five working days.")
OFFICES = Passage(
    3, "| City | Opened | Staff |\n|---|---|---|\n| Oslo | 1998 | 40 |\n| Lima | 2011 | 12 |", ("About us", "Offices")
)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return Extractive(MiniLM())


def ask(model: ChatModel, text: str, *passages: Passage) -> Reply:
    return model.answer(Question(text, passages))


def test_it_quotes_the_sentence_that_answers_with_the_mark_of_its_passage(model: ChatModel) -> None:
    reply = ask(model, "How long does delivery to Norway take?", REFUNDS, SHIPPING)
    assert reply.supported
    assert reply.text == "Delivery to Norway takes five working days. [2]"
    assert reply.model == "local/extractive"


def test_it_says_so_when_nothing_answers(model: ChatModel) -> None:
    for passages in ((REFUNDS, SHIPPING, OFFICES), (), (Passage(1, ""),), (Passage(1, "#\n\n—"),)):
        reply = ask(model, "Who painted the ceiling of the Sistine Chapel?", *passages)
        assert reply.text == NOTHING_FOUND
        assert not reply.supported


def test_a_row_of_a_table_is_told_with_its_header(model: ChatModel) -> None:
    reply = ask(model, "When was the office in Lima opened?", REFUNDS, SHIPPING, OFFICES)
    assert "City: Lima; Opened: 2011; Staff: 12 [3]" in reply.text


def test_what_is_quoted_stands_in_the_passages_in_their_order_and_once(model: ChatModel) -> None:
    twice = Passage(2, REFUNDS.text)
    reply = ask(model, "Can I return an item and how is the refund paid?", REFUNDS, twice)
    quotes = [part.rsplit(" [", 1)[0] for part in reply.text.split("\n\n")]
    assert 1 < len(quotes) <= 3
    assert len(set(quotes)) == len(quotes)
    places = [REFUNDS.text.index(quote) for quote in quotes]
    assert places == sorted(places)


def test_streaming_gives_sentences_that_add_up_to_the_reply(model: ChatModel) -> None:
    question = Question("Can I return an item and how is the refund paid?", (REFUNDS, Passage(2, REFUNDS.text)))
    *pieces, reply = model.stream(question)
    assert len(pieces) > 1
    assert isinstance(reply, Reply)
    assert "".join(str(piece) for piece in pieces) == reply.text == model.answer(question).text


def test_a_question_or_a_heading_is_context_and_never_an_answer() -> None:
    found = list(candidates(0, Passage(1, "# Opening hours\n\nWhen do you open? At nine. We close at six.")))
    assert [(one.context, one.quote) for one in found] == [
        ("When do you open?", "At nine."),
        ("", "We close at six."),
    ]


def test_an_answer_in_a_faq_is_found_by_its_question(model: ChatModel) -> None:
    faq = Passage(1, "How do I reset my password? Press the key on the left. What does it cost? Nothing at all.")
    assert ask(model, "how to reset a password", faq).text.startswith("Press the key on the left. [1]")


def test_tables_without_header_or_with_longer_rows_are_told_too() -> None:
    def quotes(text: str) -> list[str]:
        return [one.quote for one in candidates(0, Passage(1, text))]

    assert quotes("a | b") == ["a, b"]
    assert quotes("k | v\nx | 1 | extra\ny |  |") == ["k: x; v: 1; extra", "k: y"]
    assert quotes("Name\tAge\nAda\t36\n\nSome prose follows here.") == [
        "Name: Ada; Age: 36",
        "Some prose follows here.",
    ]


def test_no_question_embeds_more_than_so_many_sentences() -> None:
    class Counting(MiniLM):
        embedded = 0

        def embed(self, texts: Sequence[str], purpose: Purpose = "document") -> Embedded:
            Counting.embedded += len(texts)
            return super().embed(texts, purpose)

    passages = tuple(
        Passage(rank, " ".join(f"Fact {number} of part {rank}." for number in range(30))) for rank in range(1, 6)
    )
    Extractive(Counting()).answer(Question("Which fact is number 12 of part 4?", passages))
    assert 0 < Counting.embedded <= MOST_EMBEDDED + 1


def test_it_costs_nothing_and_counts_tokens(model: ChatModel) -> None:
    usage = ask(model, "How long does delivery to Norway take?", SHIPPING).usage
    assert usage.cost_usd == 0.0
    assert usage.prompt_tokens > 10
