"""Kind `files`: a folder or a single file, on this machine or on any filesystem that fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fsspec.utils import glob_translate
from pydantic import BaseModel, ConfigDict, Field, field_validator

from minirag_pipelines.core.errors import DocumentUnreadable, InvalidInput, SourceUnreadable
from minirag_pipelines.core.records import Item, Problem

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# A file that changes within the same tick of its filesystem's clock keeps its times: what was changed this shortly
# before it was listed is looked at once more.
_SETTLED_S = 0.05


class Config(BaseModel):
    """`path` is absolute, or a URL of files that are not on this machine.

    `glob` without a slash means names at any depth, as `*.md` does in most tools.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    glob: str = Field(default="**/*", min_length=1)

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if re.match(r"(file|local)://", path):
            path = file_path(path)
        return path if "://" in path else os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - keeps links as given


def connect(config: Config) -> LocalFiles | RemoteFiles:
    """A connector for the configuration. Raises InvalidInput for a path that nothing can be read from."""
    return RemoteFiles(config) if "://" in config.path else LocalFiles(config)


def check(config: Config) -> None:
    """Raises InvalidInput when the path is not there: asked when the source is added."""
    if "://" not in config.path and not Path(config.path).exists():
        raise InvalidInput("path", f"{config.path} does not exist.")
    connect(config)


class LocalFiles:
    """Files below a folder of this machine; hidden ones (a leading dot) are left out.

    A symbolic link to a file is a document of its own. One that leads out of the folder is refused when it is read;
    linked folders are not entered: what they hold is listed where it lies, or lies outside. What lies outside is told
    as a problem, as are pipes, sockets and devices: they are no documents, so nothing of them could be tried again.
    """

    def __init__(self, config: Config) -> None:
        self._root = config.path
        self._matches = _matcher(config.glob)

    def items(self) -> Iterator[Item | Problem]:
        """What the folder holds now. Raises SourceUnreadable when it can't be listed at all."""
        try:
            root = os.stat(self._root)  # noqa: PTH116 - names with any bytes, and no Path a file
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            raise SourceUnreadable(self._root, _reason(error), absent=absent) from error
        if stat.S_ISREG(root.st_mode):
            yield _item(self._root, root)
            return
        if not stat.S_ISDIR(root.st_mode):
            raise SourceUnreadable(self._root, "it is neither a folder nor a file.")
        pending = [self._root]
        while pending:
            folder = pending.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                if folder == self._root:
                    raise SourceUnreadable(self._root, _reason(error)) from error
                yield Problem(file_uri(folder), f"A folder can't be listed: {_reason(error)}", incomplete=True)
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                found = self._entry(entry)
                if found is not None:
                    yield found

    def _entry(self, entry: os.DirEntry[str]) -> Item | Problem | None:
        """A file, or a link to one; a problem for what is neither; None for what is not asked for or is gone."""
        try:
            found = _stat(entry)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Problem(file_uri(entry.path), f"A file can't be looked at: {_reason(error)}", incomplete=True)
        if stat.S_ISDIR(found.st_mode):
            leads_out = not Path(entry.path).resolve().is_relative_to(Path(self._root).resolve())
            reason = "A linked folder was left out: to have its files, add it as a source."
            return Problem(file_uri(entry.path), reason, incomplete=False) if leads_out else None
        if not self._matches(os.path.relpath(entry.path, self._root)):
            return None
        if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            return _item(entry.path, found)
        return Problem(file_uri(entry.path), "A pipe, socket or device was left out.", incomplete=False)

    def read(self, uri: str, *, max_bytes: int) -> bytes:
        """The file's bytes. Raises DocumentUnreadable."""
        path = file_path(uri)
        root = Path(self._root).resolve()
        try:
            target = Path(path).resolve(strict=True)
            if not target.is_relative_to(root):
                raise DocumentUnreadable("refused", "The symbolic link leads out of the source's folder.")
            # Opening a pipe would wait for somebody to write to it.
            with open(target, "rb", opener=_without_waiting) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise DocumentUnreadable("refused", "It is not a regular file.")
                if found.st_size > max_bytes:
                    raise too_large(found.st_size, max_bytes)
                content = file.read(max_bytes + 1)
        except FileNotFoundError as error:
            dangling = Path(path).is_symlink()
            reason = "The symbolic link leads to nothing." if dangling else "It was listed, and is gone now."
            raise DocumentUnreadable("vanished", reason, permanent=False) from error
        except RuntimeError as error:
            raise DocumentUnreadable("refused", "The symbolic link leads to itself.") from error
        except OSError as error:
            raise DocumentUnreadable("unreadable", f"It can't be read: {_reason(error)}", permanent=False) from error
        if len(content) > max_bytes:
            raise too_large(None, max_bytes)
        return content


