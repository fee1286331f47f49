"""Syncs killed with `kill -9` wherever they can die: the next one ends where a faultless one would have ended."""

from __future__ import annotations

import random
import time

import pytest

from tests.worlds import Worlds

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_a_sync_killed_at_any_point_is_made_good_by_the_next(worlds: Worlds, part: int) -> None:
    """Each part kills at a quarter of the points: in the first sync, and in two with every change and a new chunker."""
    for _ in range(3):
        points = dict.fromkeys(point.rsplit(" ", 1)[0] for point in worlds.run_calm())
        chosen = list(points)[part::PARTS]
        missed = [point for point in chosen if not worlds.killed_at(f"{point} 1")]
        assert missed == []
        assert worlds.run().finished
        worlds.check()
        worlds.change(new_chunker=True)
    assert worlds.kills >= 15


@pytest.mark.parametrize("seed", range(4))
def test_syncs_killed_at_random_times_end_right(worlds: Worlds, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same for every run
    for new_chunker in (True, False, True):
        began = time.monotonic()
        points = len(worlds.run_calm())
        lasts_s = time.monotonic() - began
        for _ in range(2):
            worlds.killed_after_s(chance.uniform(0, lasts_s))
            worlds.killed_after(chance.randrange(2, points // 2))
        assert worlds.run().finished
        worlds.check()
        worlds.change(new_chunker=new_chunker)
    assert worlds.kills >= 5
