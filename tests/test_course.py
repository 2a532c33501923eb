"""The course as notebooks, and that its translations, and the README's, say what their sources say."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pyro_vae import cli, course
from pyro_vae.checks import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(course.COURSE.glob("[0-9][0-9]_*.py"))
TRANSLATED = sorted(course.COURSE.glob("*/[0-9][0-9]_*.md"))
MATHS = re.compile(r"\$\$.*?\$\$|\$[^$]+?\$", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)


def facts(text):
    """What no language changes: formulas, code and numbers, each with how often it is said."""
    maths = Counter("".join(found.split()) for found in MATHS.findall(text))
    text = MATHS.sub(" ", text)
    code = Counter(" ".join(found.split()) for found in CODE.findall(text))
    numbers = Counter(found.rstrip(".,") for found in re.findall(r"\d[\d.,]*", CODE.sub(" ", text)))
    return {"formulas": maths, "code": code, "numbers": numbers}


def stale(sources, translated):
    """What is wrong with a translation; nothing, if it is one."""
    parts = course.translations(translated)
    if len(parts) != len(sources):
        return [f"{len(parts)} parts of {len(sources)}"]
    wrong = [
        f"part {i} has changed: translate it anew, and put <!-- of {course.digest(source)} --> above it"
        for i, (source, (of, _)) in enumerate(zip(sources, parts, strict=True))
        if of != course.digest(source)
    ]
    for i, (source, (_, part)) in enumerate(zip(sources, parts, strict=True)):
        for kind, own in facts(source).items():
            if own != (other := facts(part)[kind]):
                wrong.append(f"part {i} has other {kind}: {own - other or ''} {other - own or ''}")
    return wrong


def texts_of(path):
    return [text for is_text, text in course.cells(path.read_text("utf-8")) if is_text]


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_translations_are_of_what_is_there(path):
    chapter = course.COURSE / f"{path.stem}.py"
    assert not stale(texts_of(chapter), path.read_text("utf-8"))


def test_the_readme_says_the_same_in_all_languages():
    sources = re.split(r"^(?=# |## )", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    for path in ROOT.glob("README.*.md"):
        text = path.read_text("utf-8")
        assert not stale(sources, text)
        assert text.splitlines()[0].startswith("[English](README.md)")
        assert f"]({path.name})" in (ROOT / "README.md").read_text("utf-8").splitlines()[0]


def test_a_changed_source_is_found():
    path = TRANSLATED[0]
    sources = texts_of(course.COURSE / f"{path.stem}.py")
    text = path.read_text("utf-8")
    assert not stale([" ".join(source.split()) for source in sources], text)  # line breaks are none
    assert "has changed" in stale([sources[0] + " More.", *sources[1:]], text)[0]
    assert "other formulas" in stale(sources, text.replace("$z$", "$y$", 1))[0]
    assert "other numbers" in stale(sources, text.replace("1.44", "1.45"))[0]
    assert stale(sources[1:], text)


@pytest.mark.parametrize("language", course.languages())
def test_notebooks(language, tmp_path):
    paths = course.write(tmp_path / "new" / "folder", language)
    assert [path.stem for path in paths] == [chapter.stem for chapter in CHAPTERS]
    for path, chapter in zip(paths, CHAPTERS, strict=True):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        own = course.cells(chapter.read_text("utf-8"))
        assert [cell["cell_type"] == "markdown" for cell in cells] == [is_text for is_text, _ in own]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert code == [body for is_text, body in own if not is_text]
        compile("\n".join(code), path.stem, "exec")
        title = "".join(cells[0]["source"]).splitlines()[0]
        translated = (course.COURSE / language / f"{chapter.stem}.md").exists()
        assert title.isascii() != translated
    nbformat = pytest.importorskip("nbformat")
    for path in paths:
        nbformat.validate(nbformat.read(path, 4))


@pytest.mark.parametrize("language", course.languages())
def test_short_notebooks_say_so(language, tmp_path):
    whole, short = (course.write(tmp_path / str(size), language, size) for size in (1.0, 0.1))
    for one, other in zip(whole, short, strict=True):
        before, after = one.read_text("utf-8"), other.read_text("utf-8")
        assert before.count('SIZE = float(os.environ.get(\\"COURSE_SIZE\\", 1))') == 1
        assert after.count('SIZE = float(os.environ.get(\\"COURSE_SIZE\\", 0.1))') == 1
        said = "".join(json.loads(after)["cells"][0]["source"]).split("\n\n")[-1]
        assert said.startswith("> ")
        assert "0.1" in said
        assert said not in "".join(json.loads(before)["cells"][0]["source"])
        assert said.isascii() == (language == "en")
    with pytest.raises(ConfigError, match="positive"):
        course.write(tmp_path / "none", language, 0.0)


def test_slides_begin_at_headings():
    first, code = json.loads(course.notebook("# %% [markdown]\n# # A\n\n# %%\n1\n"))["cells"]
    assert first["metadata"]["slideshow"]["slide_type"] == "slide"
    assert code["metadata"]["slideshow"]["slide_type"] == "subslide"


def test_course_on_the_command_line(tmp_path, capsys):
    folder = tmp_path / "course"
    assert cli.main(["course", str(folder), "--language", "zh-CN"]) == 0
    assert str(folder / "01_bayes_rule.ipynb") in capsys.readouterr().out
    assert cli.main(["course", str(folder)]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert cli.main(["course", str(tmp_path / "quick"), "--size", "0.1"]) == 0
    assert "0.1))" in (tmp_path / "quick" / "01_bayes_rule.ipynb").read_text("utf-8")
    assert cli.main(["course", str(tmp_path / "none"), "--size", "short"]) == 2
    assert "size" in capsys.readouterr().err
    assert cli.main(["course", str(tmp_path / "other"), "--language", "fr"]) == 2
    assert "en, zh-CN" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_course_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "COURSE", tmp_path)
    with pytest.raises(ConfigError, match="clone"):
        course.write(tmp_path / "new")
