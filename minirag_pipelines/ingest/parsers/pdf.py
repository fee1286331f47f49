"""PDF by its text layer, and scanned pages and pictures by optical character recognition."""

from __future__ import annotations

import ctypes
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.formats import TESSERACT
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsers.office import titled
from minirag_pipelines.ingest.parsers.pieces import Parsed, Piece, storable
from minirag_pipelines.ingest.parsers.programs import program, run

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdfium2 import PdfDocument, PdfPage, PdfTextPage  # type: ignore[import-untyped]  # ships no types

OCR_DPI = 300
MAX_RENDERED_PIXELS = 6000
MAX_HEADING_CHARS = 200
# A page with fewer lines and shapes, and no picture, has nothing that could be read.
MIN_DRAWN_SHAPES = 20

# How PDFium marks a hyphen at a line's end. Most only break a word; before a capital or a digit it belongs there.
_HYPHEN = re.compile("[\ufffe\x02]\n?")
_KEPT_HYPHEN = re.compile(_HYPHEN.pattern + r"(?=[A-Z\d]|$)")
_LIST_MARK = re.compile(r"(?:[•◦▪▫■□●○‣⁃·∙–*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")
_SENTENCE_END = re.compile(r"[.!?:;。！？]['\"”’)\]]*$")


class Box(NamedTuple):
    """Where a character stands, in points from the page's lower left corner."""

    left: float
    right: float
    top: float
    bottom: float


_NOWHERE = Box(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page, its first and its last character. `size` is that of its font, 0 if nothing is known.

    PDFium joins a line with the next one where a hyphen breaks a word, so both may stand at different heights.
    """

    text: str
    size: float
    first: Box
    last: Box


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    size: float
    page: int


def parse_pdf(content: bytes, languages: Sequence[str], limits: Limits) -> Parsed:
    """The text of all pages, with the number of each. A page that can't be read is a warning, not the end."""
    pdf = _opened(content)
    try:
        limits.check_pages(len(pdf))
        return _pages(pdf, languages)
    finally:
        pdf.close()


def parse_image(content: bytes, languages: Sequence[str], limits: Limits) -> Parsed:
    """The text that Tesseract sees in a picture, frame by frame."""
    tesseract = program(TESSERACT, "A picture of a page")
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_frames(image, limits)
            pieces = [
                piece
                for number, frame in enumerate(ImageSequence.Iterator(image), start=1)
                for piece in _recognised(tesseract, frame, number, languages)
            ]
            return Parsed(pieces, pages=getattr(image, "n_frames", 1))
    except Image.DecompressionBombError as error:
        reason = f"The picture has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that is read."
        raise DocumentUnreadable("too_large", reason) from error
    except (UnidentifiedImageError, OSError) as error:
        raise DocumentUnreadable("corrupt", "The picture is damaged, or of a kind that can't be read.") from error


def _check_frames(image: Image, limits: Limits) -> None:
    """Raises DocumentUnreadable for too many. Counting them all takes longer the more there are, by their square."""
    try:
        image.seek(limits.pages)
    except EOFError:
        image.seek(0)
    else:
        limits.check_pages(limits.pages + 1, "frames", or_more=True)


def _opened(content: bytes) -> PdfDocument:
    import pypdfium2
    import pypdfium2.raw  # type: ignore[import-untyped]  # ships no types

    try:
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pypdfium2.raw.FPDF_ERR_PASSWORD, pypdfium2.raw.FPDF_ERR_SECURITY):
            raise DocumentUnreadable("encrypted", "The PDF is protected by a password.") from error
        raise DocumentUnreadable("corrupt", "The PDF is damaged: it can't be opened.") from error


def _pages(pdf: PdfDocument, languages: Sequence[str]) -> Parsed:
    import pypdfium2

    paragraphs: list[Paragraph] = []
    scanned: list[int] = []
    damaged: list[int] = []
    for number in range(1, len(pdf) + 1):
        try:
            page = pdf[number - 1]
            found = list(_paragraphs(_lines(page), number))
            if not found and _is_drawn(page):
                scanned.append(number)
            paragraphs += found
        except pypdfium2.PdfiumError:
            damaged.append(number)
    if not paragraphs and not scanned and damaged:
        raise DocumentUnreadable("corrupt", "The PDF is damaged: none of its pages can be read.")
    warnings = [f"{_named(damaged)} could not be read."] if damaged else []
    pieces = _classified(paragraphs)
    if scanned and TESSERACT.path() is None and pieces:
        warnings.append(f"{_named(scanned)} hold pictures without text; to read those, {TESSERACT.install}.")
    elif scanned:
        tesseract = program(TESSERACT, "A scanned PDF")
        for number in scanned:
            pieces += _recognised(tesseract, _rendered(pdf[number - 1]), number, languages)
        pieces.sort(key=lambda piece: piece.page or 0)
    title = titled(pdf.get_metadata_value("Title").strip())
    return Parsed(pieces, title, len(pdf), tuple(warnings))


