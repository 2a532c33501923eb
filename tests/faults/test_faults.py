"""A run survives each kind of fault; ``python -m tests.faults --minutes 30`` tries them over and over."""

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
    ],
)
def test_nothing_is_lost_or_wrong(faults, scenario, times):
    for _ in range(times):
        getattr(faults, scenario)()
    assert not faults.wrong


def test_faults_while_writing(faults):
    faults.writes(90)
    assert not faults.wrong
    assert faults.kills > 5
