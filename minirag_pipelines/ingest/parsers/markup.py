"""HTML and what becomes HTML on the way: Markdown, e-books, OpenDocument, RTF, reStructuredText, Org; and XML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.formats import PANDOC, format_of
from minirag_pipelines.ingest.limits import LIBXML2_HTML_DEPTH, LIBXML2_TEXT_BYTES, Limits
from minirag_pipelines.ingest.parsers.archives import check_archive
from minirag_pipelines.ingest.parsers.encodings import declared_in_markup, decoded
from minirag_pipelines.ingest.parsers.pieces import Parsed, Piece, Tag, grid, pieces_of, storable
from minirag_pipelines.ingest.parsers.programs import program, run
from minirag_pipelines.ingest.parsers.unstructured_setup import NO_LANGUAGES, keep_single_characters, prepare

# unstructured leaves these out with all that is in them, but whole pages stand in a <form>, and documentation hides
# what matters in <details>. They are read as what they contain.
_TRANSPARENT = {"form": "div", "fieldset": "div", "details": "div", "figure": "div", "summary": "p", "figcaption": "p"}
_INVISIBLE = ("script", "style", "noscript", "template")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"""^title:[ \t]*(["']?)(.+?)\1[ \t]*$""", re.MULTILINE)
_HEADING_ATTRIBUTES = re.compile(r"\s*\{:?\s*[#.][^{}]*\}$")
_PANDOC_DATE = re.compile(r'<p class="date">.*?</p>')
_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")


def parse_html(content: bytes, limits: Limits) -> Parsed:
    source = decoded(content, declared_in_markup(content))
    return replace(html_parsed(source.text, limits), warnings=source.warnings)


def html_parsed(text: str, limits: Limits) -> Parsed:
    """Title and pieces of a page. Nothing that it refers to is fetched."""
    prepare()
    from lxml import etree, html  # type: ignore[import-untyped]  # ships no types
    from unstructured.partition.html import partition_html

    keep_single_characters()
    text = _XML_DECLARATION.sub("", storable(text))
    if not text.strip():
        return Parsed([])
    try:
        # As bytes: a declaration of an encoding, wherever it stands, is refused in a text and ignored here.
        # Without `huge_tree` what is nested too deep is left out, and nothing is said.
        parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
        root = html.document_fromstring(text.encode(), parser=parser)
    except etree.ParserError:  # nothing but comments and the like
        return Parsed([])
    _check(root, limits)
    title = root.findtext(".//head/title")
    if root.find(".//body") is None:
        return Parsed([], title)
    etree.strip_elements(root, *_INVISIBLE, with_tail=False)
    for node in list(root.iter(*_TRANSPARENT)):
        node.tag = _TRANSPARENT[node.tag]
    for node in [node for node in root.iter("table") if _is_layout(node)]:
        _make_transparent(node)
    for node in {cell.getparent().getparent() for cell in root.xpath("//tr/*[@rowspan or @colspan]")}:
        _fill_spans(node.findall("tr"))
    markup = etree.tostring(root, encoding="unicode", method="html")
    return Parsed(pieces_of(partition_html(text=markup, languages=NO_LANGUAGES)), title)


def _is_layout(table: Tag) -> bool:
    """Whether a table only arranges a page: it holds tables or headings, or but one cell with anything in it."""
    if next(table.iterdescendants("table", "h1", "h2", "h3", "h4"), None) is not None:
        return True
    cells = (cell for cell in table.iterdescendants("td", "th") if any(text.strip() for text in cell.itertext()))
    return len(list(islice(cells, 2))) < 2


def _fill_spans(rows: Sequence[Tag]) -> None:
    """Gives each row all its cells: unstructured would keep the text of a table but not how far its cells reach."""
    for row, texts in zip(rows, grid(rows), strict=True):
        tag = "th" if {cell.tag for cell in row} == {"th"} else "td"
        tail = row.tail
        row.clear()
        row.tail = tail
        for text in texts:
            cell = row.makeelement(tag)
            cell.text = text
            row.append(cell)


def _make_transparent(table: Tag) -> None:
    table.tag = "div"
    for part in table:
        rows = [part] if part.tag == "tr" else part.findall("tr")
        for node in [part, *rows, *(cell for row in rows for cell in row)]:
            node.tag = "div"


def parse_markdown(content: bytes, limits: Limits) -> Parsed:
    """The rendered text, without the marks of Markdown. Front matter is kept as text, and its title is the title."""
    import markdown

    source = decoded(content)
    text = storable(source.text)
    front = _FRONT_MATTER.match(text)
    body = text[front.end() :] if front else text
    parsed = html_parsed(markdown.markdown(body, extensions=["tables", "fenced_code"]), limits)
    pieces = [_without_attributes(piece) for piece in parsed.pieces]
    title = None
    if front:
        pieces.insert(0, Piece("text", front[1]))
        title = found[2] if (found := _FRONT_TITLE.search(front[1])) else None
    return Parsed(pieces, title, warnings=source.warnings)


def parse_with_pandoc(content: bytes, kind: str, limits: Limits) -> Parsed:
    """What pandoc makes HTML of. In its sandbox it reads nothing but its input, and fetches nothing."""
    what = f"This {format_of(kind).description}"
    pandoc = program(PANDOC, what)
    # A standalone page, because only that says the title; `pagetitle` keeps pandoc from making one up.
    options = ["--sandbox", "--standalone", "--metadata=pagetitle:-", "--wrap=none", f"--from={kind}", "--to=html"]
    warnings: tuple[str, ...] = ()
    if kind in ("epub", "odt"):
        check_archive(content, format_of(kind).description, limits)
    if kind in ("rst", "org"):
        source = decoded(content)
        content, warnings = storable(source.text).encode(), source.warnings
    output = run([pandoc, *options], stdin=content, what=what)
    if b"Could not load include file" in output.stderr:
        warnings += ("It includes other files; what stands in those is not read.",)
    markup = _PANDOC_DATE.sub("", output.stdout.decode("utf-8", "replace"))
    found = re.search(r'<h1 class="title">(.*?)</h1>', markup, re.DOTALL)
    title = html_parsed(found[1], limits).pieces[0].text if found else None
    return Parsed(html_parsed(markup, limits).pieces, title, warnings=warnings)


def parse_xml(content: bytes, limits: Limits) -> Parsed:
    """The text of each innermost block, in order, with the text after its children. Attributes are left out."""
    from lxml import etree

    source = decoded(content, declared_in_markup(content))
    text = _XML_DECLARATION.sub("", storable(source.text)).strip()
    if not text:
        return Parsed([])
    warnings = source.warnings
    options = {"resolve_entities": "internal", "no_network": True, "remove_comments": True, "remove_pis": True}
    try:
        root = etree.fromstring(text.encode(), etree.XMLParser(encoding="utf-8", **options))
    except etree.XMLSyntaxError as error:
        if refusal := limits.refusal(error):
            raise refusal from error
        root = etree.fromstring(text.encode(), etree.XMLParser(encoding="utf-8", recover=True, **options))
        if root is None or not any(_blocks(root)):
            raise DocumentUnreadable("corrupt", f"This is no XML: line {error.lineno} is malformed.") from error
        warnings += (f"The XML is malformed at line {error.lineno}; it was read as far as possible.",)
    _check(root, limits)
    if _name(root).lower() == "html":
        return replace(html_parsed(text, limits), warnings=warnings)
    return Parsed([Piece("text", block) for block in _blocks(root)], warnings=warnings)


def _check(root: Tag, limits: Limits) -> None:
    """Raises DocumentUnreadable for what is nested too deep, or holds a text that would be left out with no word."""
    from lxml import etree

    depth = deepest = 0
    for event, node in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        deepest = max(deepest, depth)
        text = (node.text if event == "start" else node.tail) or ""
        if 4 * len(text) > LIBXML2_TEXT_BYTES and (size_bytes := len(text.encode())) > LIBXML2_TEXT_BYTES:
            reason = f"A single text in it has {size_bytes >> 20} MiB, more than can be read."
            raise DocumentUnreadable("too_large", reason)
    limits.check_nesting(deepest, or_more=deepest >= LIBXML2_HTML_DEPTH)


def _blocks(node: Tag) -> Iterator[str]:
    """An element with text of its own is one block with all that is inside; so is a record of named values."""
    children = list(node)
    # An entity that is not declared is a node whose tag is a function; it stands for text.
    entities = any(not isinstance(child.tag, str) for child in children)
    if entities or (node.text or "").strip() or any((child.tail or "").strip() for child in children):
        yield _flat(node)
        return
    values = [(_name(child), _flat(child)) for child in children if not len(child)]
    if len(values) == len(children) > 1 and len({name for name, _ in values}) > 1:
        yield "\n".join(f"{name}: {value}" for name, value in values if value)
        return
    for child in children:
        yield from _blocks(child)


def _flat(node: Tag) -> str:
    return " ".join("".join(node.itertext()).split())


def _name(node: Tag) -> str:
    return str(node.tag).rpartition("}")[2]


def _without_attributes(piece: Piece) -> Piece:
    """A heading without `{ #anchor }`, which only some dialects of Markdown know."""
    return replace(piece, text=_HEADING_ATTRIBUTES.sub("", piece.text)) if piece.kind == "title" else piece
