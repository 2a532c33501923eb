"""Each example runs at a reduced size, says how well it did and draws what the course's page shows of it."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LISTED = (ROOT / "docs" / "course.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COURSE = sorted((ROOT / "examples" / "course").glob("*.py"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script as ``python path options`` would, at a reduced size, and returns what it prints."""

    def run_script(path, *options):
        monkeypatch.setattr(sys, "argv", [str(path), *options])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    monkeypatch.setenv("COURSE_SIZE", "0.02")
    with torch.random.fork_rng([]):
        yield run_script
    torch.set_default_dtype(torch.float32)
    plt.close("all")


LONG = {"05_swap_the_likelihood", "07_is_the_posterior_right", "10_your_own_data", "five_losses"}


def _each(paths):
    slow = pytest.mark.slow
    return [pytest.param(p, id=p.stem, marks=[slow] if p.stem in LONG else []) for p in paths]


# PyTorch's, under NumPy 2, where matplotlib is given tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:log p.x. of", "ignore:fewer than 40", "ignore:the best member", "ignore:the effective sample"
)  # they are short
@pytest.mark.parametrize("path", _each([*EXAMPLES, *COURSE]))
def test_runs_and_is_listed(path, run):
    name = path.relative_to(ROOT).as_posix()
    assert f"](../{name})" in LISTED, f"list {name} in docs/course.md"
    text = path.read_text()
    for module in ("scanpy", "palmerpenguins", "statsmodels"):  # which bring data
        if f"import {module}" in text or f"from {module}" in text:
            pytest.importorskip(module)
    options = ["--epochs", "2"] if "--epochs" in text else []
    options += ["--data", "digits"] if '"--data"' in text else []
    solutions = re.findall(r"```python\n(.*?)```", re.sub("^# ?", "", text, flags=re.MULTILINE), re.DOTALL)
    if path in COURSE:
        assert len(solutions) >= 2, "exercises, with solutions"
        path = Path("solved", path.name)
        path.parent.mkdir()
        path.write_text("\n".join([text, *solutions]))  # each may use what the chapter made
    out = run(path, *options)
    assert "ELBO" in out or "log p(" in out
    pictures = sorted(Path("figures").glob("*.png"))
    if pictures:
        assert f"examples/figures/{path.stem}.png" in LISTED, "show its picture in docs/course.md"
        assert Path("figures", f"{path.stem}.png") in pictures
    for picture in pictures:
        low, high = Image.open(picture).convert("L").getextrema()
        assert low < high, f"{picture} is blank"


def test_every_tutorial_is_there_and_short():
    tutorials = [path for path in EXAMPLES if path.stem.startswith("tutorial_")]
    assert [path.stem[9] for path in tutorials] == list("abcde")
    assert all(len(path.read_text().splitlines()) < 100 for path in tutorials)


def test_course_is_in_cells():
    """What makes them notebooks: text, then code, in cells of the percent format, numbered from 1."""
    assert [int(path.stem[:2]) for path in COURSE] == list(range(1, len(COURSE) + 1))
    for number, path in enumerate(COURSE, 1):
        text = path.read_text()
        assert text.startswith(f"# %% [markdown]\n# # {number}. ")
        for cell in re.split(r"^# %% \[markdown\]\n", text, flags=re.MULTILINE)[1:]:
            prose = cell.partition("# %%\n")[0]
            assert all(line.startswith("#") or not line for line in prose.splitlines()), prose
            assert not cell.rstrip().endswith("manual_seed(0)")  # a notebook would show what it returns
        assert "figures/" in text


@pytest.mark.parametrize("size", [(640, 480), (200, 900)])
def test_thumbnail(size, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import examples

    Image.new("RGB", size, (200, 30, 90)).save("picture.png")
    Path("small").mkdir()
    with Image.open(examples.thumbnail(Path("picture.png"), Path("small"))) as image:
        assert image.size == (320, round(size[1] * 320 / size[0]))
        assert image.convert("RGB").getpixel((5, 5)) == (200, 30, 90)


def test_thumbnails_are_small():
    files = list((ROOT / "examples" / "figures").glob("*.png"))
    assert sum(file.stat().st_size for file in files) < 1_000_000
