"""Trials for so long, and what they have found, of one process or of several."""

from __future__ import annotations

import collections
import itertools
import random
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .harness import Faults


@dataclass
class Found:
    """What trials have found: how they ended, by scenario; kills; and what was wrong, in words."""

    counts: collections.Counter[tuple[str, str]]
    kills: int
    wrong: list[str]

    def __str__(self) -> str:
        table: dict[str, dict[str, int]] = collections.defaultdict(dict)
        for (scenario, ended), count in sorted(self.counts.items()):
            table[scenario][ended] = count
        lines = [f"{s:<28} {', '.join(f'{n} {ended}' for ended, n in e.items())}" for s, e in table.items()]
        total = f"{sum(self.counts.values())} trials, {self.kills} kills, {len(self.wrong)} wrong"
        return "\n".join([*lines, total, *self.wrong[:50]])


def trials(minutes: float, seed: int, share: int, jobs: int) -> Found:
    """Scenarios for so long: each, the share of this process of the faults at every call that writes, and on.

    Args:
        minutes: that they may take.
        seed: of what is drawn.
        share: number of this one among the ``jobs`` that divide the calls.
        jobs: how many there are.
    """
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as place:
        faults = Faults(random.Random(seed), Path(place))
        writes = faults.writes()[share::jobs]
        faults.random.shuffle(writes)
        once = [faults.swaps, *faults.scenarios, *writes]
        for trial in itertools.chain(once, itertools.cycle(faults.scenarios)):
            if time.monotonic() > end:
                break
            trial()
    return Found(faults.counts, faults.kills, faults.wrong)


def summed(found: Iterable[Found]) -> Found:
    """What several processes have found."""
    total = Found(collections.Counter(), 0, [])
    for one in found:
        total = Found(total.counts + one.counts, total.kills + one.kills, total.wrong + one.wrong)
    return total