class RemoteFiles:
    """Files below a URL, through fsspec."""

    def __init__(self, config: Config) -> None:
        import fsspec

        try:
            self._filesystem: AbstractFileSystem
            self._filesystem, self._root = fsspec.core.url_to_fs(config.path)
        except (ImportError, ValueError, OSError) as error:
            raise InvalidInput("path", f"{config.path}: {error}") from error
        self._matches = _matcher(config.glob)

    def items(self) -> Iterator[Item | Problem]:
        """What the URL holds now. Raises SourceUnreadable when it can't be listed as a whole."""
        try:
            found: dict[str, dict[str, Any]] = self._filesystem.find(self._root, detail=True, on_error="raise")
        except Exception as error:
            raise SourceUnreadable(self._root, _reason(error)) from error
        if not found and not self._filesystem.exists(self._root):
            raise SourceUnreadable(self._root, "it does not exist.", absent=True)
        for path, info in sorted(found.items()):
            relative = path.removeprefix(self._root).lstrip("/") or PurePosixPath(path).name
            if self._matches(relative) and not any(part.startswith(".") for part in relative.split("/")):
                etag = info.get("ETag") or info.get("etag")
                yield Item(
                    self._filesystem.unstrip_protocol(path),
                    info.get("size"),
                    _modified_at(info),
                    str(etag) if etag else None,
                )

    def read(self, uri: str, *, max_bytes: int) -> bytes:
        """The file's bytes. Raises DocumentUnreadable."""
        try:
            with self._filesystem.open(uri, "rb") as file:
                size = getattr(file, "size", None) or 0
                content = b"" if size > max_bytes else bytes(file.read(max_bytes + 1))
        except FileNotFoundError as error:
            raise DocumentUnreadable("vanished", "It was listed, and is gone now.", permanent=False) from error
        except Exception as error:
            raise DocumentUnreadable("unreadable", f"It can't be read: {_reason(error)}", permanent=False) from error
        if max(size, len(content)) > max_bytes:
            raise too_large(size if size > max_bytes else None, max_bytes)
        return content


def file_uri(path: str) -> str:
    """A path of any bytes as a file URI of ASCII characters."""
    return "file://" + quote_from_bytes(os.fsencode(path))


def file_path(uri: str) -> str:
    """The path that `file_uri` was given; of any URL of a file on this machine."""
    return os.fsdecode(unquote_to_bytes(uri.partition("://")[2]))


def addresses(reference: str) -> list[str]:
    """The URIs that a person may mean by a URI or by the path of a file of this machine; none for what is no text."""
    uris = {reference}
    if re.match(r"(file|local)://", reference):
        uris.add(file_uri(file_path(reference)))
    elif "://" not in reference:
        path = Path(reference).expanduser()
        # As given, and as it is reached through links: a source keeps the links in its folder's path.
        uris |= {file_uri(os.path.abspath(path)), file_uri(os.path.realpath(path))}  # noqa: PTH100
    return sorted(uri for uri in uris if _is_text(uri))


def _is_text(words: str) -> bool:
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def too_large(size_bytes: int | None, max_bytes: int) -> DocumentUnreadable:
    """The size is None where nothing says it, as of a file that grows while it is read."""
    limit = f"{max_bytes / 2**20:,.0f} MiB"
    size = f"more than {limit}" if size_bytes is None else f"{size_bytes / 2**20:,.1f} MiB"
    return DocumentUnreadable("too_large", f"It has {size}; the limit is {limit} (MINIRAG_MAX_DOCUMENT_MIB).")


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    """What is there, or where a link leads; of a link to nothing, the link itself: reading it will say why."""
    found = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        with contextlib.suppress(OSError):
            return entry.stat()
    return found


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _item(path: str, found: os.stat_result) -> Item:
    now = datetime.now(tz=UTC).timestamp()
    # The change time tells what the modification time hides: a file put in place with its old times.
    etag = f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_ino:x}"
    unsettled = max(found.st_mtime, found.st_ctime) > now - _SETTLED_S
    modified_at = datetime.fromtimestamp(found.st_mtime, tz=UTC)
    return Item(file_uri(path), found.st_size, modified_at, etag + "?" if unsettled else etag)


def _modified_at(info: Mapping[str, Any]) -> datetime | None:
    """As the filesystem says it: each has its own name for it, and its own form."""
    found = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(found, int | float):
        return datetime.fromtimestamp(found, tz=UTC)
    return found if isinstance(found, datetime) else None


def _matcher(glob: str) -> Any:
    pattern = re.compile(glob_translate(glob if "/" in glob else f"**/{glob}"), re.DOTALL)
    return lambda relative: pattern.fullmatch(relative) is not None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
