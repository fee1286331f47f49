"""Bytes → text, whatever they were written in."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minirag_pipelines.core.errors import DocumentUnreadable

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

SAMPLE_BYTES = 64 * 1024
_BOMS = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What people name and what they mean: the wider set, as browsers read it. Source: WHATWG Encoding, Names and labels.
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
# C0 controls that no text holds: all but tab, line feed, form feed, carriage return, escape and the end-of-file mark.
_BINARY = bytes(set(range(32)) - {9, 10, 11, 12, 13, 26, 27})
# Those of the Macintosh before 2001: near enough to those of Windows to be taken for them in a short text.
_FORGOTTEN = [f"mac_{script}" for script in ("cyrillic", "greek", "iceland", "latin2", "roman", "turkish")]
_COMMON = ("cp1252", "cp1251")
_HIGH = bytes(range(128, 256))


@dataclass(frozen=True, slots=True)
class Decoded:
    """`warning` says that the text is a guess or not whole."""

    text: str
    warning: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        return (self.warning,) if self.warning else ()


def decoded(content: bytes, declared: str | None = None) -> Decoded:
    """The text of bytes: by byte order mark, as UTF-8, as declared, and at last by its look.

    Valid UTF-8 goes before what is declared, because it is hardly ever an accident and declarations are often wrong.
    Raises DocumentUnreadable: `unsupported` when this is no text, `encoding` when nothing fits it.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return _lenient(content, encoding)
    if (wide := _wide_encoding(content)) is not None:
        return _lenient(content, wide)
    sample = content[:SAMPLE_BYTES]
    if sample.isascii() and (escaped := _escaped_encoding(sample)) is not None:
        return _lenient(content, escaped)
    if len(sample.translate(None, _BINARY)) < 0.95 * len(sample):
        raise DocumentUnreadable("unsupported", "The content is not text, and of no other kind that can be read.")
    try:
        return Decoded(content.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    if (named := _codec(declared)) is not None and (text := _strict(content, named)) is not None:
        return Decoded(text)
    return _damaged_utf8(content) or _guessed(content)


def declared_in_markup(content: bytes) -> str | None:
    """The encoding that an XML prolog or an HTML meta element names in the first bytes."""
    head = content[:4096]
    found = re.search(rb"""<\?xml[^>]*\bencoding\s*=\s*["']([\w.:-]+)""", head) or re.search(
        rb"""<meta[^>]*\bcharset\s*=\s*["']?\s*([\w.:-]+)""", head, re.IGNORECASE
    )
    return found[1].decode("ascii") if found else None


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, told by where the zero bytes of its ASCII characters stand."""
    sample = content[:4096]
    if sample.count(0) <= len(sample) // 5:
        return None
    zeros = [sum(byte == 0 for byte in sample[offset::4]) * 4 / len(sample) for offset in range(4)]
    dense = [share > 0.5 for share in zeros]
    by_pattern = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return by_pattern.get((dense[0], dense[1], dense[2], dense[3]))


def _escaped_encoding(sample: bytes) -> str | None:
    """ISO 2022 is seven-bit, so it would pass for UTF-8."""
    if b"\x1b$)C" in sample:
        return "iso2022_kr"
    return "iso2022_jp_2" if b"\x1b$" in sample else None


def _codec(name: str | None) -> str | None:
    """The codec for a declared name, widened as browsers do; None for a name nobody knows."""
    if not name:
        return None
    label = re.sub(r"-[ie]$", "", name.strip().lower()) if "8859" in name else name.strip().lower()
    try:
        found = codecs.lookup(label)
    except LookupError:
        return None
    # Python's rot13, hex and the like are codecs too, but not of text.
    if not getattr(found, "_is_text_encoding", True):
        return None
    return _WIDER.get(found.name, found.name)


def _strict(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except (UnicodeDecodeError, UnicodeError):
        return None


def _lenient(content: bytes, encoding: str) -> Decoded:
    text = _strict(content, encoding)
    if text is not None:
        return Decoded(text)
    text = content.decode(encoding, "replace")
    return Decoded(text, _broken(text.count("\ufffd"), encoding))


def _broken(count: int, encoding: str) -> str:
    return f"Characters that could not be read as {encoding.upper()}: {count}."


def _damaged_utf8(content: bytes) -> Decoded | None:
    """UTF-8 with a few broken characters, as files get that were cut or glued by bytes."""
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", "ignore")) - broken
    if whole <= 10 * broken:
        return None
    return Decoded(text, _broken(broken, "utf-8"))


def _guessed(content: bytes) -> Decoded:
    """By statistics. A few bytes are too little for those: most such files are Western European."""
    from charset_normalizer import from_bytes

    lines = [line for line in content[: 16 * SAMPLE_BYTES].splitlines(keepends=True) if not line.isascii()]
    sample = b"".join(lines)[:SAMPLE_BYTES]
    high = len(sample) - len(sample.translate(None, _HIGH))
    found = from_bytes(sample, enable_fallback=False, cp_exclusion=_FORGOTTEN) if high >= 8 else ()
    matches: list[CharsetMatch] = list(found)
    # Best first. Where one of the two commonest fits as well as a rare one, it is the likelier.
    common = [
        match
        for match in matches
        if match.encoding in _COMMON and match.chaos <= matches[0].chaos and match.coherence >= matches[0].coherence
    ]
    encoding = next((_codec(match.encoding) for match in [*common, *matches]), None)
    if encoding is not None and (text := _strict(content, encoding)) is not None:
        return Decoded(text, f"The encoding is not declared; it was guessed to be {encoding}.")
    # No Western text has that many accents.
    if high <= 0.3 * len(sample) and (text := _strict(content, "cp1252")) is not None:
        return Decoded(text, "The encoding is not declared; it was guessed to be cp1252.")
    if encoding is not None:
        return _lenient(content, encoding)
    raise DocumentUnreadable("encoding", "The text is in an encoding that can't be told; save it as UTF-8.")
