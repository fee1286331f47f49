"""`minirag demo`: real documents of two tenants become answers with citations."""

from __future__ import annotations


def demo() -> None:
    """Real documents of two tenants become answers with citations."""
