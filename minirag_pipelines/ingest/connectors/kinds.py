"""Which kinds of source there are: a module each, with a `Config`, `check(config)` and `connect(config)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

from pydantic import ValidationError

from minirag_pipelines.core.errors import InvalidInput
from minirag_pipelines.core.records import Item, Problem

KINDS: Mapping[str, str] = {"files": "minirag_pipelines.ingest.connectors.files"}


class Connector(Protocol):
    """What a kind of source does: list its items, read one."""

    def items(self) -> Iterator[Item | Problem]:
        """The source as it is now. Raises SourceUnreadable when it can't be listed at all."""
        ...

    def read(self, uri: str, *, max_bytes: int) -> bytes:
        """An item's content. Raises DocumentUnreadable."""
        ...


def checked_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it is stored. Raises InvalidInput with the field and the reason."""
    module = _module(kind)
    parsed = _parsed(module, config)
    module.check(parsed)
    return cast(dict[str, Any], parsed.model_dump(mode="json"))


def connect(kind: str, config: Mapping[str, Any]) -> Connector:
    """A connector for a stored source. Raises InvalidInput."""
    module = _module(kind)
    return cast(Connector, module.connect(_parsed(module, config)))


def _module(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise InvalidInput("kind", f"{kind!r} is not a kind of source; there is {', '.join(sorted(KINDS))}.")
    return import_module(KINDS[kind])


def _parsed(module: ModuleType, config: Mapping[str, Any]) -> Any:
    try:
        return module.Config(**config)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(".".join(str(part) for part in first["loc"]) or "configuration", first["msg"]) from None
