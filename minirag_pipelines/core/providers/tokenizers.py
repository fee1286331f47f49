"""How a text is counted and cut: tokenizers that need no network, and sentences."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from minirag_pipelines.core.errors import ModelUnknown

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

    from minirag_pipelines.core.providers.models import Tokenizer

LOCAL_EMBEDDING_MODEL = "local/all-MiniLM-L6-v2"

# Of bert-base-uncased: 30,522 entries, Apache-2.0. The line number of an entry is its id.
_VOCABULARY = Path(__file__).with_name("bert-vocab.txt")
_VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

# LiteLLM carries OpenAI's file under the name that tiktoken's own cache would give it.
_CL100K = ("litellm_core_utils", "tokenizers", "9b5ad71b2ce5302211f9c61530b329a4922fc6a4")
_CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
# Source: tiktoken, tiktoken_ext/openai_public.py, cl100k_base.
_CL100K_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s"""
)

# A full stop ends a sentence before white space, a CJK one anywhere; closing quotes and brackets go with it.
_SENTENCE_END = re.compile(r"""(?<![.!?…؟۔।])[.!?…؟۔।]++["'”’»)\]]*+\s++|[。！？｡]++["'”’」』）】]*+\s*+|\n\s*\n""")
# fmt: off
_ABBREVIATIONS = frozenset((
    "al", "approx", "art", "bzw", "ca", "cap", "cf", "ch", "co", "corp", "dept", "dr", "ed", "eds", "eg", "eq", "evtl",
    "fig", "figs", "ggf", "jr", "lt", "mr", "mrs", "ms", "nos", "nr", "p", "pp", "prof", "ref", "refs", "rev", "sec",
    "sr", "sra", "st", "tab", "u.a", "u.s", "v", "vol", "vs", "z.b",
))
# fmt: on


def sentences(text: str) -> list[tuple[int, int]]:
    """The half-open character spans of a text's sentences, in order, without white space at either end.

    A rule of thumb for many languages: it knows common abbreviations and initials, and reads a line break as space.
    """
    spans, start = [], 0
    for found in _SENTENCE_END.finditer(text):
        if text[found.start()] == "." and _goes_on(text, start, found):
            continue
        spans.append((start, found.end()))
        start = found.end()
    spans.append((start, len(text)))
    return [trimmed for span in spans if (trimmed := trimmed_span(text, *span))]


def _goes_on(text: str, start: int, stop: re.Match[str]) -> bool:
    word = text[max(start, stop.start() - 12) : stop.start()].rsplit(None, 1)[-1:]
    last = word[0].lstrip("(['\"“").lower() if word else ""
    single_letter = len(last) == 1 and last.isalpha()
    # "z. B.", "e.g. this": dots inside mark an abbreviation, unless a new sentence plainly begins.
    dotted = "." in last and not text[stop.end() : stop.end() + 1].isupper()
    # A number alone is an ordinal or a list's mark: "am 3. Mai", "14. debt".
    return single_letter or dotted or last in _ABBREVIATIONS or (last.isdigit() and len(last) <= 2)


def trimmed_span(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span without white space at either end; None when nothing else is in it."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    return (start + left, start + len(piece.rstrip())) if left < len(piece) else None


@lru_cache(maxsize=64)
def tokenizer_for(model: str) -> Tokenizer:
    """The tokenizer that counts for this embedding model.

    Models whose own tokenizer is not at hand are counted as OpenAI's embedding models count (cl100k_base). Raises
    ModelUnknown where the tokenizer's file is missing or altered.
    """
    return word_pieces() if model == LOCAL_EMBEDDING_MODEL else _byte_pairs()


class WordPieces:
    """The uncased WordPiece tokenizer of BERT. Special tokens that stand in a text are read as ordinary words."""

    name = "wordpiece-bert-uncased"

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        return self.counts([text])[0]

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(start, end) for start, end in self._tokenizer.encode(text).offsets]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text's tokens, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]


class BytePairs:
    """OpenAI's byte pair encoding cl100k_base."""

    name = "cl100k_base"

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def count(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))

    def counts(self, texts: Sequence[str]) -> list[int]:
        # encode_ordinary_batch hands every text to a thread pool, which takes longer than the texts.
        return [self.count(text) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Tokens that share a character, because it is several bytes, each span all of it."""
        tokens = self._encoding.encode_ordinary(text)
        ends = list(accumulate(len(piece) for piece in self._encoding.decode_tokens_bytes(tokens)))
        # characters[i] is how many characters have begun by byte i: continuation bytes begin none.
        characters = list(accumulate((byte & 0xC0) != 0x80 for byte in text.encode()))
        return [(characters[start] - 1, characters[end - 1]) for start, end in pairwise([0, *ends])]


@lru_cache(maxsize=1)
def word_pieces() -> WordPieces:
    """The tokenizer of the local embedding model."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    lines = _checked(LOCAL_EMBEDDING_MODEL, _VOCABULARY, _VOCABULARY_SHA256).decode().split("\n")
    vocabulary = {entry: number for number, entry in enumerate(lines) if entry}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 (no password)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return WordPieces(tokenizer)


@lru_cache(maxsize=1)
def _byte_pairs() -> BytePairs:
    import tiktoken

    # Importing litellm takes seconds, and tiktoken.get_encoding downloads.
    litellm = importlib.util.find_spec("litellm")
    if litellm is None or litellm.origin is None:
        raise ModelUnknown("cl100k_base", "its file comes with the package litellm, which is not installed.")
    ranks = _checked("cl100k_base", Path(litellm.origin).parent.joinpath(*_CL100K), _CL100K_SHA256)
    return BytePairs(
        tiktoken.Encoding(
            "cl100k_base",
            pat_str=_CL100K_PATTERN,
            mergeable_ranks={
                base64.b64decode(token): int(rank) for token, rank in (line.split() for line in ranks.splitlines())
            },
            special_tokens={},
        )
    )


def _checked(model: str, path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelUnknown(model, f"{path.name} can't be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelUnknown(model, f"{path.name} is not the file that this version was made for.")
    return content
