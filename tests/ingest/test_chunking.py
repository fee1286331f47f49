from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirag_pipelines.core.providers.models import Tokenizer
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import ChunkDraft, ChunkerSettings, Element, ParsedDocument, embedded_text
from minirag_pipelines.ingest.chunking import chunk, chunker_fingerprint

WORD_PIECES = tokenizer_for("local/all-MiniLM-L6-v2")
BYTE_PAIRS = tokenizer_for("text-embedding-3-small")


def document(*parts: tuple[str, str] | tuple[str, str, int]) -> ParsedDocument:
    """A document of (kind, text) or ("title", text, level), an empty line apart. A table's first line is its header."""
    elements, text = [], ""
    for kind, body, *level in parts:
        start, header_end = len(text), None
        if kind == "table":
            header_end = start + body.index("\n")
        elements.append(
            Element(kind, start, start + len(body), level=level[0] if level else None, header_end=header_end)
        )
        text += body + "\n\n"
    return ParsedDocument(None, text, tuple(elements))


def prose(topic: str, sentences: int) -> str:
    return " ".join(f"Sentence {number} of {topic} says what it says." for number in range(sentences))


def cut(
    parsed: ParsedDocument, tokens: int = 64, overlap: int = 0, tokenizer: Tokenizer = WORD_PIECES
) -> list[ChunkDraft]:
    drafts = chunk(parsed, ChunkerSettings(tokens, overlap), tokenizer)
    check(parsed, drafts, tokens, tokenizer)
    return drafts


def check(parsed: ParsedDocument, drafts: list[ChunkDraft], tokens: int, tokenizer: Tokenizer) -> None:
    """What holds of all chunks of all documents."""
    assert [draft.ordinal for draft in drafts] == list(range(len(drafts)))
    assert [draft.start for draft in drafts] == sorted(draft.start for draft in drafts)
    covered: set[int] = set()
    for draft in drafts:
        assert draft.tokens == tokenizer.count(embedded_text(draft.headings, draft.text)) <= tokens
        assert draft.start < draft.end
        assert draft.text.endswith(parsed.text[draft.start : draft.end])
        covered |= set(range(draft.start, draft.end))
    assert all(parsed.text[place].isspace() for place in set(range(len(parsed.text))) - covered)


def embedded(drafts: list[ChunkDraft]) -> list[str]:
    return [embedded_text(draft.headings, draft.text) for draft in drafts]


wild_text = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet="日本語。！漢字한국어ไทยกำ", max_size=80),
        st.text(alphabet="🤦🏽👨‍👩‍👧‍👦🇩🇪é́̂̃ ", max_size=40),
        st.text(alphabet="ab \n\t.|,", max_size=120),
        st.sampled_from(["x" * 10_000, "a\u0301" * 500, " " * 3_000, "\u200d" * 700, "0" * 2_000, "日" * 900]),
    ),
    max_size=6,
).map(" ".join)


@st.composite
def wild_documents(draw: st.DrawFn) -> ParsedDocument:
    elements, text = [], ""
    for _ in range(draw(st.integers(0, 7))):
        body = draw(wild_text)
        kind = draw(st.sampled_from(["title", "text", "text", "list_item", "table", "code"]))
        start, end = len(text), len(text) + len(body)
        level = draw(st.one_of(st.none(), st.integers(0, 4))) if kind == "title" else None
        header_end = draw(st.integers(start, end)) if kind == "table" and draw(st.booleans()) else None
        elements.append(Element(kind, start, end, level=level, header_end=header_end))
        text += body + draw(st.sampled_from(["\n", "\n\n", " ", ""]))
    return ParsedDocument(None, text, tuple(elements))


@settings(max_examples=150, deadline=None)
@given(wild_documents(), st.sampled_from([16, 17, 40, 254]), st.sampled_from([0, 4, 8]), st.booleans())
def test_whatever_the_text_no_chunk_is_too_long_and_nothing_is_lost(
    parsed: ParsedDocument, tokens: int, overlap: int, byte_pairs: bool
) -> None:
    cut(parsed, tokens, overlap, BYTE_PAIRS if byte_pairs else WORD_PIECES)


