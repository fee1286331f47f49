"""The kinds of document that can be parsed: how a kind is told, what it needs, and the parser's name for it."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that is not part of MiniRAG's own dependencies. `role` is its word in a parser fingerprint."""

    name: str
    role: str
    programs: tuple[str, ...]
    install: str

    def path(self) -> str | None:
        """Where the program is, None if it is not installed."""
        found = next((path for program in self.programs if (path := shutil.which(program))), None)
        return found or (_bundled_pandoc() if "pandoc" in self.programs else None)


TESSERACT = Tool("Tesseract", "ocr", ("tesseract",), "install Tesseract (Debian: apt install tesseract-ocr)")
LIBREOFFICE = Tool("LibreOffice", "office", ("soffice", "libreoffice"), "install LibreOffice")
PANDOC = Tool("Pandoc", "convert", ("pandoc",), "pip install 'minirag[documents]'")


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of document.

    `number` is ours: it goes up when the parser of this kind makes something else of the same bytes. Without a tool
    of `needs` nothing of this kind can be read, without one of `wants` some of it can't (`wants_for` says what).
    """

    kind: str
    description: str
    extensions: tuple[str, ...]
    number: int = 1
    needs: tuple[Tool, ...] = ()
    wants: tuple[Tool, ...] = ()
    wants_for: str = ""

    @property
    def missing(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.needs if tool.path() is None)

    @property
    def available(self) -> bool:
        return not self.missing

    @property
    def advice(self) -> str | None:
        """What to install so that all of this kind can be read, None if nothing is missing."""
        if self.missing:
            return "; ".join(tool.install for tool in self.missing)
        wanted = [tool.install for tool in self.wants if tool.path() is None]
        return f"for {self.wants_for}: {'; '.join(wanted)}" if wanted else None


_PLAIN = (
    "txt text log yaml yml toml ini cfg conf env properties tex srt vtt "
    "py pyi js mjs cjs ts tsx jsx go rs java kt scala c h cc cpp hpp cs rb php pl lua r jl swift sh bash zsh ps1 bat "
    "sql css scss less graphql proto tf vue svelte diff patch"
)
_LEGACY = "files that are really RTF"

_FORMATS: tuple[Format, ...] = (
    Format("txt", "plain text, and source code read as text", tuple(_PLAIN.split())),
    Format("md", "Markdown", ("md", "markdown", "mdown", "mkd", "mdx")),
    Format("html", "web page", ("html", "htm", "xhtml", "shtml")),
    Format("xml", "XML", ("xml", "rss", "atom")),
    Format("json", "JSON", ("json", "geojson")),
    Format("ndjson", "JSON, one record a line", ("ndjson", "jsonl")),
    Format("csv", "table of separated values", ("csv",)),
    Format("tsv", "table of tab-separated values", ("tsv", "tab")),
    Format("xlsx", "Excel workbook", ("xlsx", "xlsm", "xltx", "xltm")),
    Format("xls", "old Excel workbook (97–2003)", ("xls", "xlt"), wants=(PANDOC,), wants_for=_LEGACY),
    Format("docx", "Word document", ("docx", "docm", "dotx", "dotm")),
    Format(
        "doc",
        "old Word document (97–2003)",
        ("doc", "dot"),
        needs=(LIBREOFFICE,),
        wants=(PANDOC,),
        wants_for=_LEGACY,
    ),
    Format("pptx", "PowerPoint presentation", ("pptx", "pptm", "ppsx", "potx")),
    Format("ppt", "old PowerPoint presentation (97–2003)", ("ppt", "pps"), needs=(LIBREOFFICE,)),
    Format("pdf", "PDF, by its text layer", ("pdf",), wants=(TESSERACT,), wants_for="scanned pages"),
    Format(
        "image",
        "picture of a page, by optical character recognition",
        ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "gif", "webp"),
        needs=(TESSERACT,),
    ),
    Format("eml", "e-mail, or a web page saved as one file", ("eml", "mht", "mhtml")),
    Format("msg", "e-mail of Outlook", ("msg",)),
    Format("epub", "e-book", ("epub",), needs=(PANDOC,)),
    Format("odt", "OpenDocument text", ("odt",), needs=(PANDOC,)),
    Format("rtf", "rich text", ("rtf",), needs=(PANDOC,)),
    Format("rst", "reStructuredText", ("rst", "rest"), needs=(PANDOC,)),
    Format("org", "Org mode", ("org",), needs=(PANDOC,)),
)
_BY_KIND = {each.kind: each for each in _FORMATS}
_BY_EXTENSION = {extension: each.kind for each in _FORMATS for extension in each.extensions}


def formats() -> list[Format]:
    """Every kind that a parser knows, in the order of the documentation."""
    return list(_FORMATS)


def format_of(kind: str) -> Format:
    """The format of a kind. Raises KeyError for `auto`, which is none, and for what is no kind."""
    return _BY_KIND[kind]


def kind_of(name: str) -> str:
    """The kind that the extension of a file name or URI promises; `auto` when it promises none we know."""
    scheme, is_uri, rest = name.partition("://")
    if is_uri:
        # Of an address only the path counts: https://example.org is no Org file.
        name = rest.partition("/")[2]
        if scheme.lower() in ("http", "https"):
            name = re.split(r"[?#]", name, maxsplit=1)[0]
    return _BY_EXTENSION.get(PurePosixPath(name).suffix[1:].lower(), AUTO)


def parser_fingerprint(kind: str, languages: Sequence[str]) -> str:
    """The parser of a kind in a few words, such as `md-1` or `pdf-1/ocr=tesseract/languages=eng`.

    Holds what this kind uses and what changes its result: our number, the tools it asks for or their absence, the
    languages where a tool reads by them. Never the version of a library, nor a limit: that decides whether it is read,
    not what is read. Imports nothing heavy.
    """
    if kind == AUTO:
        # Content decides which parser it is, so a change to any of them counts: the sum only ever goes up.
        number = sum(each.number for each in _FORMATS)
        tools: tuple[Tool, ...] = (TESSERACT, LIBREOFFICE, PANDOC)
    else:
        number = _BY_KIND[kind].number
        tools = _BY_KIND[kind].needs + _BY_KIND[kind].wants
    parts = [f"{kind}-{number}"]
    for tool in tools:
        installed = tool.path() is not None
        parts.append(f"{tool.role}={tool.name.lower() if installed else 'none'}")
        if installed and tool is TESSERACT:
            parts.append(f"languages={'+'.join(languages)}")
    return "/".join(parts)


def _bundled_pandoc() -> str | None:
    """The program inside the package pypandoc-binary, which is installed without being on PATH."""
    spec = importlib.util.find_spec("pypandoc")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (program := shutil.which("pandoc", path=str(Path(folder) / "files"))) is not None:
            return program
    return None
