"""The long form: python -m tests.fuzz --minutes 30 --jobs 4, from the top folder."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .harness import FINE, run, table

KINDS = (
    "npy",
    "npz",
    "pt",
    "csv",
    "parquet",
    "png",
    "ppm",
    "idx",
    "text",
    "config",
    "safetensors",
    "checkpoint",
)


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
    parser.add_argument("--jobs", type=int, default=1, help="workers, which share the inputs")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes

    def share(first: int) -> dict[str, Counter[str]]:
        """One worker's inputs: one in so many of the numbers."""
        stop = sys.maxsize if given.number is None else given.start + given.number
        numbers = range(given.start + first, stop, given.jobs)
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in given.kinds}
        inputs = ((kind, number) for number in numbers for kind in given.kinds)
        for kind, number, found, why in run(inputs, given.kinds, end):
            counts[kind][found] += 1
            if found not in FINE:
                print(f"{kind} --start {number} --number 1: {found}: {why}", flush=True)
        return counts

    with ThreadPoolExecutor(given.jobs) as pool:  # each waits for a process
        shares = list(pool.map(share, range(given.jobs)))
    counts = {kind: sum((counts[kind] for counts in shares), Counter()) for kind in given.kinds}
    print(table(counts))
    return int(any(set(count) - set(FINE) for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
