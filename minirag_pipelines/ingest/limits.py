"""How much one document may ask of a parser. What goes beyond is refused, with the number found and the setting."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.settings import Settings

# Below this, how tightly an archive is packed says nothing: one of a few empty sheets is packed as tightly as a bomb.
RATIO_FROM_BYTES = 100 << 20
# libxml2's own limits. For XML they stay: the option that lifts them lifts its guard against entities too.
LIBXML2_DEPTH = 256
LIBXML2_HTML_DEPTH = 2048
LIBXML2_TEXT_BYTES = 10_000_000
# The codes of libxml2's XML_ERR_RESOURCE_LIMIT and of Expat's XML_ERROR_AMPLIFICATION_LIMIT_BREACH.
_LIBRARY_LIMITS = {"XMLSyntaxError": 114, "ParseError": 43, "ExpatError": 43}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one call of the parser, from the settings `MINIRAG_MAX_…`.

    They are no part of a parser's fingerprint, because they change nothing about what is read. They are part of what
    made a refusal: `str()` says them in a few words, so that another limit lets what was refused be tried again.
    """

    unpacked_mib: int
    unpack_ratio: int
    nesting: int
    pages: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            settings.max_unpacked_mib, settings.max_unpack_ratio, settings.max_nesting_levels, settings.max_pages
        )

    def __str__(self) -> str:
        return f"limits={','.join(str(limit) for limit in astuple(self))}"

    def check_unpacked(self, packed_bytes: int, unpacked_bytes: int) -> None:
        """Raises DocumentUnreadable for an archive that says of itself that it unpacks to too much."""
        if unpacked_bytes > self.unpacked_mib << 20:
            found = f"unpacks to {unpacked_bytes >> 20:,} MiB"
            raise _too_large(found, self.unpacked_mib, "MINIRAG_MAX_UNPACKED_MIB")
        ratio = unpacked_bytes // max(packed_bytes, 1)
        if unpacked_bytes > RATIO_FROM_BYTES and ratio > self.unpack_ratio:
            raise _too_large(f"unpacks to {ratio:,} times its size", self.unpack_ratio, "MINIRAG_MAX_UNPACK_RATIO")

    def check_nesting(self, levels: int, *, or_more: bool = False) -> None:
        """Raises DocumentUnreadable for a document that has this many levels, its outermost element counted."""
        if levels > self.nesting:
            found = f"is nested {'at least ' if or_more else ''}{levels:,} levels deep"
            raise _too_large(found, self.nesting, "MINIRAG_MAX_NESTING_LEVELS")

    def check_pages(self, pages: int, what: str = "pages", *, or_more: bool = False) -> None:
        """Raises DocumentUnreadable for a document that has this many."""
        if pages > self.pages:
            raise _too_large(f"has {'at least ' if or_more else ''}{pages:,} {what}", self.pages, "MINIRAG_MAX_PAGES")

    def refusal(self, error: Exception) -> DocumentUnreadable | None:
        """What is said when a library has hit a limit of its own, None when this error is another."""
        if isinstance(error, RecursionError):
            return _too_large("is nested deeper than can be read", self.nesting, "MINIRAG_MAX_NESTING_LEVELS")
        limit = _LIBRARY_LIMITS.get(type(error).__name__)
        if limit is None or limit != getattr(error, "code", None):
            return None
        if "depth" in str(error):
            found = f"is nested at least {LIBXML2_DEPTH} levels deep"
            return _too_large(found, self.nesting, "MINIRAG_MAX_NESTING_LEVELS")
        reason = "Its XML holds entities that expand to too much, or a single text of more than 10 MB."
        return DocumentUnreadable("too_large", reason)


def _too_large(found: str, limit: int, setting: str) -> DocumentUnreadable:
    return DocumentUnreadable("too_large", f"It {found}; the limit is {limit:,} ({setting}).")