def test_a_text_of_white_space_gives_no_chunks() -> None:
    assert cut(ParsedDocument(None, "", ())) == []
    assert cut(ParsedDocument(None, " \n\n ", (Element("text", 0, 4),))) == []


def test_a_document_that_fits_is_one_chunk() -> None:
    (only,) = cut(document(("title", "Guide", 0), ("text", "Short."), ("title", "Use", 1), ("text", "Also short.")))
    assert only.text == "Guide\n\nShort.\n\nUse\n\nAlso short."
    assert only.headings == ()


def test_a_title_is_in_the_text_of_its_first_chunk_and_in_the_headings_of_the_later_ones() -> None:
    drafts = cut(
        document(("title", "Guide", 0), ("text", prose("a", 3)), ("title", "Install", 1), ("text", prose("b", 20)))
    )
    install = [draft for draft in drafts if "of b" in draft.text]
    assert install[0].text.startswith("Install\n\nSentence 0 of b")
    assert install[0].headings == ("Guide",)
    assert {draft.headings for draft in install[1:]} == {("Guide", "Install")}
    assert all("Install" not in draft.text for draft in install[1:])


def test_a_title_without_a_body_joins_what_follows_it() -> None:
    drafts = cut(
        document(
            ("title", "Part one", 0),
            ("title", "Chapter", 1),
            ("text", prose("a", 9)),
            ("title", "Empty", 1),
            ("title", "Last", 1),
            ("text", prose("b", 9)),
        )
    )
    assert drafts[0].text.startswith("Part one\n\nChapter\n\nSentence 0")
    assert any(draft.text.startswith("Empty\n\nLast\n\nSentence 0") for draft in drafts)
    assert not any(draft.text in ("Part one", "Chapter", "Empty", "Last") for draft in drafts)


def test_an_edit_in_one_section_leaves_the_chunks_of_the_others_as_they_are() -> None:
    def guide(edited: str) -> ParsedDocument:
        sections = [prose(topic, 14) for topic in ("alpha", "beta", "gamma", "delta")]
        sections[1] = edited + " " + sections[1]
        parts: list[tuple[str, str] | tuple[str, str, int]] = [("title", "Guide", 0)]
        for number, section in enumerate(sections):
            parts += [("title", f"Section {number}", 1), ("text", section)]
        return document(*parts)

    before, after = cut(guide("A start.")), cut(guide("Quite another beginning, with many more words than before."))
    others_before, others_after = (
        [text for text in embedded(drafts) if "beta" not in text] for drafts in (before, after)
    )
    assert others_before == others_after
    assert len(others_before) >= 6


def test_an_edited_paragraph_of_a_long_section_changes_few_chunks() -> None:
    paragraphs = [("text", prose(f"paragraph {number}", number % 5 + 2)) for number in range(60)]
    before = set(embedded(cut(document(*paragraphs), 128)))
    for edited in (0, 20, 40):
        other = list(paragraphs)
        other[edited] = ("text", "It now says something else. " + other[edited][1])
        after = set(embedded(cut(document(*other), 128)))
        assert len(after - before) <= 6, edited
    assert len(before) > 20


def test_paragraphs_are_kept_whole_where_that_fills_half_a_chunk() -> None:
    parsed = document(*[("text", prose(f"p{number}", 4)) for number in range(6)])
    for draft in cut(parsed, 100):
        assert draft.text.startswith("Sentence 0")
        assert draft.text.endswith("says what it says.")


def test_a_section_does_not_end_in_a_scrap() -> None:
    for sentences in range(8, 30):
        drafts = cut(document(("text", prose("a", sentences))), 100)
        assert min(draft.tokens for draft in drafts) >= 30, sentences


def test_small_neighbours_share_a_chunk_and_others_stand_alone() -> None:
    parts: list[tuple[str, str] | tuple[str, str, int]] = []
    for topic, sentences in (("a", 1), ("b", 1), ("c", 12), ("d", 1), ("e", 12)):
        parts += [("title", f"About {topic}", 0), ("text", prose(topic, sentences))]
    drafts = cut(document(*parts), 128)
    assert [re.findall("About .", draft.text) for draft in drafts] == [
        ["About a", "About b"],
        ["About c"],
        ["About d"],
        ["About e"],
    ]


