"""Documents made to cost more than they are: each is refused with its reason, within the limits that are the default."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.ingest.formats import PANDOC, TESSERACT, kind_of
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parser_pool import Outcome, ParseJob, ParserPool
from minirag_pipelines.ingest.parsing import parse
from tests.workbench import LIMITS, Workbench

DEEP = 100_000
LAUGHS = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def outcome(content: bytes, kind: str, limits: Limits = LIMITS) -> ParsedDocument | DocumentUnreadable:
    try:
        return parse(content, kind, name="x", languages=("eng",), limits=limits)
    except DocumentUnreadable as error:
        return error


def refusal(content: bytes, kind: str, limits: Limits = LIMITS) -> str:
    """The reason for which it is refused for good as too large."""
    found = outcome(content, kind, limits)
    assert isinstance(found, DocumentUnreadable)
    assert (found.code, found.permanent) == ("too_large", True)
    return found.reason


def mebibytes(count: int, unit: bytes = b" ") -> Iterable[bytes]:
    part = unit * ((1 << 20) // len(unit))
    return (part for _ in range(count))


def archive(entries: dict[str, Iterable[bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, parts in entries.items():
            with made.open(name, "w", force_zip64=True) as entry:
                for part in parts:
                    entry.write(part)
    return out.getvalue()


def altered(content: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as original:
        names = original.namelist()
        return archive({each: [change(original.read(each)) if each == name else original.read(each)] for each in names})


def word_document(text: str = "A paragraph.") -> bytes:
    import docx

    document, out = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(out)
    return out.getvalue()


def workbook(*, sheet: bytes | None = None, text: str = "cell") -> bytes:
    import openpyxl

    book, out = openpyxl.Workbook(), io.BytesIO()
    book.active.append([text])
    book.save(out)
    return altered(out.getvalue(), "xl/worksheets/sheet1.xml", lambda kept: sheet or kept)


def presentation(slides: int) -> bytes:
    import pptx

    deck, out = pptx.Presentation(), io.BytesIO()
    for _ in range(slides):
        deck.slides.add_slide(deck.slide_layouts[6])
    deck.save(out)
    return out.getvalue()


def pdf(objects: Iterable[bytes]) -> bytes:
    out, places = io.BytesIO(b"%PDF-1.7\n"), []
    out.seek(0, io.SEEK_END)
    for number, each in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%b\nendobj\n" % (number, each))
    table = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, table))
    return out.getvalue()


def pages(count: int, contents: bytes = b"") -> bytes:
    kids = b" ".join(b"%d 0 R" % (number + 4) for number in range(count))
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 3 0 R>>"
    stream = b"<</Length %d/Filter/FlateDecode>>stream\n%b\nendstream" % (len(contents), contents)
    tree = b"<</Type/Pages/Count %d/Kids[%b]>>" % (count, kids)
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", tree, stream, *[page] * count])


def deflated(parts: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj()
    return b"".join(packer.compress(part) for part in parts) + packer.flush()


def frames(count: int) -> bytes:
    """A TIFF of pictures of one pixel."""
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, 1) for tag in (256, 257, 259, 262, 277, 278, 279))
    tags = tags[:24] + struct.pack("<HHII", 258, 3, 1, 8) + tags[24:48] + struct.pack("<HHII", 273, 4, 1, 0) + tags[48:]
    size = 2 + len(tags) + 4
    made = [
        struct.pack("<H", 9) + tags + struct.pack("<I", 8 + size * (number + 1) if number + 1 < count else 0)
        for number in range(count)
    ]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(made)


def tables_within(depth: int) -> bytes:
    opening, closing = b"<w:tbl><w:tr><w:tc>" * depth, b"</w:tc></w:tr></w:tbl>" * depth
    body = b"<w:body>" + opening + b"<w:p/>" + closing
    return altered(word_document(), "word/document.xml", lambda kept: kept.replace(b"<w:body>", body))


def parts_within(depth: int) -> bytes:
    heads = (b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(depth))
    return b"Subject: a\n" + b"".join(heads) + b"Content-Type: text/plain\n\ndeep\n"


def forwarded(times: int) -> bytes:
    return b"Subject: a\n" + b"Content-Type: message/rfc822\n\nSubject: b\n" * times + b"\ndeep\n"


NESTED: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "html": ("html", lambda depth: b"<html><body>" + b"<div>" * depth + b"deep"),
    "xml": ("xml", lambda depth: b"<a>" * depth + b"deep" + b"</a>" * depth),
    "list": ("json", lambda depth: b"[" * depth + b"]" * depth),
    "object": ("json", lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
    "line": ("ndjson", lambda depth: b"{}\n" + b"[" * depth + b"]" * depth),
    "parts": ("eml", parts_within),
    "forwarded": ("eml", forwarded),
    "page in a mail": ("eml", lambda depth: b"Subject: a\nContent-Type: text/html\n\n" + b"<div>" * depth + b"deep"),
}


@pytest.mark.parametrize(("kind", "nested"), NESTED.values(), ids=NESTED)
def test_what_is_nested_too_deep_is_refused_with_the_setting(kind: str, nested: Callable[[int], bytes]) -> None:
    assert isinstance(outcome(nested(190), kind), ParsedDocument)
    assert refusal(nested(210), kind).endswith(" levels deep; the limit is 200 (MINIRAG_MAX_NESTING_LEVELS).")
    reason = refusal(nested(DEEP if kind != "eml" else 5_000), kind)
    assert reason.startswith("It is nested ")
    assert reason.endswith("; the limit is 200 (MINIRAG_MAX_NESTING_LEVELS).")
    assert isinstance(outcome(nested(8), kind, replace(LIMITS, nesting=12)), ParsedDocument)
    assert "the limit is 12 " in refusal(nested(14), kind, replace(LIMITS, nesting=12))


def test_nesting_of_other_kinds_ends_in_a_reason_too() -> None:
    assert "at least 256 levels" in refusal(tables_within(200), "docx")
    assert "MINIRAG_MAX_NESTING_LEVELS" in refusal(b"> " * 250 + b"deep", "md")


def test_a_text_of_html_that_the_library_would_leave_out_is_refused_and_not_lost() -> None:
    page = b"<html><body><pre>" + b"word word\n" * 1_200_000 + b"</pre></body></html>"
    assert refusal(page, "html") == "A single text in it has 11 MiB, more than can be read."


def laughing(root: str) -> Callable[[bytes], bytes]:
    """Makes the word WORD of an XML document an entity of a billion laughs."""

    def change(kept: bytes) -> bytes:
        body = kept.decode().rpartition("?>")[2]
        assert "WORD" in body
        return f"<!DOCTYPE {root} [{LAUGHS}]>{body.replace('WORD', '&a9;')}".encode()

    return change


def test_entities_that_multiply_are_refused_in_every_kind_of_xml() -> None:
    assert "entities" in refusal(laughing("r")(b"<r>WORD</r>"), "xml")
    sheet = altered(workbook(text="WORD"), "xl/worksheets/sheet1.xml", laughing("worksheet"))
    assert "entities" in refusal(sheet, "xlsx")
    document = altered(word_document("WORD"), "word/document.xml", laughing("w:document"))
    assert "entities" in refusal(document, "docx")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("docx", "word/document.xml"), ("pptx", "ppt/presentation.xml"), ("xlsx", "xl/workbook.xml")]
    + [("odt", "content.xml"), ("epub", "content.opf")] * (PANDOC.path() is not None),
)
def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(kind: str, name: str) -> None:
    types = {"odt": "application/vnd.oasis.opendocument.text", "epub": "application/epub+zip"}
    mimetype = {"mimetype": [types[kind].encode()]} if kind in types else {}
    packed = archive({**mimetype, name: [b"<a/>"], "large": mebibytes(3)})
    reason = "It unpacks to 3 MiB; the limit is 2 (MINIRAG_MAX_UNPACKED_MIB)."
    assert refusal(packed, kind, replace(LIMITS, unpacked_mib=2)) == reason
    tight = archive({**mimetype, name: [b"<a/>"], "large": mebibytes(101)})
    assert "times its size; the limit is 200 (MINIRAG_MAX_UNPACK_RATIO)." in refusal(tight, kind)


def test_an_archive_that_lies_of_its_size_is_unpacked_no_further_than_it_says() -> None:
    bomb = bytearray(archive({"word/document.xml": mebibytes(50), "[Content_Types].xml": [b"<Types/>"]}))
    # Where a local header and the directory say 50 MiB, or that a longer field holds it, they say 100 bytes.
    for place in range(len(bomb) - 4):
        if bomb[place : place + 8] in (struct.pack("<Q", 50 << 20),):
            bomb[place : place + 8] = struct.pack("<Q", 100)
        elif bomb[place : place + 4] == struct.pack("<I", 50 << 20):
            bomb[place : place + 4] = struct.pack("<I", 100)
    found = outcome(bytes(bomb), "docx")
    assert isinstance(found, DocumentUnreadable)
    assert found.code == "corrupt"


def test_archives_within_archives_are_not_opened() -> None:
    inner = archive({"large": mebibytes(64)})
    for _ in range(3):
        inner = archive({f"{number}.zip": [inner] for number in range(10)})
    found = outcome(inner, "auto")
    assert isinstance(found, DocumentUnreadable)
    assert found.code == "unsupported"
    carrying = altered(word_document(), "docProps/thumbnail.jpeg", lambda _: inner)
    assert isinstance(outcome(carrying, "docx"), ParsedDocument)


def test_what_is_only_compressed_is_not_unpacked() -> None:
    squeezed = gzip.compress(b"[" * (20 << 20))
    for kind in ("auto", "json", "txt"):
        found = outcome(squeezed, kind)
        assert isinstance(found, DocumentUnreadable)
        assert found.code == "unsupported"


def test_too_many_pages_are_refused_before_the_first_is_read() -> None:
    assert refusal(pages(DEEP), "pdf") == "It has 100,000 pages; the limit is 20,000 (MINIRAG_MAX_PAGES)."
    two = replace(LIMITS, pages=2)
    assert isinstance(outcome(pages(2), "pdf", two), ParsedDocument)
    assert isinstance(outcome(presentation(2), "pptx", two), ParsedDocument)
    assert refusal(presentation(3), "pptx", two) == "It has 3 slides; the limit is 2 (MINIRAG_MAX_PAGES)."


@pytest.mark.skipif(TESSERACT.path() is None, reason="Tesseract is not installed")
def test_too_many_frames_of_a_picture_are_refused_before_the_first_is_read() -> None:
    few = replace(LIMITS, pages=500)
    assert refusal(frames(DEEP), "image", few) == "It has at least 501 frames; the limit is 500 (MINIRAG_MAX_PAGES)."
    assert isinstance(outcome(frames(2), "image", replace(LIMITS, pages=2)), ParsedDocument)


def test_a_sheet_that_is_declared_to_be_huge_costs_what_it_holds() -> None:
    last = '<row r="1048576"><c r="XFD1048576"><v>7</v></c></row>'
    sheet = f'<worksheet xmlns="{SHEET}"><dimension ref="A1:XFD1048576"/><sheetData>{last}</sheetData></worksheet>'
    found = outcome(workbook(sheet=sheet.encode()), "xlsx")
    assert isinstance(found, ParsedDocument)
    assert found.text == "Sheet\n\n7"


def sparse_sheet() -> bytes:
    """Rows with their last cell filled: 3 billion cells, if empty ones are counted."""
    rows = "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(1, 200_000))
    return workbook(sheet=f'<worksheet xmlns="{SHEET}"><sheetData>{rows}</sheetData></worksheet>'.encode())


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_bombs_that_no_limit_foresees_end_at_those_of_time_and_memory() -> None:
    bombs = {"sheet.xlsx": sparse_sheet(), "stream.pdf": pages(1, deflated(mebibytes(400, b"0 0 m\n")))}
    jobs = [ParseJob(name, name, kind_of(name), content) for name, content in bombs.items()]
    jobs += [ParseJob(f"{number}.md", "x.md", "md", b"# Fine") for number in range(4)]
    with ParserPool(workers=2, timeout_s=60, memory_mib=512, languages=("eng",), limits=LIMITS) as parsing:
        found: dict[object, Outcome] = {job.key: each for job, each in parsing.parse_all(jobs)}
    for name in bombs:
        ended = found.pop(name)
        assert isinstance(ended, DocumentUnreadable)
        assert ended.code in ("out_of_memory", "timeout", "crashed")
        assert not ended.permanent
    assert all(isinstance(each, ParsedDocument) for each in found.values())


def test_bombs_cost_themselves_only_in_a_sync(workbench: Workbench) -> None:
    workbench.write("ferry.md", "# Ferries\n\nThe night ferry leaves at 22:40.")
    workbench.write("deep.html", b"<div>" * DEEP)
    workbench.write("deep.json", b"[" * DEEP)
    workbench.write("bomb.docx", archive({"word/document.xml": mebibytes(110)}))
    workbench.write("pages.pdf", pages(DEEP))
    workbench.write("laughs.xml", f"<!DOCTYPE r [{LAUGHS}]><r>&a9;</r>")
    assert workbench.sync().documents.quarantined == {"too_large": 5}
    assert [row.uri.rsplit("/", 1)[1] for row in workbench.documents("live")] == ["ferry.md"]
    reasons = [row.reason for row in workbench.documents("quarantined")]
    assert sum("MINIRAG_MAX_" in reason for reason in reasons) == 4


def test_a_raised_limit_tries_again_what_was_refused_for_it_and_nothing_else(workbench: Workbench) -> None:
    workbench.limits = replace(LIMITS, nesting=12)
    workbench.write("healthy.md", "# Ferries\n\nThe night ferry leaves at 22:40.")
    workbench.write("broken.docx", b"this is no archive")
    workbench.write("nested.json", b"[" * 14 + b'"The day ferry leaves at noon."' + b"]" * 14)
    assert workbench.sync().documents.quarantined == {"corrupt": 1, "too_large": 1}
    workbench.sync()
    before = workbench.row_versions()
    assert workbench.sync().documents.parsed == 0
    assert workbench.row_versions() == before
    version = workbench.row_versions()["version"]

    workbench.limits = replace(LIMITS, nesting=13)
    again = workbench.sync().documents
    assert (again.parsed, again.quarantined) == (0, {"corrupt": 1, "too_large": 1})
    assert {row.uri.rsplit("/", 1)[1]: row.attempts for row in workbench.documents("quarantined")} == {
        "broken.docx": 1,
        "nested.json": 1,
    }
    workbench.limits = LIMITS
    healed = workbench.sync()
    assert (healed.documents.parsed, healed.documents.reused) == (1, 0)
    assert healed.documents.quarantined == {"corrupt": 1}
    assert healed.embeddings.embedded == 1
    assert set(version) < set(workbench.row_versions()["version"])
    workbench.limits = replace(LIMITS, nesting=12)
    assert workbench.sync().documents.parsed == 0
    assert workbench.documents("quarantined")[0].uri.endswith("broken.docx")


def test_a_raised_size_limit_reads_again_what_was_too_large(workbench: Workbench) -> None:
    workbench.max_bytes = 2**20
    workbench.write("small.md", "# Ferries\n\nThe night ferry leaves at 22:40.")
    workbench.write("large.txt", "The day ferry leaves at noon.\n\n" + "\n" * 2**20)
    assert workbench.sync().documents.quarantined == {"too_large": 1}
    (row,) = workbench.documents("quarantined")
    assert row.reason == "It has 1.0 MiB; the limit is 1 MiB (MINIRAG_MAX_DOCUMENT_MIB)."
    workbench.sync()
    before = workbench.row_versions()
    assert workbench.sync().documents.quarantined == {"too_large": 1}
    assert workbench.row_versions() == before
    workbench.max_bytes = 2 * 2**20
    healed = workbench.sync().documents
    assert (healed.parsed, healed.quarantined) == (1, {})
    assert len(workbench.documents("live")) == 2


def test_every_limit_has_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MAX_UNPACKED_MIB", "MAX_UNPACK_RATIO", "MAX_NESTING_LEVELS", "MAX_PAGES")
    for number, name in enumerate(names, start=1):
        monkeypatch.setenv(f"MINIRAG_{name}", str(number))
    assert Limits.of(Settings()) == Limits(1, 2, 3, 4)
    assert str(Limits(1, 2, 3, 4)) == "limits=1,2,3,4"


@pytest.mark.shared_data
def test_no_real_document_comes_near_a_limit(shared_data: Path) -> None:
    near = Limits(LIMITS.unpacked_mib // 10, LIMITS.unpack_ratio // 5, LIMITS.nesting // 4, LIMITS.pages // 20)
    found_files = sorted(path for path in (shared_data / "formats").rglob("*") if path.is_file())
    files = [path for path in found_files if path.stat().st_size < 2**19]  # larger ones take long and are no nearer
    jobs = (ParseJob(path.name, path.name, kind_of(path.name), path.read_bytes()) for path in files)
    with ParserPool(workers=2, timeout_s=120, memory_mib=2048, languages=("eng",), limits=near) as parsing:
        found = {job.key: each for job, each in parsing.parse_all(jobs)}
    refused = {name: each.reason for name, each in found.items() if isinstance(each, DocumentUnreadable)}
    codes = {each.code for each in found.values() if isinstance(each, DocumentUnreadable)}
    assert codes <= {"encrypted", "unsupported", "missing_tool"}, refused
