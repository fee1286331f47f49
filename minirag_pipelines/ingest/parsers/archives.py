"""What is told of a ZIP or OLE container before a library opens it."""

from __future__ import annotations

import io
import zipfile

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.limits import Limits

ZIP_MAGIC = b"PK\x03\x04"
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_ZIP_PARTS = (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx"))
_ZIP_TYPES = {b"application/epub+zip": "epub", b"application/vnd.oasis.opendocument.text": "odt"}
_OLE_STREAMS = (
    ("WordDocument", "doc"),
    ("PowerPoint Document", "ppt"),
    ("Workbook", "xls"),
    ("Book", "xls"),
    ("__properties_version1.0", "msg"),
)


def check_archive(content: bytes, what: str, limits: Limits) -> None:
    """Raises DocumentUnreadable for a container that is encrypted, damaged, or unpacks to more than is read.

    No parser unpacks more of an entry than its size says, nor an archive within the archive.
    """
    if content.startswith(OLE_MAGIC) and _ole_kind(content) is None:
        raise DocumentUnreadable("corrupt", f"The {what} is damaged: it is a container of another kind.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DocumentUnreadable("corrupt", f"The {what} is damaged: it can't be unpacked.") from error
    limits.check_unpacked(len(content), unpacked)


def container_kind(content: bytes) -> str | None:
    """The kind of document in a ZIP or OLE container, None if it is neither or holds none we know.

    Raises DocumentUnreadable for what is encrypted or damaged.
    """
    if content.startswith(OLE_MAGIC):
        return _ole_kind(content)
    if not content.startswith(ZIP_MAGIC):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            kind = b""
            if "mimetype" in names:
                with archive.open("mimetype") as entry:
                    kind = entry.read(100).strip()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise DocumentUnreadable("corrupt", "The file is a ZIP archive that can't be unpacked.") from error
    if kind in _ZIP_TYPES:
        return _ZIP_TYPES[kind]
    return next((kind for part, kind in _ZIP_PARTS if any(name.startswith(part) for name in names)), None)


def _ole_kind(content: bytes) -> str | None:
    import msoffcrypto  # type: ignore[import-untyped]  # ships no types
    import olefile  # type: ignore[import-untyped]  # ships no types

    try:
        with olefile.OleFileIO(io.BytesIO(content)) as container:
            if container.exists("EncryptedPackage"):
                raise DocumentUnreadable("encrypted", "The document is protected by a password.")
            kind = next((kind for stream, kind in _OLE_STREAMS if container.exists(stream)), None)
    except OSError as error:
        raise DocumentUnreadable("corrupt", "The document is an old Office file that is damaged.") from error
    if kind in ("doc", "xls", "ppt"):
        try:
            encrypted = msoffcrypto.OfficeFile(io.BytesIO(content)).is_encrypted()
        except Exception:  # noqa: BLE001  # it parses what it is given; what it can't read the parser will judge
            encrypted = False
        if encrypted:
            raise DocumentUnreadable("encrypted", "The document is protected by a password.")
    return kind
