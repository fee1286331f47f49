"""How far a long step is, said every few seconds: in the log of the run, and from there on the terminal."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger(__name__)


class Progress:
    """Counts what is done of a step. Silent while the step is short."""

    def __init__(self, what: str, total: int, *, every_s: float = 5.0) -> None:
        self._what = what
        self._total = total
        self._every_s = every_s
        self._done = 0
        self._began = self._said = time.monotonic()

    def add(self, done: int = 1) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._said < self._every_s or not self._done:
            return
        self._said = now
        rate = self._done / (now - self._began)
        left = max(self._total - self._done, 0) / rate
        _log.info("%s: %s of %s, %s a second, about %s s left", self._what, *self._shown(rate, left))

    def _shown(self, rate: float, left: float) -> tuple[str, str, str, str]:
        return f"{self._done:,}", f"{max(self._total, self._done):,}", f"{rate:,.0f}", f"{left:,.0f}"
