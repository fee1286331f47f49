"""Each kind of document: what is a title, a table, a list, a page of it, and how it fails."""

from __future__ import annotations

import datetime
import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.ingest.formats import PANDOC, TESSERACT
from minirag_pipelines.ingest.parsing import parse
from tests.workbench import LIMITS

SHARED = Path(__file__).parents[2] / "../shared/data"
needs_pandoc = pytest.mark.skipif(PANDOC.path() is None, reason="the extra `documents` is not installed")


def parsed(content: bytes | str, kind: str) -> ParsedDocument:
    return parse(
        content.encode() if isinstance(content, str) else content, kind, name="x", languages=("eng",), limits=LIMITS
    )


def failure(content: bytes | str, kind: str) -> DocumentUnreadable:
    with pytest.raises(DocumentUnreadable) as raised:
        parsed(content, kind)
    return raised.value


def elements(document: ParsedDocument) -> list[tuple[str, int | None, str]]:
    return [(element.kind, element.level, document.text[element.start : element.end]) for element in document.elements]


def headers(document: ParsedDocument) -> list[str]:
    tables = [element for element in document.elements if element.kind == "table"]
    return [document.text[table.start : table.header_end].rstrip("\n") for table in tables if table.header_end]


def pages(document: ParsedDocument) -> list[int | None]:
    return [element.page for element in document.elements]


MARKDOWN = """---
title: "From the front"
---

# Guide { #guide }

A paragraph with *emphasis* and a [link](https://example.org).

## Steps

- one
- two

| Name | Price |
|------|-------|
| Pear | 2 |

```python
def f():
    return 1
```
"""


def test_markdown_loses_its_marks_and_keeps_its_structure() -> None:
    document = parsed(MARKDOWN, "md")
    assert document.title == "From the front"
    assert elements(document) == [
        ("text", None, 'title: "From the front"'),
        ("title", 0, "Guide"),
        ("text", None, "A paragraph with emphasis and a link."),
        ("title", 1, "Steps"),
        ("list_item", None, "one"),
        ("list_item", None, "two"),
        ("table", None, "Name | Price\nPear | 2"),
        ("code", None, "def f():\n    return 1"),
    ]
    assert headers(document) == ["Name | Price"]


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("Text only, and no heading.", None),
        ("## Second\n\n# First\n\n# Another", "First"),
        ("### Deep\n\ntext", "Deep"),
    ],
)
def test_the_first_outermost_heading_is_the_title(content: str, title: str | None) -> None:
    assert parsed(content, "md").title == title


PAGE = """<html><head><title>The  page</title><style>p {}</style></head><body><nav>Menu</nav>
<form><h1>Top</h1><p>Whole pages stand in a form.</p></form>
<details><summary>More</summary><p>What is folded away is read.</p></details>
<table><caption>Prices</caption><tr><th>Name</th><th>Price</th></tr><tr><td>Pear<br>green</td><td>2</td></tr></table>
<table><tr><td><h2>Laid out</h2><p>In a table.</p></td></tr></table>
<script>alert(1)</script><!-- no --><pre>  a
  b</pre></body></html>"""


def test_a_web_page_is_read_as_a_person_sees_it() -> None:
    document = parsed(PAGE, "html")
    assert document.title == "The page"
    assert elements(document) == [
        ("title", 0, "Top"),
        ("text", None, "Whole pages stand in a form."),
        ("text", None, "More"),
        ("text", None, "What is folded away is read."),
        ("text", None, "Prices"),
        ("table", None, "Name | Price\nPear green | 2"),
        ("title", 1, "Laid out"),
        ("text", None, "In a table."),
        ("code", None, "  a\n  b"),
    ]


def test_a_cell_that_spans_rows_is_said_in_each() -> None:
    table = "<table><tr><th>A<th>B<th>C</tr><tr><td rowspan=2>x<td>1<td>2</tr><tr><td colspan=2>3</tr></table>"
    assert parsed(table, "html").text == "A | B | C\nx | 1 | 2\nx | 3"


@pytest.mark.parametrize("content", ["<!-- only -->", "<html></html>", "<html><body></body></html>"])
def test_a_page_that_shows_nothing_is_empty(content: str) -> None:
    assert parsed(content, "html").elements == ()


def test_xml_gives_a_block_for_each_text_and_for_each_record() -> None:
    feed = """<?xml version="1.0"?><feed><head>News</head>
        <item><name>Pear</name><price>2</price></item><p>One <b>bold</b> word, and a tail.</p></feed>"""
    assert [text for _, _, text in elements(parsed(feed, "xml"))] == [
        "News",
        "name: Pear\nprice: 2",
        "One bold word, and a tail.",
    ]


