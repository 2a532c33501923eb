"""Faults for so many minutes: python -m tests.faults --minutes 30 --jobs 4, from the top folder."""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from .trials import summed, trials


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="of the first process; the next has the next one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args()
    tasks = [(given.minutes, given.seed + share, share, given.jobs) for share in range(given.jobs)]
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        found = summed(pool.map(trials, *zip(*tasks, strict=True)))
    print(found)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
