"""Bytes → parsed document, for every kind in `formats`."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.records import ParsedDocument
from minirag_pipelines.ingest.formats import AUTO
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsers import mail, markup, office, pdf, plain, tables
from minirag_pipelines.ingest.parsers.archives import OLE_MAGIC, ZIP_MAGIC, container_kind
from minirag_pipelines.ingest.parsers.encodings import declared_in_markup, decoded
from minirag_pipelines.ingest.parsers.pieces import Parsed, assemble
from minirag_pipelines.ingest.parsers.unstructured_setup import prepare

logger = logging.getLogger(__name__)

_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_BEGINNINGS = (("html", _HTML), ("xml", re.compile(r"\s*<\?xml\b")))
_SIGNATURES = (
    ("pdf", re.compile(rb".*?%PDF-", re.S)),
    ("rtf", re.compile(rb"\s*\{\\rtf")),
    ("image", re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|BM.{4}\0\0\0\0|RIFF.{4}WEBP", re.S)),
)
_PANDOC_KINDS = ("epub", "odt", "rtf", "rst", "org")
# Kinds whose bytes say for sure what they are, so that a wrong extension can be seen through.
_BINARY_KINDS = ("pdf", "image", "docx", "pptx", "xlsx", "doc", "ppt", "xls", "msg", "epub", "odt", "rtf")

_PARSERS: dict[str, Callable[[bytes, Limits], Parsed]] = {
    "md": markup.parse_markdown,
    "html": markup.parse_html,
    "xml": markup.parse_xml,
    "json": tables.parse_json,
    "ndjson": tables.parse_ndjson,
    # What these hold grows no faster than their bytes, and nothing in them has an inside.
    "csv": lambda content, _: tables.parse_csv(content),
    "tsv": lambda content, _: tables.parse_tsv(content),
    "xls": lambda content, _: tables.parse_xls(content),
    "xlsx": tables.parse_xlsx,
    "docx": office.parse_docx,
    "pptx": office.parse_pptx,
    "eml": mail.parse_eml,
    "msg": mail.parse_msg,
}
_PARTITIONERS = {
    "txt": "unstructured.partition.text",
    "docx": "unstructured.partition.docx",
    "pptx": "unstructured.partition.pptx",
    "md": "unstructured.partition.html",
    "html": "unstructured.partition.html",
    "eml": "unstructured.partition.html",
    "msg": "unstructured.partition.html",
}


def parse(content: bytes, kind: str, *, name: str, languages: Sequence[str], limits: Limits) -> ParsedDocument:
    """What the parser of this kind makes of the content; the name is for messages and changes nothing.

    The limits decide only whether it is parsed. An empty document, or one of nothing but white space, has the text "".
    Raises DocumentUnreadable, and MemoryError when the process may take no more.
    """
    if not content.strip():
        return ParsedDocument(None, "", ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn of what they do not understand, to nobody here
            return _parsed(content, kind, tuple(languages), limits)
    except (DocumentUnreadable, MemoryError):
        raise
    except ImportError as error:
        reason = f"The Python package {error.name} is not installed."
        raise DocumentUnreadable("missing_tool", reason, permanent=False) from error
    # The one place where anything may come: parsers of other people meet bytes of other people.
    except Exception as error:
        if refusal := limits.refusal(error):
            raise refusal from error
        # Only the class is said: messages quote the document.
        logger.debug("%s could not be parsed as %s", name, kind, exc_info=True)
        reason = f"The document is damaged, or not of the kind {kind} ({type(error).__name__})."
        raise DocumentUnreadable("corrupt", reason) from error


def preload(kinds: Iterable[str]) -> None:
    """Import what these kinds will need and takes long, so that it counts to no document's time."""
    wanted = set(kinds)
    modules = {_PARTITIONERS[kind] for kind in wanted if kind in _PARTITIONERS}
    if wanted & {AUTO, "epub", "odt", "rtf", "rst", "org", "doc", "ppt"}:
        modules.add("unstructured.partition.html")
    if modules:
        prepare()
    for module in sorted(modules):
        importlib.import_module(module)


def _parsed(content: bytes, kind: str, languages: tuple[str, ...], limits: Limits) -> ParsedDocument:
    actual = _content_kind(content) if kind == AUTO or kind in _BINARY_KINDS else None
    if kind == "xls" and actual == "txt":
        actual = "csv"
    if kind == AUTO:
        if actual is None:
            raise DocumentUnreadable("unsupported", "The content is of no kind that can be read.")
        return _by_kind(content, actual, languages, limits)
    if actual is None or actual == kind or not _sees_through(kind, actual):
        return _by_kind(content, kind, languages, limits)
    document = _by_kind(content, actual, languages, limits)
    return replace(document, warnings=(f"By its content this is {actual}, not {kind}.", *document.warnings))


def _sees_through(kind: str, actual: str) -> bool:
    """Whether content goes before the extension. Damage can make anything look like text, so text counts for less:
    only where programs are known to export it under such a name."""
    return actual in _BINARY_KINDS or (kind in ("doc", "xls") and actual in ("html", "xml", "csv"))


def _by_kind(content: bytes, kind: str, languages: tuple[str, ...], limits: Limits) -> ParsedDocument:
    if kind == "txt":
        return plain.parse_text(content)
    if kind == "pdf":
        return assemble(pdf.parse_pdf(content, languages, limits))
    if kind == "image":
        return assemble(pdf.parse_image(content, languages, limits))
    if kind in ("doc", "ppt"):
        return assemble(office.parse_old_office(content, kind, limits))
    if kind in _PANDOC_KINDS:
        return assemble(markup.parse_with_pandoc(content, kind, limits))
    if kind not in _PARSERS:
        raise DocumentUnreadable("unsupported", f"There is no parser for the kind {kind}.")
    return assemble(_PARSERS[kind](content, limits))


def _content_kind(content: bytes) -> str | None:
    """The kind that the content shows, None for none that can be read. Raises DocumentUnreadable if it is encrypted."""
    if content.startswith((OLE_MAGIC, ZIP_MAGIC)):
        return container_kind(content)
    if (signed := next((kind for kind, signature in _SIGNATURES if signature.match(content[:1024])), None)) is not None:
        return signed
    try:
        text = decoded(content[:65536], declared_in_markup(content)).text
    except DocumentUnreadable:
        return None
    return next((kind for kind, beginning in _BEGINNINGS if beginning.match(text)), "txt")
