"""Faults for so many minutes: python -m tests.faults --minutes 30."""

import argparse
import random
import tempfile
import time
from pathlib import Path

from .harness import Faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as place:
        faults = Faults(random.Random(given.seed), Path(place))
        once = [faults.planted, faults.swaps, faults.moved, faults.contents, lambda: faults.writes(1)]
        many = [faults.again_and_again, faults.moments, faults.signals, faults.flips, faults.stale]
        many += [faults.diverges, faults.moved, faults.contents, faults.compares, faults.planted]
        for scenario in once:
            scenario()
            print(faults.report(), flush=True)
        while time.monotonic() < end:
            for scenario in many:
                scenario()
            print(faults.report().splitlines()[-1], flush=True)
        print(faults.report(), *faults.wrong[:50], sep="\n")
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
