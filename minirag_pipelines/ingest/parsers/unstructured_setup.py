"""unstructured, made to work without a network and without costs that we have no use for."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType

# All that partitioners would otherwise detect from the text, slowly and with a random seed.
NO_LANGUAGES = [""]

_TOKEN = re.compile(r"\w+(?:['’]\w+)?|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+|(?<=[。！？])")
_VERBS = """
am is are was were be been being do does did done have has had having can could will would shall should may might must
isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't couldn't won't wouldn't shouldn't let's
it's that's there's i'm you're we're they're i've we've you've they've i'll we'll you'll say says said get gets got go
goes went gone make makes made take takes took taken see sees saw seen come comes came know knows knew known think
thinks thought give gives gave given find finds found tell tells told become becomes became leave leaves left feel
feels felt put puts bring brings brought begin begins began keep keeps kept hold holds held write writes wrote stand
stands stood hear hears heard let lets mean means meant set sets meet meets met run runs ran pay pays paid sit sits sat
speak speaks spoke lead leads led read reads grow grows grew lose loses lost fall falls fell send sends sent build
builds built understand draw draws drew break breaks broke spend spends spent rise rises rose drive drives drove buy
buys bought choose chooses chose use uses need needs want wants try tries call calls ask asks work works seem seems
help helps show shows turn turns start starts play plays move moves like likes live lives believe happen happens
include includes provide provides require requires allow allows contain contains follow follows
"""
_COMMON_VERBS = frozenset(_VERBS.split())
_VERB_ENDING = re.compile(r"[^\W\d_]{2,}(?:ed|ing|ize|izes|ise|ises|ify|ifies)")


@cache
def prepare() -> None:
    """Make the partitioners usable; to be called before the first import of one.

    unstructured downloads a spaCy model for its first text, though all it asks of it is where sentences end and
    whether there is a verb. Its telemetry and its notice are switched off.
    """
    os.environ.update(DO_NOT_TRACK="1", SCARF_NO_ANALYTICS="true", UNSTRUCTURED_DISABLE_NOTICE="1")
    with _without_spacy():
        from unstructured.nlp import tokenize

    # A private name: pyproject.toml pins the version, and a test fails when the name is gone.
    tokenize._load_spacy_model = _Tagger  # type: ignore[assignment]  # has the two attributes that are used of it
    tokenize._get_nlp.cache_clear()


@cache
def keep_single_characters() -> None:
    """Have the HTML partitioner keep a paragraph of one character, which it takes for none at all."""
    from unstructured.documents.elements import Text
    from unstructured.partition.html import parser

    derive = parser.derive_element_type_from_text

    def derive_or_text(text: str) -> type[Text] | None:
        return derive(text) or (Text if text.strip() else None)

    parser.derive_element_type_from_text = derive_or_text


@contextmanager
def _without_spacy() -> Iterator[None]:
    """An empty module in spaCy's place while unstructured imports it: a third of its import's time, and 45 MB.

    What spaCy would be used for is replaced anyway. Whoever imports it afterwards gets the real one.
    """
    if "spacy" in sys.modules:
        yield
        return
    sys.modules["spacy"] = ModuleType("spacy")
    try:
        yield
    finally:
        del sys.modules["spacy"]


class _Tagger:
    """What unstructured uses of a spaCy model: a call gives tokens with a tag, and sentences."""

    max_length = 1_000_000

    def __call__(self, text: str) -> _Tagged:
        return _Tagged(text)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str

    @property
    def tag_(self) -> str:
        """VB for what is, or looks like, an English verb."""
        word = self.text.lower()
        return "VB" if word in _COMMON_VERBS or _VERB_ENDING.fullmatch(word) else "NN"


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str


@dataclass(frozen=True, slots=True)
class _Tagged:
    text: str

    def __iter__(self) -> Iterator[_Token]:
        return (_Token(found[0]) for found in _TOKEN.finditer(self.text))

    @property
    def sents(self) -> Sequence[_Sentence]:
        return [_Sentence(text) for text in _SENTENCE_END.split(self.text) if text.strip()]
