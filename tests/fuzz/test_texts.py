"""A table of bad texts: each ends in one sentence that names what was found, soon, and nothing is run."""

import contextlib
import time
from pathlib import Path

import pytest

from pyro_vae import registry
from pyro_vae.checks import ConfigError
from pyro_vae.registry import options, read

BAD = {
    "Laplace(0, 1e999)": "64 bits",
    "Laplace(-1e999, 1)": "64 bits",
    "Laplace(nan, 1)": "nan is no value",
    "Laplace(-nan, 1)": "no plain value",
    "Laplace(" + "9" * 5000 + ", 1)": "no name and no call",
    "Laplace(" + "9" * 4000 + ", 1)": "64 bits",
    "Laplace(-" + "9" * 30 + ", 1)": "64 bits",
    "Laplace(0x" + "f" * 5000 + ", 1)": "64 bits",
    "Laplace(" + "9" * 400 + ".0, 1)": "64 bits",
    "Laplace([1, [2, " + str(2**63) + "]], 1)": "64 bits",
    "Laplace(1j, 1)": "1j is no plain value",
    "Laplace(b'a', 1)": "b'a' is no plain value",
    "Laplace(..., 1)": "no plain value",
    "Laplace({1}, 1)": r"\{1\} is no plain value",
    "Laplace({[]: 1}, 1)": "no plain value",
    "Laplace({**a}, 1)": "no plain value",
    "Laplace(+1, 1)": r"\+1 is no plain value",
    "Laplace(~1, 1)": "~1 is no plain value",
    "Laplace(not 1, 1)": "not 1 is no plain value",
    "Laplace(-True, 1)": "-True is no plain value",
    "Laplace(-'a', 1)": "-'a' is no plain value",
    "Laplace(1 if 1 else 2, 1)": "no plain value",
    "Laplace(1 < 2, 1)": "no plain value",
    "Laplace(9**9**9**9, 1)": "no plain value",
    "Laplace('a' * 10**9, 1)": "no plain value",
    "Laplace(x[0], 1)": "no plain value",
    "Laplace((a := 1), 1)": "no plain value",
    "Laplace(lambda: 0, 1)": "no plain value",
    "Laplace([x for x in y], 1)": "no plain value",
    "Laplace(*a)": "no plain value",
    "Laplace(**a)": "a is no value",
    "Laplace(0, 1, scale=2)": "multiple values",
    "Laplace(0, scale=1, scale=2)": "scale is given twice",
    "Laplace(0, **{'a': 1}, **{'b': 1})": "is given twice",
    "Laplace(0, 1, other=2)": "other",
    "Laplace(None=1)": "no name and no call",
    "Laplace(0, -1)": "cannot be made",
    "Laplace('low', 1)": "loc='low' must be",
    "Laplace([1, 'a'], 1)": "must be",
    "Laplace(Laplace, 1)": "cannot be made|must be",
    "\uff2eormal": "\uff2eormal is no Normal, though it looks like it",
    "Laplace(0, 1).\uff45xpand([3])": "though it looks like it",
    "Laplace(0, \uff53cale=1)": "though it looks like it",
    "\u039dormal": "no prior is named \u039dormal; did you mean .*Normal",
    "Norm\u0430l": "did you mean .*Normal",
    "Normal\u200b": "no name and no call",
    "Normal\u202e": "no name and no call",
    "\ufeffNormal": "no name and no call",
    "Laplace(\u0663, 1)": "no name and no call",
    "\ud800": "no name and no call",
    "\U0001f600": "no name and no call",
    "Nor\0mal": "no name and no call",
    "Normal; Normal": "no name and no call",
    "Normal\nNormal": "no name and no call",
    "import os": "no name and no call",
    "": "no name and no call",
    "   ": "no name and no call",
    "(": "no name and no call",
    "'" * 3: "no name and no call",
    "()": "no name and no call",
    "3": "no name and no call",
    "'Normal'": "no name and no call",
    "Normal.": "no name and no call",
    ".Normal": "no name and no call",
    "Normal[0]": "no name and no call",
    "Normal()()": "no name and no call",
    "True": "no prior is named True",
    "None": "no prior is named None",
    "await x": "no name and no call",
    "(yield)": "no name and no call",
    "eval": "no prior is named eval",
    "exec('1')": "no prior is named exec",
    "type": "no prior is named type",
    "object": "no prior is named object",
    "getattr(Normal, 'a')": "Normal|getattr",
    "open('x', 'w')": "no prior is named open",
    "globals()": "no prior is named globals",
    "breakpoint()": "no prior is named breakpoint",
    "__builtins__": "no prior is named __builtins__",
    "__import__('os')": "no prior is named __import__",
    "builtins.eval": "not trusted",
    "os.system('touch ran')": "not trusted",
    "Normal.__class__": "not trusted",
    "Normal.__init__.__globals__": "not trusted",
    "Distribution": "no prior is named Distribution",
    "Laplace(0, 1).sample()": r"\.sample is not known",
    "Laplace(0, 1).__reduce__()": r"\.__reduce__ is not known",
    "Laplace(0, 1).to_event('a')": "must be|cannot be made",
    "Laplace(0, 1).to_event(99)": "cannot be made",
    "Laplace(0, 1).expand('ab')": "must be|cannot be made",
    "Laplace(0, 1).expand([-2])": "cannot be made",
    "Laplace(" + "[" * 90 + "1" + "]" * 90 + ", 1)": "nested too deep",
    "Laplace(" + "-" * 900 + "1, 1)": "nested too deep|no name and no call",
    "Fixed(" * 100 + "1" + ")" * 100: "nested too deep",
    "Fixed(" * 3000 + "1" + ")" * 3000: "no name and no call",
    "a" + ".a" * 150: "nested too deep",
    "a" * 100_000: "no prior is named aaaa",
    "a" * 2**20: "1,048,576 characters, and more than 200,000",
    "Laplace([" + "1," * 400_000 + "], 1)": "more than 200,000",
    "(" * 2**20: "more than 200,000",
    " " * 2**20 + "Normal": "more than 200,000",
    "Normal #" + "a" * 2**20: "more than 200,000",
    "\0" * 150_000: "no name and no call",
    "(" * 150_000: "no name and no call",
    "1+" * 50_000 + "1": "nested too deep|no name and no call",
}
"""Texts of priors, and what is said of them."""


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=[text[:30] for text in BAD])
def test_are_refused(text, message):
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=message) as caught:
        read("prior", text)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 1500
    assert repr(text.strip()[:40])[1:20] in told or text[:20] in told or not text.strip()
    assert time.perf_counter() - start < 10
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", BAD, ids=[text[:30] for text in BAD])
def test_are_bad_as_options_and_values_too(text):
    with contextlib.suppress(ConfigError):
        read("prior", options(text, {"loc": "1"}))
    with contextlib.suppress(ConfigError):
        read("prior", options("Laplace", {"loc": text, "scale": "1.0"}))
    assert isinstance(registry.plain(text), str | int | tuple | None)


@pytest.mark.parametrize(
    "value", [3, None, b"Normal", ["Normal"], 10**5000, object], ids=lambda value: type(value).__name__
)
def test_what_is_no_text(value):
    with pytest.raises(ConfigError, match=r"prior=.* must be a text"):
        read("prior", value)


def test_what_is_long_but_fine():
    part = read("prior", f"Laplace([{', '.join(['0.12345678'] * 10_000)}], 1.0).to_event(1)")
    assert part.event_shape == (10_000,)
    assert read("prior", "Laplace(0, inf)").scale == float("inf")