def test_malformed_xml_is_read_as_far_as_possible_and_said() -> None:
    document = parsed("<r><a>first</a><b>second</r>", "xml")
    assert document.text == "a: first\nb: second"
    assert "malformed at line 1" in document.warnings[0]


def test_entities_of_xml_read_no_file_and_fill_no_memory() -> None:
    outside = '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]><r><p>A &x; B</p></r>'
    assert parsed(outside, "xml").text == "A B"
    levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    assert failure(f'<!DOCTYPE r [<!ENTITY a0 "ha">{levels}]><r>&a9;</r>', "xml").code == "too_large"


def test_json_is_a_text_for_each_record_and_keeps_numbers_as_written() -> None:
    assert parsed('[{"sku": "A", "price": 12.50, "tags": ["x", "y"]}, {"sku": "B", "sold": null}]', "json").text == (
        "sku: A\nprice: 12.50\ntags: x, y\n\nsku: B"
    )
    nested = parsed('{"name": "shop", "open": true, "items": [{"id": 1}, {"id": 2}], "at": {"city": "Köln"}}', "json")
    assert nested.text == "name: shop\nopen: true\n\nitems.0.id: 1\n\nitems.1.id: 2\n\nat.city: Köln"


def test_a_line_of_ndjson_that_is_none_is_kept_and_said() -> None:
    document = parsed('{"a": 1}\n{broken\n\n{"a": 2}\n', "ndjson")
    assert document.text == "a: 1\n\n{broken\n\na: 2"
    assert document.warnings == ("Lines that are no JSON and were kept as they are: 1, the first is line 2.",)


@pytest.mark.parametrize(
    ("content", "kind"),
    [('{"a": ', "json"), ("no json", "ndjson")],
    ids=["cut", "text"],
)
def test_what_is_no_json_is_corrupt(content: str, kind: str) -> None:
    assert failure(content, kind).code == "corrupt"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a,b\n1,2\n", "a | b\n1 | 2"),
        ("a;b\n1,5;2,5\n", "a | b\n1,5 | 2,5"),
        ("a\tb\n1\t2\n", "a | b\n1 | 2"),
        ('a,b\n"x, y","two\nlines"\n', "a | b\nx, y | two lines"),
        ("a,b,c\n1,2\n3,4,5,6\n", "a | b | c\n1 | 2\n3 | 4 | 5 | 6"),
        ("a,,b\n1,,2\n,,\n", "a | b\n1 | 2"),
        ("only\none\ncolumn\n", "only\none\ncolumn"),
        ('a,"b\n1,2\n', "a | b 1,2"),
    ],
    ids=["comma", "semicolon", "tab", "quoted", "ragged", "empty", "single", "unclosed"],
)
def test_separated_values_become_rows(content: str, text: str) -> None:
    assert parsed(content, "csv").text == text


def test_the_header_of_a_table_ends_with_the_first_row_that_fills_it() -> None:
    assert headers(parsed("Sales,,\nName,Town,Sum\nA,B,1\n", "csv")) == ["Sales\nName | Town | Sum"]
    assert headers(parsed("a,b\n1,2\n", "csv")) == ["a | b"]
    assert headers(parsed("a,b\n", "csv")) == []


def test_tab_separated_values_may_hold_commas() -> None:
    assert parsed("a, b\tc\n1\t2\n", "tsv").text == "a, b | c\n1 | 2"


def workbook(sheets: dict[str, Sequence[Sequence[object]]]) -> bytes:
    import openpyxl  # type: ignore[import-untyped]  # ships no types

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_a_workbook_is_a_table_for_each_sheet_under_its_name() -> None:
    day = datetime.date(2024, 5, 1)
    rows: list[list[object]] = [["Day", "Sum", "Paid"], [day, 0.1 + 0.2, True], [None, None, None], [None, 3, False]]
    document = parsed(workbook({"May": rows, "Empty": [], "June": [["x"], ["y"]]}), "xlsx")
    assert elements(document) == [
        ("title", 0, "May"),
        ("table", None, "Day | Sum | Paid\n2024-05-01 | 0.3 | TRUE\n | 3 | FALSE"),
        ("title", 0, "June"),
        ("table", None, "x\ny"),
    ]
    assert headers(document) == ["Day | Sum | Paid", "x"]


