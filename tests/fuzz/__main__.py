"""The long form: python -m tests.fuzz --minutes 30, from the top folder."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter

from .harness import FINE, run, table

KINDS = ("npy", "npz", "pt", "png", "ppm", "idx", "text", "config", "safetensors", "checkpoint")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--start", type=int, default=0, help="number of the first input of each kind")
    parser.add_argument(
        "--number", type=int, help="of inputs of each kind, instead of as many as there is time for"
    )
    given = parser.parse_args()
    stop = (
        itertools.count(given.start)
        if given.number is None
        else range(given.start, given.start + given.number)
    )
    inputs = ((kind, number) for number in stop for kind in given.kinds)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in given.kinds}
    for kind, number, found, why in run(inputs, given.kinds, time.monotonic() + 60 * given.minutes):
        counts[kind][found] += 1
        if found not in FINE:
            print(f"{kind} --start {number} --number 1: {found}: {why}", flush=True)
    print(table(counts))
    return int(any(set(count) - set(FINE) for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
