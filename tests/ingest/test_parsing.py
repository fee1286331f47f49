"""What holds of parsing whatever the kind, and plain text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.ingest.formats import AUTO, formats, kind_of, parser_fingerprint
from minirag_pipelines.ingest.parsers.pieces import storable
from minirag_pipelines.ingest.parsers.plain import text_elements
from minirag_pipelines.ingest.parsing import parse
from tests.workbench import LIMITS


def parsed(content: bytes | str, kind: str) -> ParsedDocument:
    encoded = content.encode() if isinstance(content, str) else content
    document = parse(encoded, kind, name=f"example.{kind}", languages=("eng",), limits=LIMITS)
    assert_whole(document)
    return document


def unreadable(content: bytes | str, kind: str) -> DocumentUnreadable:
    with pytest.raises(DocumentUnreadable) as raised:
        parsed(content, kind)
    return raised.value


def assert_whole(document: ParsedDocument) -> None:
    """Elements are in order, do not overlap, and cover the text but for white space; the text can be stored."""
    position = 0
    for element in document.elements:
        assert not document.text[position : element.start].strip()
        assert position <= element.start < element.end
        assert element.header_end is None or element.start < element.header_end < element.end
        position = element.end
    assert not document.text[position:].strip()
    assert not any(ord(character) < 32 and character not in "\n\t" for character in document.text)
    document.text.encode()


def elements(document: ParsedDocument) -> list[tuple[str, str]]:
    return [(element.kind, document.text[element.start : element.end]) for element in document.elements]


LINES = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.sampled_from(["", "  ", "- a point", "• another", "•", "-", "e x", "1. first", "A TITLE", "Fin.\n\n\n"]),
    ),
    max_size=25,
)


@given(LINES, st.sampled_from(["\n", "\r\n", "\n\n", "\r"]))
@settings(deadline=None)
def test_elements_of_any_text_cover_it_and_do_not_overlap(lines: list[str], line_end: str) -> None:
    text = storable(line_end.join(lines))
    assert_whole(ParsedDocument(None, text, tuple(text_elements(text))))


def test_a_text_is_the_file_itself_so_that_spans_point_into_it() -> None:
    source = (
        "\ufeffIntroduction\r\n\r\nThe first paragraph goes on\r\nand covers two lines of it.\r\n\r\n- one\r\n- two\r\n"
    )
    document = parsed(source, "txt")
    assert document.text == "Introduction\n\nThe first paragraph goes on\nand covers two lines of it.\n\n- one\n- two\n"
    assert elements(document) == [
        ("title", "Introduction"),
        ("text", "The first paragraph goes on\nand covers two lines of it."),
        ("list_item", "- one"),
        ("list_item", "- two"),
    ]


def test_a_title_that_is_guessed_from_its_look_has_no_level_and_names_no_document() -> None:
    document = parsed("Introduction\n\nThis is the text that follows it.", "txt")
    assert document.elements[0].kind == "title"
    assert document.elements[0].level is None
    assert document.title is None


@pytest.mark.parametrize("kind", [each.kind for each in formats()] + [AUTO])
@pytest.mark.parametrize("content", [b"", b" \n\t\r\n "])
def test_a_document_of_nothing_but_white_space_is_empty_and_no_failure(kind: str, content: bytes) -> None:
    assert parsed(content, kind) == ParsedDocument(None, "", ())


@pytest.mark.parametrize("kind", ["txt", "md", "html", "csv", "json", "xml"])
@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_file_of_only_a_byte_order_mark_is_empty(kind: str, mark: str) -> None:
    assert parsed("\n".encode(mark), kind).text == ""


def test_what_postgresql_cannot_hold_is_never_in_the_text() -> None:
    assert parsed(b"nul\0here and\x01there, a\x0cpage and more than that to read", "txt").text.startswith(
        "nul here and t"
    )
    assert parsed(r'{"broken": "\ud800 lone", "nul": "a\u0000b"}', "json").text == "broken: \ufffd lone\nnul: a b"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-16", "Grüße aus Köln."),
        ("utf-16-le", "Grüße aus Köln, ohne Marke."),
        ("utf-32", "Grüße aus Köln."),
        ("cp1252", "Größere Köche müssen schöne Äpfel für die Gäste schälen."),
        ("cp1251", "Привет, как дела? Это проверка кодировки текста."),
        ("shift_jis", "これは日本語の文章です。文字コードを確かめます。"),
        ("iso2022_jp", "これは日本語の文章です。"),
        ("gb18030", "这是一个用来测试字符编码的中文句子，应该可以读出来。"),
    ],
)
def test_text_is_read_in_the_encoding_it_was_written_in(encoding: str, text: str) -> None:
    assert parsed(text.encode(encoding), "txt").text == text


def test_a_guessed_encoding_is_said() -> None:
    document = parsed("Größere Köche müssen schöne Äpfel schälen.".encode("cp1252"), "txt")
    assert "guessed" in document.warnings[0]


def test_a_declared_encoding_goes_before_a_guess() -> None:
    page = '<html><head><meta charset="iso-8859-2"></head><body><p>Zażółć gęślą jaźń</p></body></html>'
    assert parsed(page.encode("iso-8859-2"), "html").text == "Zażółć gęślą jaźń"
    assert parsed(page.encode("utf-8"), "html").text == "Zażółć gęślą jaźń"
    record = '<?xml version="1.0" encoding="koi8-r"?><r>Привет</r>'
    assert parsed(record.encode("koi8-r"), "xml").text == "Привет"


def test_a_few_broken_characters_do_not_cost_the_text() -> None:
    content = ("Grüße und schöne Äpfel für alle Gäste. " * 5).encode() + b"\xff ende"
    document = parsed(content, "txt")
    assert document.text.endswith("\ufffd ende")
    assert document.warnings == ("Characters that could not be read as UTF-8: 1.",)


def test_bytes_that_are_no_text_are_refused_with_a_reason() -> None:
    error = unreadable(bytes(range(256)) * 20, "txt")
    assert error.code == "unsupported"
    assert error.permanent


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Report.PDF", "pdf"),
        ("a/b/index.htm", "html"),
        ("notes.markdown", "md"),
        ("log.jsonl", "ndjson"),
        ("main.py", "txt"),
        ("config.yaml", "txt"),
        ("scan.tiff", "image"),
        ("page.mhtml", "eml"),
        ("https://example.org/guide/intro.HTML?v=2#part.pdf", "html"),
        ("file:///data/empty#hash.pdf", "pdf"),
        ("https://example.org", AUTO),
        ("https://example.org/?file=a.pdf", AUTO),
        ("s3://bucket.md/key", AUTO),
        ("README", AUTO),
        (".gitignore", AUTO),
        ("what.is-this", AUTO),
        ("", AUTO),
    ],
)
def test_the_extension_tells_the_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_no_extension_belongs_to_two_kinds() -> None:
    extensions = [extension for each in formats() for extension in each.extensions]
    assert len(extensions) == len(set(extensions))


def test_a_fingerprint_names_the_tools_a_kind_uses_or_their_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert parser_fingerprint("md", ["eng"]) == "md-1"
    assert parser_fingerprint("pdf", ["eng"]) == "pdf-1/ocr=none"
    assert parser_fingerprint("ppt", ["eng"]) == "ppt-1/office=none"


def test_a_fingerprint_holds_the_languages_where_they_are_read_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert parser_fingerprint("pdf", ["deu", "eng"]) == "pdf-1/ocr=tesseract/languages=deu+eng"
    assert parser_fingerprint("html", ["deu", "eng"]) == "html-1"


@pytest.mark.parametrize("kind", [each.kind for each in formats()] + [AUTO])
def test_every_kind_has_a_fingerprint(kind: str) -> None:
    assert parser_fingerprint(kind, ["eng"]).startswith(f"{kind}-")


CONTENT = [
    ("# Not Markdown, as nobody says so\n\nJust text.", "txt"),
    ("<!DOCTYPE html>\n<html><body><p>Hello</p></body></html>", "html"),
    ("<?xml version='1.0'?><r><a>Hello</a></r>", "xml"),
    ("<?xml version='1.0'?><!-- x --><html><body><p>Hello</p></body></html>", "html"),
]


@pytest.mark.parametrize(("content", "kind"), CONTENT)
def test_content_tells_the_kind_where_the_name_does_not(content: str, kind: str) -> None:
    assert parsed(content, AUTO) == parsed(content, kind)


@pytest.mark.parametrize("content", [b"\x7fELF" + bytes(500), b"\x1f\x8b\x08" + bytes(range(256))])
def test_content_of_no_kind_we_know_is_unsupported(content: bytes) -> None:
    assert unreadable(content, AUTO).code == "unsupported"


def test_the_private_name_of_unstructured_that_is_replaced_is_there() -> None:
    # With the real loader, the first text would download a model from the network.
    from minirag_pipelines.ingest.parsers.unstructured_setup import prepare

    prepare()
    from unstructured.nlp import tokenize

    assert "_load_spacy_model" in tokenize._get_nlp.__wrapped__.__code__.co_names
    assert tokenize._get_nlp() is not None
    assert tokenize.sent_tokenize("It rains. We stay.") == ["It rains.", "We stay."]
    assert {tag for _, tag in tokenize.pos_tag("The cat is sleeping")} == {"NN", "VB"}


OFFLINE = """
import socket, sys
def refused(*arguments, **options):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsing import parse, preload
preload(["txt", "md", "html", "docx", "pptx", "eml", "auto"])
page = b"<html><body><h1>One</h1><img src='http://example.org/x.png'><p>The text is long enough.</p></body></html>"
for kind, content in {"txt": b"Title\\n\\nIt rains.", "md": b"# Title\\n\\nIt rains.", "html": page}.items():
    assert parse(content, kind, name="x", languages=("eng",), limits=Limits.of(Settings())).elements
assert "spacy" not in sys.modules
"""


def test_parsing_asks_nothing_of_the_network() -> None:
    finished = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""


def test_kinds_and_fingerprints_load_nothing_heavy() -> None:
    code = (
        "import sys; from minirag_pipelines.ingest import parser_pool, parsing, formats;"
        "[formats.parser_fingerprint(f.kind, ['eng']) for f in formats.formats()];"
        "heavy = {'unstructured', 'spacy', 'lxml', 'pandas', 'numpy', 'openpyxl', 'pypdfium2', 'docx'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (b"x\n", "md", "x"),
        (b"# Q\n\ny\n\nlonger text here.\n", "md", "Q\n\ny\n\nlonger text here."),
        (b"<p>q</p><div>7</div><p>long words here</p>", "html", "q\n\n7\n\nlong words here"),
    ],
)
def test_a_paragraph_of_one_character_is_kept(content: bytes, kind: str, text: str) -> None:
    assert parse(content, kind, name=f"a.{kind}", languages=("eng",), limits=LIMITS).text == text