def test_the_name_that_every_new_sheet_has_is_no_title() -> None:
    assert parsed(workbook({"Sheet1": [["a"], ["b"]]}), "xlsx").title is None


def saved(save: Callable[[io.BytesIO], None]) -> bytes:
    out = io.BytesIO()
    save(out)
    return out.getvalue()


def word_document() -> bytes:
    import docx

    document = docx.Document()
    document.add_heading("Chapter", level=1)
    document.add_paragraph("A paragraph that is long enough to be one.")
    document.add_heading("Section", level=2)
    document.add_paragraph("one", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(
        (cell for row in table.rows for cell in row.cells), ["Name", "Price", "Pear", "2"], strict=True
    ):
        cell.text = text
    return saved(document.save)


def test_a_word_document_has_its_headings_lists_and_tables() -> None:
    document = parsed(word_document(), "docx")
    assert elements(document) == [
        ("title", 0, "Chapter"),
        ("text", None, "A paragraph that is long enough to be one."),
        ("title", 1, "Section"),
        ("list_item", None, "one"),
        ("table", None, "Name | Price\nPear | 2"),
    ]
    assert document.title == "Chapter"
    assert headers(document) == ["Name | Price"]


@pytest.mark.parametrize(
    ("title", "expected"),
    [("Annual report", "Annual report"), ("Microsoft Word - a.doc", "Chapter"), ("a.docx", "Chapter")],
)
def test_a_title_in_the_properties_counts_unless_a_program_made_it_up(title: str, expected: str) -> None:
    import docx

    document = docx.Document(io.BytesIO(word_document()))
    document.core_properties.title = title
    assert parsed(saved(document.save), "docx").title == expected


def test_a_presentation_has_a_page_for_each_slide_and_its_notes() -> None:
    import pptx

    deck = pptx.Presentation()
    for number in (1, 2):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = f"Slide about {number}"
        slide.placeholders[1].text = f"This is what slide {number} is saying."
        slide.notes_slide.notes_text_frame.text = f"Remember to tell them about {number}."
    document = parsed(saved(deck.save), "pptx")
    assert document.pages == 2
    assert document.title == "Slide about 1"
    assert [(kind, level) for kind, level, _ in elements(document)].count(("title", 0)) == 2
    assert "Remember to tell them about 2." in document.text
    assert pages(document) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx", "epub", "odt"])
def test_a_container_that_cannot_be_unpacked_is_corrupt(kind: str) -> None:
    assert failure(word_document()[:2000], kind).code == "corrupt"


@pytest.mark.parametrize("kind", ["doc", "xls", "xlsx", "pdf", "auto"])
def test_content_of_another_kind_than_its_name_says_is_read_as_what_it_is(kind: str) -> None:
    document = parsed(word_document(), kind)
    assert document.title == "Chapter"
    assert document.warnings == (() if kind == "auto" else (f"By its content this is docx, not {kind}.",))


def test_a_table_exported_as_an_excel_file_is_read() -> None:
    assert parsed("a\tb\n1\t2\n", "xls").text == "a | b\n1 | 2"
    assert parsed("<html><body><table><tr><td>a<td>b<tr><td>1<td>2</table></body></html>", "xls").text == "a | b\n1 | 2"


def pdf(*contents: bytes) -> bytes:
    """A PDF with a page for each content stream, Helvetica as /F1 and one gray pixel as /I1."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    image = (
        b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>"
    )
    objects.append(image + b"\nstream\n\x80\nendstream")
    kids: list[bytes] = []
    for content in contents:
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        resources = b"<< /Font << /F1 3 0 R >> /XObject << /I1 4 0 R >> >>"
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources %s >>"
        objects.append(page % (len(objects), resources))
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    body = b"%PDF-1.4\n"
    offsets = []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return body + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        size,
        table,
        size,
        len(body),
    )


def line(text: str, y: int, size: int = 11, x: int = 72) -> bytes:
    return f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET\n".encode()


PICTURE = b"q 400 0 0 400 72 300 cm /I1 Do Q\n"


def test_a_pdf_is_joined_to_paragraphs_with_headings_by_size_and_pages() -> None:
    first = line("The Report", 780, 20) + line("This paragraph goes over two lines", 740) + line("of the page.", 727)
    second = line("Details", 780, 15) + line("- a point of a list", 740) + line("- another point", 727)
    document = parsed(pdf(first, second), "pdf")
    assert elements(document) == [
        ("title", 0, "The Report"),
        ("text", None, "This paragraph goes over two lines of the page."),
        ("title", 1, "Details"),
        ("list_item", None, "- a point of a list"),
        ("list_item", None, "- another point"),
    ]
    assert pages(document) == [1, 1, 2, 2, 2]
    assert document.pages == 2
    assert document.title == "The Report"


def test_a_pdf_of_blank_pages_is_an_empty_document() -> None:
    document = parsed(pdf(b"", b""), "pdf")
    assert (document.text, document.pages) == ("", 2)


def test_a_scan_needs_tesseract_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    error = failure(pdf(PICTURE), "pdf")
    assert error.code == "missing_tool"
    assert "install Tesseract" in error.reason
    assert failure(b"\x89PNG\r\n\x1a\n", "image").code == "missing_tool"
    partly = parsed(pdf(line("Some text on the first page.", 700), PICTURE), "pdf")
    assert partly.text == "Some text on the first page."
    assert partly.warnings[0].startswith("Page 2 ")


@pytest.mark.skipif(TESSERACT.path() is None, reason="Tesseract is not installed")
def test_a_scan_is_recognised_page_by_page() -> None:
    from PIL import Image, ImageDraw

    picture = Image.new("L", (1200, 300), 255)
    ImageDraw.Draw(picture).text((40, 80), "Invoice number 4711", fill=0, font_size=80)
    assert "4711" in parsed(saved(lambda out: picture.save(out, "PNG")), "image").text


@pytest.mark.parametrize("content", [b"%PDF-1.7\nnothing", b"%PDF-1.4\n%%EOF"])
def test_a_damaged_pdf_is_corrupt(content: bytes) -> None:
    assert failure(content, "pdf").code == "corrupt"


MAIL = """From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>
To: Ann <ann@example.org>
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from here
Date: Fri, 16 Dec 2022 17:04:16 +0000
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

It is fine, sch=F6n.
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename="offer.pdf"

%PDF
--b--
"""


def test_a_mail_is_its_subject_its_head_and_its_body() -> None:
    document = parsed(MAIL, "eml")
    assert document.title == "Grüße from here"
    assert elements(document) == [
        ("title", 0, "Grüße from here"),
        (
            "text",
            None,
            "From: Jörg <joerg@example.org>\nTo: Ann <ann@example.org>\nDate: Fri, 16 Dec 2022 17:04:16 +0000",
        ),
        ("text", None, "It is fine, schön."),
    ]
    assert document.warnings == ("Attachments that are not read: offer.pdf.",)


def test_an_encrypted_mail_says_so() -> None:
    mail = MAIL.replace("multipart/mixed", "multipart/encrypted")
    assert failure(mail, "eml").code == "encrypted"


def test_text_without_header_lines_is_no_mail() -> None:
    assert failure("\nJust some text.\n", "eml").code == "corrupt"


def converted(target: str) -> bytes:
    """The example in another format, by pandoc itself."""
    arguments = [str(PANDOC.path()), "--from=markdown", f"--to={target}", "--standalone", "--output=-"]
    return subprocess.run(arguments, input=MARKDOWN.encode(), capture_output=True, check=True).stdout


@needs_pandoc
@pytest.mark.parametrize("kind", ["epub", "odt", "rtf", "rst", "org"])
def test_what_pandoc_reads_keeps_its_structure(kind: str) -> None:
    document = parsed(converted(kind), kind)
    found = elements(document)
    # Neither pandoc's OpenDocument nor its RTF says which paragraph is the title.
    assert document.title == ("Guide" if kind in ("odt", "rtf") else "From the front")
    assert ("text", None, "A paragraph with emphasis and a link.") in found
    assert ("list_item", None, "two") in found
    assert "Steps" in [text for element, _, text in found if element == "title"]
    assert "return 1" in document.text


@needs_pandoc
def test_pandoc_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.rst").write_text("secret")
    document = parsed(f"Title\n=====\n\n.. include:: {tmp_path}/secret.rst\n\nText.\n", "rst")
    assert "secret" not in document.text
    assert document.warnings == ("It includes other files; what stands in those is not read.",)


def test_without_pandoc_its_kinds_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirag_pipelines.ingest.formats._bundled_pandoc", lambda: None)
    monkeypatch.setenv("PATH", "")
    error = failure("Title\n=====\n", "rst")
    assert error.code == "missing_tool"
    assert "pip install 'minirag[documents]'" in error.reason


@pytest.mark.shared_data
def test_an_old_word_document_needs_libreoffice_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    path = SHARED / "formats/simple.doc"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    assert failure(path.read_bytes(), "doc").code == "missing_tool"
