"""Word and PowerPoint, of the new kind by themselves and of the old kind through LibreOffice."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.formats import LIBREOFFICE, format_of
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsers.archives import check_archive
from minirag_pipelines.ingest.parsers.pieces import Parsed, pieces_of
from minirag_pipelines.ingest.parsers.programs import program, run
from minirag_pipelines.ingest.parsers.unstructured_setup import NO_LANGUAGES, prepare

if TYPE_CHECKING:
    from unstructured.documents.elements import Element as UnstructuredElement

_NO_TITLE = re.compile(
    r"(?:word |powerpoint )?(?:document|presentation)\d*|slide ?\d+|untitled.*|"
    r"microsoft (?:word|powerpoint|excel) - .*|.*\.(?:docx?|pptx?|xlsx?|pdf|rtf|odt|tex|indd|qxd|dvi|ps)",
    re.IGNORECASE,
)


def titled(title: str | None) -> str | None:
    """A title from a file's properties, None when a program made it up or it is a file's name."""
    return None if not title or _NO_TITLE.fullmatch(title.strip()) else title


def parse_docx(content: bytes, limits: Limits) -> Parsed:
    check_archive(content, "Word document", limits)
    prepare()
    import docx
    from unstructured.partition.docx import partition_docx

    title = docx.Document(io.BytesIO(content)).core_properties.title
    found = partition_docx(file=io.BytesIO(content), include_page_breaks=False, languages=NO_LANGUAGES)
    pieces = pieces_of(_without_repeated_margins(found))
    return Parsed(pieces, titled(title), max((piece.page or 0 for piece in pieces), default=0) or None)


def parse_pptx(content: bytes, limits: Limits) -> Parsed:
    """Slides as pages, with the speaker's notes."""
    check_archive(content, "presentation", limits)
    prepare()
    import pptx
    from unstructured.partition.pptx import partition_pptx

    deck = pptx.Presentation(io.BytesIO(content))
    limits.check_pages(len(deck.slides), "slides")
    found = partition_pptx(
        file=io.BytesIO(content), include_page_breaks=False, include_slide_notes=True, languages=NO_LANGUAGES
    )
    # Only a slide's own title is one for sure; other short texts that look like titles are guesses, without a level.
    pieces = [replace(piece, level=None) if piece.level else piece for piece in pieces_of(found)]
    return Parsed(pieces, titled(deck.core_properties.title), len(deck.slides))


def parse_old_office(content: bytes, kind: str, limits: Limits) -> Parsed:
    """A .doc or .ppt, converted to its successor by LibreOffice."""
    what = f"This {format_of(kind).description}"
    office = program(LIBREOFFICE, what)
    with tempfile.TemporaryDirectory(prefix="minirag-") as name:
        folder = Path(name)
        (folder / f"in.{kind}").write_bytes(content)
        # A profile of its own: two conversions at a time would otherwise wait for one another, or fail.
        profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
        target = f"{kind}x"
        arguments = [office, profile, "--headless", "--convert-to", target, "--outdir", name, f"{name}/in.{kind}"]
        run(arguments, what=what)
        converted = folder / f"in.{target}"
        if not converted.exists():
            raise DocumentUnreadable("corrupt", f"{what} is damaged: LibreOffice could not convert it.")
        return (parse_docx if kind == "doc" else parse_pptx)(converted.read_bytes(), limits)


def _without_repeated_margins(elements: Iterable[UnstructuredElement]) -> Iterator[UnstructuredElement]:
    """Every section brings its header and footer; the same one is kept once."""
    seen: set[str] = set()
    for element in elements:
        if element.category in ("Header", "Footer"):
            if element.text in seen:
                continue
            seen.add(element.text)
        yield element