def test_a_heading_path_takes_at_most_a_quarter_of_a_chunk() -> None:
    long, short = "A very long outer title that goes on and on and on and on", "Inner"
    drafts = cut(document(("title", long, 0), ("title", short, 1), ("text", prose("a", 30))), 48)
    assert drafts[-1].headings == (short,)


def test_a_table_that_is_split_repeats_its_header() -> None:
    rows = "\n".join(f"{year} | Ada | {year * 3}" for year in range(1900, 1940))
    drafts = cut(document(("text", "Before."), ("table", "Year | Name | Sum\n" + rows)), 64)
    assert len(drafts) > 3
    assert sum("Year | Name | Sum\n" in draft.text for draft in drafts) >= len(drafts) - 1
    for draft in drafts[1:]:
        lines = draft.text.splitlines()
        assert lines[0] == "Year | Name | Sum"
        assert all(re.fullmatch(r"\d{4} \| Ada \| \d+", line) for line in lines[1:])


def test_a_header_that_takes_more_than_half_a_chunk_is_not_repeated() -> None:
    header = " | ".join(f"column {number}" for number in range(40))
    drafts = cut(document(("table", header + "\n" + "\n".join(f"row {n} | {n}" for n in range(40)))), 64)
    assert not any(header in draft.text for draft in drafts)


def test_code_is_kept_whole_when_it_fits_and_else_cut_at_line_ends() -> None:
    short = "\n".join(f"    call_{number}(argument)" for number in range(4))
    drafts = cut(document(("text", prose("a", 4)), ("code", short), ("text", prose("b", 4))), 64)
    assert sum(short.strip() in draft.text for draft in drafts) == 1
    long = "\n".join(f"line_{number} = {number}" for number in range(60))
    lines = [line for draft in cut(document(("code", long)), 64) for line in draft.text.splitlines()]
    assert lines == long.splitlines()


def test_chunks_overlap_by_at_most_so_many_tokens_within_a_section() -> None:
    parsed = document(("title", "A", 0), ("text", prose("a", 30)), ("title", "B", 0), ("text", prose("b", 30)))
    drafts = cut(parsed, 100, 24)
    overlaps = 0
    for left, right in pairwise(drafts):
        shared = parsed.text[right.start : left.end]
        assert WORD_PIECES.count(shared) <= 24
        assert not ("of a" in right.text and "of b" in right.text)
        if shared:
            overlaps += 1
            assert shared.startswith("Sentence")
    assert overlaps >= 4


def test_a_long_sentence_overlaps_by_whole_words() -> None:
    parsed = document(("text", " ".join(f"word{number}" for number in range(200))))
    drafts = cut(parsed, 60, 12)
    starts = [draft.start for draft in drafts[1:]]
    assert all(parsed.text[start - 1] == " " for start in starts)
    assert all(right.start < left.end for left, right in pairwise(drafts))


def test_an_accent_is_not_parted_from_its_letter() -> None:
    parsed = document(("text", "e\u0301" * 400))
    for tokenizer in (WORD_PIECES, BYTE_PAIRS):
        assert all(not draft.text.startswith("\u0301") for draft in cut(parsed, 32, 0, tokenizer))


def test_a_chunk_is_on_the_page_on_which_its_own_text_begins() -> None:
    text = prose("one", 8) + "\n\n" + prose("two", 8)
    middle = text.index("\n\n")
    parsed = ParsedDocument(
        None, text, (Element("text", 0, middle, page=1), Element("text", middle + 2, len(text), page=2)), pages=2
    )
    assert [draft.page for draft in cut(parsed, 90)] == [1, 2]


@pytest.mark.parametrize("change", [{"max_tokens": 100}, {"overlap_tokens": 3}])
def test_the_fingerprint_names_settings_and_tokenizer(change: dict[str, int]) -> None:
    base = {"max_tokens": 254, "overlap_tokens": 0}
    one = chunker_fingerprint(ChunkerSettings(**base), "a")
    assert one == chunker_fingerprint(ChunkerSettings(**base), "a")
    assert one != chunker_fingerprint(ChunkerSettings(**(base | change)), "a")
    assert one != chunker_fingerprint(ChunkerSettings(**base), "b")