def _named(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"{'Page' if len(numbers) == 1 else 'Pages'} {shown}{more}"


def _lines(page: PdfPage) -> list[Line]:
    textpage = page.get_textpage()
    try:
        text = textpage.get_text_range()
        lines: list[Line] = []
        start = 0
        for raw in text.split("\r\n"):
            if raw.strip():
                first = start + len(raw) - len(raw.lstrip())
                last = start + len(raw.rstrip()) - 1
                lines.append(_line(textpage, raw.strip(), first, last))
            start += len(raw) + 2
        return lines
    finally:
        textpage.close()


def _line(textpage: PdfTextPage, text: str, first: int, last: int) -> Line:
    """The line with its place on the page, from the boxes of its first and last character."""
    import pypdfium2.raw as pdfium

    boxes = []
    for position in (first, last):
        index = pdfium.FPDFText_GetCharIndexFromTextIndex(textpage, position)
        rectangle = pdfium.FS_RECTF()
        if index < 0 or not pdfium.FPDFText_GetLooseCharBox(textpage, index, ctypes.byref(rectangle)):
            return Line(text, 0, _NOWHERE, _NOWHERE)
        boxes.append(Box(rectangle.left, rectangle.right, rectangle.top, rectangle.bottom))
    index = pdfium.FPDFText_GetCharIndexFromTextIndex(textpage, first)
    size = float(pdfium.FPDFText_GetFontSize(textpage, index))
    matrix = pdfium.FS_MATRIX()
    if pdfium.FPDFText_GetMatrix(textpage, index, ctypes.byref(matrix)):
        size *= math.hypot(matrix.c, matrix.d)
    return Line(text, size, boxes[0], boxes[1])


def _paragraphs(lines: Iterable[Line], page: int) -> Iterator[Paragraph]:
    """Lines joined to paragraphs, by the gaps, indents, sizes and list marks that set paragraphs apart."""
    block: list[Line] = []
    for line in lines:
        if block and (_begins(line, block) or _LIST_MARK.match(line.text)):
            yield _joined(block, page)
            block = []
        block.append(line)
    if block:
        yield _joined(block, page)


def _begins(line: Line, block: Sequence[Line]) -> bool:
    """Whether a line begins a new paragraph after the lines of this one."""
    above, here = block[-1].last, line.first
    size = max(each.size for each in block)
    ended = _SENTENCE_END.search(block[-1].text) is not None
    if not line.size or not block[-1].size:
        return ended
    if here.bottom < above.top and here.top > above.bottom and abs(here.left - above.right) < size:
        return False  # an index or exponent, or a change of font within the row
    if abs(line.size - size) > 0.12 * max(line.size, size):
        return True
    if above.bottom - here.top > 0.6 * size or here.top > above.top + size:
        return True
    left, right = min(each.first.left for each in block), max(each.last.right for each in block)
    indented = here.left - block[-1].first.left > size
    short = len(block) > 1 and above.right < right - 0.2 * (right - left)
    return ended and (indented or short)


def _joined(block: Sequence[Line], page: int) -> Paragraph:
    text = _HYPHEN.sub("", _KEPT_HYPHEN.sub("-", "\n".join(line.text for line in block)))
    return Paragraph(" ".join(storable(text).split()), max(line.size for line in block), page)


def _classified(paragraphs: Sequence[Paragraph]) -> list[Piece]:
    """Headings are what is set larger than most of the text; the larger, the higher their level."""
    sizes: Counter[float] = Counter()
    for paragraph in paragraphs:
        sizes[_rounded(paragraph.size)] += len(paragraph.text)
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    headings = {i for i, paragraph in enumerate(paragraphs) if _is_heading(paragraph, body)}
    ranks = sorted({_rounded(paragraphs[i].size) for i in headings}, reverse=True)
    pieces: list[Piece] = []
    for i, paragraph in enumerate(paragraphs):
        piece = Piece("list_item" if _LIST_MARK.match(paragraph.text) else "text", paragraph.text, page=paragraph.page)
        if i in headings:
            piece = replace(piece, kind="title", level=min(ranks.index(_rounded(paragraph.size)), 5))
        pieces.append(piece)
    return pieces


def _is_heading(paragraph: Paragraph, body: float) -> bool:
    text = paragraph.text
    letters = sum(character.isalpha() for character in text)
    larger = 1.15 * body < paragraph.size < 6 * body
    return larger and len(text) <= MAX_HEADING_CHARS and letters >= max(3, len(text) // 2)


def _rounded(size: float) -> float:
    return round(size * 2) / 2


def _is_drawn(page: PdfPage) -> bool:
    """Whether a page without text shows anything: a picture, or many lines and shapes."""
    import pypdfium2.raw as pdfium

    for count, shape in enumerate(page.get_objects(max_depth=4), start=1):
        if shape.type == pdfium.FPDF_PAGEOBJ_IMAGE or count >= MIN_DRAWN_SHAPES:
            return True
    return False


def _rendered(page: PdfPage) -> Image:
    scale = min(OCR_DPI / 72, MAX_RENDERED_PIXELS / max(page.get_size()))
    image: Image = page.render(scale=scale, grayscale=True).to_pil()
    return image


def _recognised(tesseract: str, image: Image, page: int, languages: Sequence[str]) -> list[Piece]:
    """What Tesseract reads in a picture of a page, paragraph by paragraph."""
    picture = io.BytesIO()
    image.convert("L").save(picture, "PNG")
    arguments = [tesseract, "stdin", "stdout", "-l", "+".join(languages), "--dpi", str(OCR_DPI)]
    output = run(arguments, stdin=picture.getvalue(), what=f"The scan of page {page}")
    text = storable(output.stdout.decode("utf-8", "replace"))
    return [Piece("text", " ".join(block.split()), page=page) for block in re.split(r"\n\s*\n", text) if block.strip()]
