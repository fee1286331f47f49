"""Real files of every kind, and files that were made to break parsers."""

from __future__ import annotations

from pathlib import Path

import pytest

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.ingest.formats import PANDOC, kind_of
from minirag_pipelines.ingest.parsing import parse
from tests.workbench import LIMITS

SHARED = Path(__file__).parents[2] / "../shared/data"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here"),
]
CODES = {"corrupt", "encrypted", "unsupported", "missing_tool", "too_large", "encoding"}
# These take seconds each and say nothing that smaller ones don't.
LARGE = {"book-war-and-peace-1225p.txt", "handbook-872p.docx", "DA-619p.pdf", "pdf2image-memory-error-test-400p.pdf"}


def files(folder: str, suffix: str = "") -> list[Path]:
    found = sorted(path for path in (SHARED / folder).rglob(f"*{suffix}") if path.is_file())
    return [path for path in found if path.name not in LARGE]


def parsed(path: Path, kind: str | None = None) -> ParsedDocument:
    return parse(path.read_bytes(), kind or kind_of(path.name), name=path.name, languages=("eng",), limits=LIMITS)


def assert_whole(document: ParsedDocument) -> None:
    position = 0
    for element in document.elements:
        assert not document.text[position : element.start].strip()
        assert position <= element.start < element.end
        assert element.header_end is None or element.start < element.header_end < element.end
        assert element.page is None or 1 <= element.page <= (document.pages or 0)
        position = element.end
    assert not document.text[position:].strip()
    assert not any(ord(character) < 32 and character not in "\n\t" for character in document.text)
    document.text.encode()


@pytest.mark.parametrize("folder", ["nasty/corrupt", "nasty/encoding", "nasty/empty"])
def test_every_file_ends_in_a_document_or_a_reason(folder: str) -> None:
    refused = []
    for path in files(folder):
        try:
            assert_whole(parsed(path))
        except DocumentUnreadable as error:
            refused.append(error)
    assert {error.code for error in refused} <= CODES
    assert all(error.reason.endswith(".") for error in refused)


# What has neither text nor, without further tools, anything else that could be read.
UNREADABLE = {
    "fake-encrypted.eml": "encrypted",
    "fake-encrypted.msg": "encrypted",
    "password_protected.xlsx": "encrypted",
    "password.pdf": "encrypted",
    "simple.zip": "unsupported",
    "DA-1p.heic": "unsupported",
}
NEEDS_TOOLS = {"doc", "ppt", "image"} | (set() if PANDOC.path() else {"epub", "odt", "rtf", "rst", "org"})


def test_every_real_file_is_read_but_for_those_that_cannot_be() -> None:
    failed = {}
    for path in files("formats"):
        try:
            assert_whole(parsed(path))
        except DocumentUnreadable as error:
            if not (error.code == "missing_tool" and (kind_of(path.name) in NEEDS_TOOLS or path.suffix == ".pdf")):
                failed[path.name] = error.code
    assert failed == UNREADABLE


SAME_TEXT = ["docx", "epub", "html", "md", "odt", "org", "pptx", "rst", "rtf", "txt", "xml"]


@pytest.mark.parametrize("suffix", SAME_TEXT)
def test_the_same_text_is_found_in_every_format(suffix: str) -> None:
    path = SHARED / f"formats/language-docs/eng_spa_mult.{suffix}"
    if kind_of(path.name) in NEEDS_TOOLS:
        pytest.skip("the extra `documents` is not installed")
    text = " ".join(parsed(path).text.split())
    assert "All human beings are born free and equal in dignity and rights." in text
    assert "Todos los seres humanos nacen libres e iguales en dignidad y derechos" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chardet-Big5.xml", "馬力"),
        ("chardet-CP949.xml", "리카넷"),
        ("chardet-EUC-JP.xml", "ななな"),
        ("chardet-GB2312.xml", "网页设计师"),
        ("chardet-IBM866.xml", "С НГ!"),
        ("chardet-KOI8-R.xml", "С НГ!"),
        ("chardet-MacCyrillic.xml", "С НГ!"),
        ("chardet-TIS-620.xml", "งาน"),
        ("chardet-UTF-16.srt", "00:00:06,500"),
        ("chardet-iso-2022-jp.txt", "コンソール"),
        ("chardet-iso-2022-kr.txt", "북조선"),
        ("chardet-iso-8859-7-greek.xml", "ΚΟΣΜΟΣ"),
        ("chardet-windows-1255-hebrew.xml", "בדיחה"),
        ("chardet-windows-1256-arabic.html", "أعلنت"),
        ("testArabicMisleadingCharset.html", "قرية"),
        ("test_mskanji.csv", "名前 | 年齢 | 住所"),
        ("umlauts-non-utf8.md", "äöüß"),
    ],
)
def test_old_encodings_are_read(name: str, words: str) -> None:
    assert words in parsed(SHARED / "nasty/encoding" / name).text


def test_a_plain_text_is_its_file_whatever_unstructured_does_to_it() -> None:
    for path in files("formats", ".txt"):
        content = path.read_bytes()
        if content.isascii() and b"\0" not in content:
            document = parsed(path)
            assert document.text.split() == content.decode().split()
            assert document.elements or not document.text
