"""The course as notebooks, in the languages that it is written in.

A chapter is a script of cells (``# %% [markdown]``, ``# %%``), and a translation the text of its markdown
cells alone, each behind a line ``<!-- of DIGEST -->`` that tells of which text it is one. So there is one
copy of the code, and a test that fails where a text has changed since it was translated.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.checks import ConfigError, Positive, checked

COURSE = Path(__file__).resolve().parents[1] / "examples" / "course"
_CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
_OF = re.compile(r"^<!-- of (\w*) -->\n", re.MULTILINE)
_SIZE = '"COURSE_SIZE", 1)'  # how a chapter asks for its size: replaced in a notebook of another one
_SHORT = """> Run at size {size}: every training and every chain is cut to that fraction, so that the numbers
> and figures below are rougher than those that the text tells, which are of size 1."""


def cells(script: str) -> list[tuple[bool, str]]:
    """Of a script in the percent format each cell: whether it is text, and what it says."""
    _, *parts = _CELL.split(script)
    found = []
    for mark, body in zip(parts[::2], parts[1::2], strict=True):
        text = "[markdown]" in mark
        found.append((text, re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip() if text else body.strip()))
    return found


def digest(text: str) -> str:
    """Of a text that is translated, whatever its line breaks."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


def translations(text: str) -> list[tuple[str, str]]:
    """Of a translated file each part: the digest of what it is a translation of, and the part."""
    _, *parts = _OF.split(text)
    return [(of, body.strip()) for of, body in zip(parts[::2], parts[1::2], strict=True)]


def languages() -> list[str]:
    """Those of the course, its own, English, first."""
    return ["en", *sorted(path.name for path in COURSE.glob("*/") if any(path.glob("[0-9][0-9]_*.md")))]


def notebook(script: str, texts: Sequence[str] | None = None, size: float = 1.0, note: str = "") -> str:
    """A chapter as a Jupyter notebook (format 4.5); with other texts in the place of its own.

    Args:
        script: in the percent format.
        texts: of its markdown cells.
        size: the fraction of every number of steps that it starts with.
        note: what is said below the first text.
    """
    if size != 1:
        script = script.replace(_SIZE, f'"COURSE_SIZE", {size:g})')
    told = iter(texts if texts is not None else [body for text, body in cells(script) if text])
    made = []
    for number, (text, body) in enumerate(cells(script)):
        cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "cell_type": "markdown"}
        if not text:
            cell |= {"cell_type": "code", "outputs": [], "execution_count": None}
        source = next(told) if text else body
        if number == 0 and note:
            source += f"\n\n{note}"
        slide = "slide" if text and source.startswith("#") else "subslide"  # of jupyter nbconvert --to slides
        cell["metadata"] = {"slideshow": {"slide_type": slide}}
        made.append(cell | {"source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


@checked
def write(folder: str | Path, language: str = "en", size: Positive = 1.0) -> list[Path]:
    """Writes the chapters into a folder as notebooks, ready to run: ``NN_name.ipynb``.

    Args:
        folder: where to; made if need be. A file that is there is not written over.
        language: ``"en"``, or one that the course is translated into, such as ``"zh-CN"``; chapters that
            are not stay English.
        size: the fraction of every training and every chain that the notebooks run: 0.1 for a quick look,
            with numbers rougher than those of the text, which they then say. It is in each one's first cell
            of code, and the environment's ``COURSE_SIZE`` is stronger.

    Raises:
        ConfigError: there is no such language, the size is not positive, a file is there already, or the
            course is not: it is part of the repository, and not of a package that was installed without it.
    """
    chapters = sorted(COURSE.glob("[0-9][0-9]_*.py"))
    if not chapters:
        raise ConfigError(
            f"the course is not there ({COURSE}): it is part of the repository: clone that; pip install -e ."
        )
    if language not in languages():
        raise ConfigError(f"language={language!r} is none of the course's: {', '.join(languages())}")
    short = COURSE / language / "short.md"
    note = (short.read_text("utf-8").strip() if short.exists() else _SHORT).format(size=f"{size:g}")
    folder = Path(folder)
    paths = {chapter: folder / f"{chapter.stem}.ipynb" for chapter in chapters}
    for path in paths.values():
        if path.exists():
            raise ConfigError(f"{path} is there already, and may be yours: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for chapter, path in paths.items():
        own = COURSE / language / f"{chapter.stem}.md"
        texts = [body for _, body in translations(own.read_text("utf-8"))] if own.exists() else None
        path.write_text(notebook(chapter.read_text("utf-8"), texts, size, note if size < 1 else ""), "utf-8")
    return list(paths.values())
