"""PDF by its text layer, and scanned pages and pictures by optical character recognition."""

from __future__ import annotations

import ctypes
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.formats import TESSERACT
from minirag_pipelines.ingest.parsers.office import titled
from minirag_pipelines.ingest.parsers.pieces import Parsed, Piece, storable
from minirag_pipelines.ingest.parsers.programs import program, run
from minirag_pipelines.ingest.parsers.unstructured_setup import prepare

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdfium2 import PdfDocument, PdfPage, PdfTextPage

OCR_DPI = 300
MAX_RENDERED_PIXELS = 6000
MAX_HEADING_CHARS = 200
# A page with fewer lines and shapes, and no picture, has nothing that could be read.
MIN_DRAWN_SHAPES = 20

_HYPHEN = re.compile("[\ufffe\x02]")  # how PDFium marks a hyphen that only breaks a word at a line's end
_SENTENCE_END = re.compile(r"[.!?:;。！？]['\"”’)\]]*$")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page, in points from its lower left corner. `size` is the height of its font, 0 if unknown."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    size: float


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    size: float
    page: int


def parse_pdf(content: bytes, languages: Sequence[str]) -> Parsed:
    """The text of all pages, with the number of each. A page that can't be read is a warning, not the end."""
    pdf = _opened(content)
    try:
        return _pages(pdf, languages)
    finally:
        pdf.close()


def parse_image(content: bytes, languages: Sequence[str]) -> Parsed:
    """The text that Tesseract sees in a picture, frame by frame."""
    tesseract = program(TESSERACT, "A picture of a page")
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            pieces = [
                piece
                for number, frame in enumerate(ImageSequence.Iterator(image), start=1)
                for piece in _recognised(tesseract, frame, number, languages)
            ]
            return Parsed(pieces, pages=getattr(image, "n_frames", 1))
    except Image.DecompressionBombError as error:
        raise DocumentUnreadable("too_large", "The picture has more pixels than can be read.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DocumentUnreadable("corrupt", "The picture is damaged, or of a kind that can't be read.") from error


def _opened(content: bytes) -> PdfDocument:
    import pypdfium2
    import pypdfium2.raw

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
        tesseract = program(TESSERACT, "The PDF has scanned pages without text. It")
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
        box = pdfium.FS_RECTF()
        index = pdfium.FPDFText_GetCharIndexFromTextIndex(textpage, position)
        if index < 0 or not pdfium.FPDFText_GetLooseCharBox(textpage, index, ctypes.byref(box)):
            return Line(text, 0, 0, 0, 0, 0)
        boxes.append(box)
    start, end = boxes
    size = max(start.top - start.bottom, 0)
    return Line(text, start.left, end.right, start.top, start.bottom, size)


def _paragraphs(lines: Iterable[Line], page: int) -> Iterator[Paragraph]:
    """Lines joined to paragraphs, by the gaps, indents and sizes that set paragraphs apart."""
    is_list_item = _list_marks()
    block: list[Line] = []
    for line in lines:
        if block and (_begins(line, block) or is_list_item(line.text)):
            yield _joined(block, page)
            block = []
        block.append(line)
    if block:
        yield _joined(block, page)


def _begins(line: Line, block: Sequence[Line]) -> bool:
    """Whether a line begins a new paragraph after the lines of this one."""
    above = block[-1]
    if not line.size or not above.size:
        return bool(_SENTENCE_END.search(above.text))
    size = max(line.size, above.size)
    if abs(line.size - above.size) > 0.12 * size:
        return True
    gap = above.bottom - line.top
    if gap > 0.6 * size or line.top > above.top + size:
        return True
    ended = _SENTENCE_END.search(above.text) is not None
    width = max(each.right for each in block) - min(each.left for each in block)
    indented = line.left - above.left > size
    short = len(block) > 1 and above.right < max(each.right for each in block) - 0.2 * width
    return ended and (indented or short)


def _joined(block: Sequence[Line], page: int) -> Paragraph:
    text = ""
    for line in block:
        hyphenated = _HYPHEN.search(text[-1:]) is not None
        text = text[:-1] + line.text if hyphenated else f"{text} {line.text}"
    return Paragraph(storable(_HYPHEN.sub("-", text)).strip(), max(line.size for line in block), page)


def _classified(paragraphs: Sequence[Paragraph]) -> list[Piece]:
    """Headings are what is set larger than most of the text; the larger, the higher their level."""
    is_list_item = _list_marks()
    sizes: Counter[float] = Counter()
    for paragraph in paragraphs:
        sizes[_rounded(paragraph.size)] += len(paragraph.text)
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    headings = {i for i, paragraph in enumerate(paragraphs) if _is_heading(paragraph, body)}
    ranks = sorted({_rounded(paragraphs[i].size) for i in headings}, reverse=True)
    pieces: list[Piece] = []
    for i, paragraph in enumerate(paragraphs):
        piece = Piece("list_item" if is_list_item(paragraph.text) else "text", paragraph.text, page=paragraph.page)
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


def _list_marks() -> Callable[[str], bool]:
    """Whether a text begins with a bullet or a number of a list, as unstructured judges it."""
    prepare()
    from unstructured.partition.text_type import is_bulleted_text, is_possible_numbered_list

    return lambda text: bool(is_bulleted_text(text) or is_possible_numbered_list(text))


def _is_drawn(page: PdfPage) -> bool:
    """Whether a page without text shows anything: a picture, or many lines and shapes."""
    import pypdfium2.raw as pdfium

    shapes = 0
    for shape in page.get_objects(max_depth=4):
        if shape.type == pdfium.FPDF_PAGEOBJ_IMAGE:
            return True
        shapes += 1
        if shapes >= MIN_DRAWN_SHAPES:
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
