"""A run survives each kind of fault; ``python -m tests.faults --minutes 30`` tries them over and over."""

import collections
import os
import random

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a trial is a child by fork")


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    from faults.harness import Faults

    return Faults(random.Random(0), tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("scenario", "times"),
    [
        ("planted", 1),
        ("swaps", 1),
        ("moved", 1),
        ("diverges", 2),
        ("stale", 5),
        ("flips", 10),
        ("signals", 3),
        ("moments", 2),
        ("again_and_again", 1),
        ("compares", 1),
        ("contents", 1),
        ("clocks", 4),
        ("filled", 2),
        ("readonly", 1),
    ],
)
def test_nothing_is_lost_or_wrong(faults, scenario, times):
    for _ in range(times):
        getattr(faults, scenario)()
    assert not faults.wrong


def test_faults_while_writing(faults):
    for trial in faults.writes()[47::90]:
        trial()
    assert not faults.wrong
    assert faults.kills > 5


@pytest.mark.slow
def test_processes_share_the_trials(monkeypatch, capsys):
    """What they found is added up, and what is wrong is told by the exit code."""
    from faults import __main__
    from faults.trials import Found, summed

    one = Found(collections.Counter({("flips", "refused"): 2}), 1, [])
    bad = Found(collections.Counter({("flips", "WRONG"): 1}), 0, ["a bit flipped, byte 3"])
    total = summed([one, bad, one])
    assert str(total).splitlines() == [
        "flips                        1 WRONG, 4 refused",
        "5 trials, 2 kills, 1 wrong",
        "a bit flipped, byte 3",
    ]
    monkeypatch.setattr("sys.argv", ["faults", "--minutes", "0.1", "--jobs", "2"])
    assert __main__.main() == 0
    assert "trials" in capsys.readouterr().out
