from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirag_pipelines.core.errors import ModelUnknown
from minirag_pipelines.core.providers import tokenizers
from minirag_pipelines.core.providers.models import Tokenizer
from minirag_pipelines.core.providers.tokenizers import sentences, tokenizer_for

LOCAL = "local/all-MiniLM-L6-v2"
MODELS = [LOCAL, "text-embedding-3-small"]


@pytest.fixture(params=MODELS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_for(request.param)


def test_the_local_model_counts_in_word_pieces_and_every_other_in_byte_pairs() -> None:
    assert tokenizer_for(LOCAL).name == "wordpiece-bert-uncased"
    assert tokenizer_for("openai/text-embedding-3-large").name == "cl100k_base"
    assert tokenizer_for("ollama/nomic-embed-text").name == "cl100k_base"


def test_word_pieces_are_those_of_bert_base_uncased() -> None:
    pieces = tokenizers.word_pieces()
    # hello world · un ##aff ##able · cafe (accents and case fall away) · an emoji it does not know
    assert pieces.ids(["Hello world", "unaffable", "CAFÉ", "🦜"]) == [[7592, 2088], [14477, 20961, 3468], [7668], [100]]


def test_a_special_token_in_a_text_is_ordinary_words() -> None:
    assert tokenizers.word_pieces().ids(["[SEP]"]) == [[1031, 19802, 1033]]
    assert tokenizer_for("gpt").count("<|endoftext|>") == 7


def test_byte_pairs_are_those_of_cl100k() -> None:
    assert tokenizer_for("gpt").counts(["tiktoken is great!", "", "お誕生日おめでとう"]) == [6, 0, 9]


def test_importing_litellm_is_not_needed() -> None:
    code = (
        "import sys; from minirag_pipelines.core.providers.tokenizers import tokenizer_for; "
        "assert tokenizer_for('gpt').count('one two') == 2; assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_altered_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_VOCABULARY_SHA256", "0" * 64)
    tokenizers.word_pieces.cache_clear()
    with pytest.raises(ModelUnknown, match=r"bert-vocab\.txt is not the file"):
        tokenizers.word_pieces()
    tokenizers.word_pieces.cache_clear()


@given(st.lists(st.text(max_size=40), max_size=5))
def test_counting_together_counts_like_counting_singly(texts: list[str]) -> None:
    for model in MODELS:
        tokenizer = tokenizer_for(model)
        assert tokenizer.counts(texts) == [tokenizer.count(text) for text in texts]


@given(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("é日🤦🏽한 \n")), max_size=60))
def test_every_token_has_a_span_inside_the_text_in_order(text: str) -> None:
    for model in MODELS:
        tokenizer = tokenizer_for(model)
        spans = tokenizer.spans(text)
        assert len(spans) == tokenizer.count(text)
        assert all(0 <= start <= end <= len(text) for start, end in spans)
        assert sorted(start for start, _ in spans) == [start for start, _ in spans]


def test_tokens_of_one_character_share_its_span() -> None:
    text = "a 🤦 b"
    spans = tokenizer_for("gpt").spans(text)
    assert [text[start:end] for start, end in spans] == ["a", " 🤦", "🤦", "🤦", " b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Ada met J. R. Smith. He left.", ["Dr. Ada met J. R. Smith.", "He left."]),
        ("It costs 3.5 percent, e.g. now. Good.", ["It costs 3.5 percent, e.g. now.", "Good."]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("これは本です。あれは？はい！", ["これは本です。", "あれは？", "はい！"]),
        ("ما اسمك؟ اسمي آدا.", ["ما اسمك؟", "اسمي آدا."]),
        ("नमस्ते। कैसे हो?", ["नमस्ते।", "कैसे हो?"]),
        ("lower case. next one here.", ["lower case.", "next one here."]),
        ("wrapped\nline. Next\n\nparagraph", ["wrapped\nline.", "Next", "paragraph"]),
        ("am 3. Mai. Dann", ["am 3. Mai.", "Dann"]),
        ("  \n ", []),
        ("", []),
    ],
)
def test_sentences_are_told_apart(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@given(st.text(alphabet=st.sampled_from('ab.!?。 \n"Dr1'), max_size=80))
def test_sentences_cover_all_but_white_space(text: str) -> None:
    spans = sentences(text)
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_a_long_run_of_full_stops_is_read_in_linear_time() -> None:
    # Quadratic, this would take minutes and run into the suite's time limit.
    assert len(sentences("." * 300_000 + "x")) == 1
    assert len(sentences("\n" + " " * 300_000 + "x")) == 1
