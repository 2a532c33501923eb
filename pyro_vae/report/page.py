"""The page: sections of each run beside those of another, in one file that needs no other."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
import torch
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from pyro_vae import checkpoint
from pyro_vae.checks import ConfigError, Count, Seed, checked
from pyro_vae.data import DataError
from pyro_vae.evaluate.shown import standard_error
from pyro_vae.registry import Trust
from pyro_vae.report.sections import SECTIONS, Folded, Of, Page, Section, Subject
from pyro_vae.training import Run, reopen

WIDE = 6
"""Inches from which on a figure is not shrunk to the width of a narrow page, which scrolls instead."""


@checked
def report(
    run: Run | str | Path,
    other: Run | str | Path | None = None,
    *,
    output: str | Path = "report.html",
    num_data: Count = 500,
    num_samples: Count = 1000,
    seed: Seed = 0,
    trust: Trust = (),
    progress: bool = True,
) -> Path:
    """Writes one page of HTML on a run, or on two side by side, which opens without a network.

    What the model is, how it was trained, what it draws; how likely held-out data are, with both sides of
    log p(x) on data that the model simulates, which certify these and not the others; how far the bound is
    and whose fault that is; whether the encoder is calibrated and the model fits; what the latents do; and
    which data are explained worst. Takes minutes. What cannot be asked of a program is said in its place.

    Args:
        run: of ``pv.fit``, or its folder.
        other: another one on the same data, beside it; log-likelihoods are then compared datum by datum.
        output: the file to write.
        num_data: held-out data that are looked at, at most; what is costly takes fewer.
        num_samples: K of the log-likelihoods.
        seed: of all draws.
        trust: modules that a run's configuration may import from.
        progress: whether to show a bar.

    Returns:
        The path of the file.

    Raises:
        CheckpointError, ConfigError, DataError: a run cannot be read, or the two are not on the same data.

    >>> report("runs/digits", "runs/vampprior", output="two.html")  # doctest: +SKIP
    """
    path = Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"output={str(output)!r} is a page of HTML, and named so: output='report.html'")
    runs = [
        one if isinstance(one, Run) else reopen(one, trust=trust) for one in (run, other) if one is not None
    ]
    if len({one.data.fingerprint for one in runs}) > 1:
        raise DataError("the two runs are on different data, so that they cannot be put side by side")
    subjects = [Subject(one, _name(one, i), num_data, num_samples, seed) for i, one in enumerate(runs, 1)]
    told = []
    with tqdm(total=len(SECTIONS) * len(subjects), desc="report", disable=not progress, leave=False) as bar:
        for section in SECTIONS:
            columns = []
            for subject in subjects:
                bar.set_postfix_str(section.title)
                columns.append(_blocks(section, subject))
                bar.update()
            told.append((section, columns))
    shown = [  # verdicts once all is found
        {
            "title": section.title,
            "question": section.question,
            "columns": list(zip((_verdict(section, s) for s in subjects), columns, strict=True)),
        }
        for section, columns in told
    ]
    found = {name: of for subject in reversed(subjects) for name, (_, of) in subject.summary.items()}
    names = list(dict.fromkeys(name for subject in subjects for name in subject.summary))
    template = jinja2.Environment(autoescape=True).from_string(
        resources.files("pyro_vae.report").joinpath("page.html").read_text("utf-8")
    )
    part = subjects[0]
    page = template.render(
        title=" and ".join(subject.name for subject in subjects),
        told=f"{part.of(part.data)} of {runs[0].data.name}; seed {seed}",
        subjects=[subject.name for subject in subjects],
        summary=[(n, [s.summary.get(n, ("", ""))[0] for s in subjects], found[n]) for n in names],
        difference=_difference(subjects),
        sections=shown,
        footer=f"pyro_vae {metadata.version('pyro_vae')}, PyTorch {torch.__version__}",
    )
    checkpoint.write(path, page.encode())
    return path


def _name(run: Run, number: int) -> str:
    return str(run.folder) if run.folder else f"{type(run.program).__name__} {number}"


def _blocks(section: Section, subject: Subject) -> list[Markup]:
    """A section as HTML, with what it warned of, or why it ends there."""
    blocks: list[Markup] = []
    failed = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            blocks += map(_html, section.tell(subject))
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            blocks.append(Markup('<p class="told">Not of this program: {}</p>').format(error))
        except Exception as error:  # of a page of ten sections, nine are worth having
            failed = f"{type(error).__name__}: {error}"
            blocks.append(Markup('<p class="told failed">This section failed: {}</p>').format(failed))
    if failed:
        message = f"the section {section.title!r} of the report failed, and says so there: {failed}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    messages = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    return blocks + [Markup('<p class="told">{}</p>').format(text) for text in messages]


def _verdict(section: Section, subject: Subject) -> str:
    """In words; nothing where it hangs on what was not found."""
    try:
        return section.verdict(subject)
    except KeyError:
        return ""


def _html(block: Any) -> Markup:
    if isinstance(block, list):
        return Markup('<div class="panels">{}</div>').format(Markup("").join(map(_html, block)))
    if isinstance(block, Of):
        return Markup('<p class="of">Of {}.</p>').format(block)
    if isinstance(block, Folded):
        title, rest = block.split("\n", 1)
        return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(title, rest)
    if isinstance(block, Page):
        told = f"The map of the latent plane, {len(block) / 1e6:.1f} MB of this file: drag the point."
        frame = '<iframe sandbox="allow-scripts" loading="lazy" title="map" srcdoc="{}"></iframe>'
        return Markup(f'<p class="soft">{{}}</p>{frame}').format(told, str(block))
    if isinstance(block, Figure):
        png = io.BytesIO()
        block.savefig(png, format="png", dpi=110)
        data = base64.b64encode(png.getvalue()).decode()
        alternative = next((axes.get_title() for axes in block.axes if axes.get_title()), "figure")
        wide = " class=wide" if block.get_figwidth() > WIDE else ""
        return Markup('<div class="scroll"><img{} alt="{}" src="data:image/png;base64,{}"></div>').format(
            Markup(wide), alternative, Markup(data)
        )
    if isinstance(block, str):
        return Markup("<pre>{}</pre>").format(block)
    table = getattr(block, "_repr_html_", None)
    return Markup('<div class="scroll">{}</div>').format(Markup(table())) if table else escape(block)


def _difference(subjects: Sequence[Subject]) -> dict[str, str]:
    """Of the second to the first, datum by datum."""
    if len(subjects) < 2 or any("log_likelihood" not in s.found for s in subjects):
        return {}
    first, second = (s.found["log_likelihood"] for s in subjects)
    if first.measure != second.measure:
        return {"log p(x)": f"none: densities w.r.t. {first.measure} and {second.measure} do not compare"}
    d = second.per_datum - first.per_datum
    return {"log p(x)": f"{d.mean():+.2f} ± {standard_error(d):.2f}"}
