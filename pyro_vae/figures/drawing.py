"""How data and curves are drawn, whatever program they are of."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib
import matplotlib.figure
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn import functional

from pyro_vae.checks import checked, found

NOT_OBSERVED = (0.72, 0.84, 0.95)
"""The colour of what is not observed, which is on no grey scale."""


FALLBACK = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),  # of Windows
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Heiti TC", "Apple SD Gothic Neo"),  # of macOS
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Arabic", "Noto Sans Thai", "Arial Unicode MS"),
)
"""Fonts that have glyphs which matplotlib's own has not, those that are installed being used."""
GLYPH = "Glyph .* missing from"
BOXES = (
    "some names on this figure are in a script of which no font is installed, and are drawn as boxes; "
    "install one, such as Noto Sans CJK for Chinese (apt install fonts-noto-cjk), and start Python anew"
)
"""What matplotlib says of each glyph, and what is said instead of all of them."""
SMOOTH = 16
"""Pixels along a side below which what is drawn smooth is interpolated."""


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows where it is the value of a cell, whatever matplotlib's backend.

    Texts in scripts that matplotlib's font lacks, such as Chinese names of columns, are drawn with what is
    installed of ``FALLBACK``; without one they are boxes, and a warning says which font mends it.
    """

    def draw(self, renderer: Any) -> None:
        if self._boxes(renderer):
            if _added():
                self._boxes(renderer)
            else:
                _tell_of_boxes()

    def _boxes(self, renderer: Any) -> bool:
        """Draws it, and tells whether there are boxes."""
        known = set(font_manager.get_font_names())
        fonts = [name for name in FALLBACK if name in known and _opens(name)]
        for text in self.findobj(Text):
            if isinstance(text, Text) and not text.get_text().isascii():
                text.set_fontfamily([*dict.fromkeys([*text.get_fontfamily(), *fonts])])
        with warnings.catch_warnings(record=True) as told:
            warnings.filterwarnings("always", GLYPH)
            super().draw(renderer)
        for one in told:
            if not re.match(GLYPH, str(one.message)):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        return any(re.match(GLYPH, str(one.message)) for one in told)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def _opens(name: str) -> bool:
    """Whether a font that matplotlib knows is still there, and whole."""
    with contextlib.suppress(Exception):
        path = font_manager.findfont(name, fallback_to_default=False, rebuild_if_missing=False)
        font_manager.get_font(path)
        return True
    return False


def _added() -> bool:
    """Adds fonts installed since matplotlib made its list, which it keeps; whether one is of use."""
    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    number = len(manager.ttflist)
    for path in font_manager.findSystemFonts():
        if path not in known:
            with contextlib.suppress(Exception):  # a font that matplotlib cannot read
                manager.addfont(path)
    return any(font.name in FALLBACK for font in manager.ttflist[number:])


@functools.cache
def _tell_of_boxes() -> None:
    """Once: Python's own filter, once for each place, forgets when filters are changed, as above."""
    warnings.warn(BOXES, stacklevel=3)


@dataclass(frozen=True)
class Pictures:
    """Rows of data that are drawn as one picture, and what stands around it.

    Attributes:
        rows: each ``[columns, *event_shape]``; they may differ in length. NaN is not observed.
        title: above them.
        labels: one beside each row.
        columns: one above each column.
        across, down: what the columns' and the rows' are, such as ``"z[0]"``.
        limits: values that are black and white in images, and what lies beyond; by default their own ends.
    """

    rows: Sequence[Tensor]
    title: str
    labels: Sequence[str] = ()
    columns: Sequence[str] = ()
    across: str = ""
    down: str = ""
    limits: tuple[float, float] | None = None


def on(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure and axes: those given, or the only ones of a new figure of this size, in inches."""
    if ax is not None:
        return cast(Figure, ax.get_figure(root=True)), ax
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def within(figure: FigureBase | None, width: float, height: float) -> Any:
    """What several panels are drawn on: what is given, or a new figure of this size, in inches.

    A figure that has no layout yet, and nothing else, gets one, so that no title or legend is cut off.

    Raises:
        ValueError: something is on it already, which the panels would lie upon.
    """
    if figure is None:
        return Figure(figsize=(width, height), layout="constrained")
    if figure.axes or figure.subfigs:
        raise ValueError(
            "something is on this figure already, which the panels would lie upon; give a part of its own, "
            "left, right = figure.subfigures(1, 2), or call figure.clear() before"
        )
    root = whole(figure)
    if root.get_layout_engine() is None and not root.axes:
        root.set_layout_engine("constrained")
    return figure


def whole(figure: FigureBase) -> Figure:
    """The figure of which one is a part."""
    return cast(Figure, figure.get_figure(root=True))


def wrapped(title: str, width: float, size: float = 12) -> str:
    """A title broken into lines that so many inches hold, at this size of font; formulas stay whole."""
    whole = re.sub(r"\([^()]*\)| [=~] |\d %", lambda found: found[0].replace(" ", "\xa0"), title)
    return "\n".join(textwrap.wrap(whole, max(20, int(130 * width / size)))).replace("\xa0", " ")


@checked
def grid(
    rows: Sequence[Tensor],
    title: str,
    labels: Sequence[str] = (),
    *,
    columns: Sequence[str] = (),
    ax: Axes | None = None,
) -> Figure:
    """Rows of data in one picture, on one grey scale: images, or curves.

    Vectors ``(T,)`` are curves over their index; and so are series ``(T, D)`` of D numbers at T times, a
    colour for each number, which are told from images by T being 4 D or more.

    Args:
        rows: each ``[columns, *event_shape]``; they may differ in length. NaN is not observed.
        title: above them.
        labels: one beside each row.
        columns: one above each column.
        ax: axes of a figure of one's own to draw on.
    """
    return draw(Pictures(rows, title, labels, columns), ax)


def draw(pictures: Pictures, ax: Axes | None = None) -> Figure:
    """``grid`` of pictures, in a figure that has their shape."""
    cells = Cells(pictures)
    wide, tall = cells.size()
    beside = 0.1 * max(map(len, pictures.labels), default=0) + 0.3 * bool(pictures.down)
    title = wrapped(pictures.title, max(4.0 - beside, wide))  # which stands in the middle of the axes
    wide = max(4.0, wide + beside)
    above = 0.1 + 0.22 * (title.count("\n") + 1) + cells.above() + 0.25 * bool(pictures.across)
    figure, axes = on(ax, wide, tall + above + 0.4 * cells.curves)
    cells.draw(axes)
    axes.set_title(title)
    return figure


class Cells:
    """Where the data of some pictures are in one, and how they are drawn there.

    Raises:
        ValueError: rows are of data of different shapes.
    """

    def __init__(self, pictures: Pictures):
        rows = pictures.rows
        if not rows or min(row.dim() for row in rows) < 1 or len({row.shape[1:] for row in rows}) > 1:
            shapes = [list(row.shape) for row in rows]
            raise ValueError(f"rows of shapes {shapes} must be one or more, each [columns, *event_shape]")
        self.pictures = pictures
        arrays = [row.detach().float().cpu().numpy() for row in rows]
        self.arrays = [array[:, None] if array.ndim == 1 else array for array in arrays]
        self.number = max(map(len, rows))
        self.event_shape = shape = self.arrays[0].shape[1:]
        known = np.concatenate([array[np.isfinite(array)] for array in self.arrays])
        self.low, self.high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        self.curves = len(shape) == 1 or (len(shape) == 2 and shape[0] >= 4 * shape[1])
        if pictures.limits and not self.curves:
            self.low, self.high = pictures.limits
        self.scale = (self.high - self.low) or 1.0
        self.height, self.width = (1, max(1, shape[0] - 1)) if self.curves else shape[-2:]
        gap = max(1, self.height // 14), max(1, self.width // 14)
        self.gap = (0.2, 0.2 * self.width) if self.curves else gap
        self.step = self.height + self.gap[0], self.width + self.gap[1]

    def size(self) -> tuple[float, float]:
        """Width and height in inches that suit them, without what stands around them."""
        rows, cell = len(self.arrays), max(0.35, min(0.75, 9 / self.number))
        if self.curves:  # which are wider than images
            wide = max(4.0, cell * max(1, min(4, 6 / self.number / cell)) * self.number)
            return wide, max(0.9 * min(rows, 6), 0.6 * rows)
        wide = max(4.0, cell * self.number)
        tall = wide * (rows * self.step[0] - self.gap[0]) / (self.number * self.step[1] - self.gap[1])
        shrunk = min(1.0, max(10.0, 0.35 * rows) / tall)
        return wide * shrunk, tall * shrunk

    def above(self) -> float:
        """Inches that what stands above the columns takes."""
        if not (longest := self._longest()):
            return 0.0
        lines = 1 + max(column.count("\n") for column in self.pictures.columns)
        return 0.1 * longest + 0.1 if self._upright() else 0.05 + 0.15 * lines

    def _upright(self) -> bool:
        """Whether what stands above columns is wider than they are."""
        return 0.1 * self._longest() > self.size()[0] / self.number

    def _longest(self) -> int:
        """Letters of the longest line above a column."""
        return max((len(line) for column in self.pictures.columns for line in column.split("\n")), default=0)

    def draw(self, axes: Axes, *, smooth: bool = False) -> None:
        """Draws them; tiny images smooth, by bicubic interpolation, if that is wanted."""
        if self.curves:
            self._lines(axes)
        else:
            mosaic = self._mosaic(-(-64 // min(self.height, self.width)) if smooth and self.tiny else 1)
            rows, across = len(self.arrays) * self.step[0], self.number * self.step[1]
            ends = (-0.5, across - self.gap[1] - 0.5, rows - self.gap[0] - 0.5, -0.5)
            axes.imshow(mosaic, interpolation="nearest", extent=ends)
        pictures, half = self.pictures, 0.5 * (not self.curves)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        at = [j * self.step[1] + self.width / 2 - half for j in range(len(pictures.columns))]
        axes.set_xticks(at, pictures.columns, rotation=90 if self._upright() else 0)
        at = [i * self.step[0] + self.height / 2 - half for i in range(len(pictures.labels))]
        axes.set_yticks(at, pictures.labels)
        axes.set(xlabel=pictures.across, ylabel=pictures.down)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    @property
    def tiny(self) -> bool:
        """Whether they are images of so few pixels that smooth ones are easier to read."""
        return not self.curves and max(self.height, self.width) < SMOOTH

    def _mosaic(self, times: int) -> np.ndarray:
        """All images in one ``[H, W, 3]``, of so many times their pixels along a side."""
        colour = len(self.event_shape) == 3 and self.event_shape[0] == 3
        step, gap = [times * int(s) for s in self.step], [times * int(g) for g in self.gap]
        mosaic = np.ones((len(self.arrays) * step[0] - gap[0], self.number * step[1] - gap[1], 3), np.float32)
        for i, array in enumerate(self.arrays):
            for j, image in enumerate(array):
                channels = image.reshape(-1, self.height, self.width)[: 3 if colour else 1]
                channels = ((channels - self.low) / self.scale).clip(0, 1)
                if times > 1:
                    channels = _enlarged(channels, times)
                seen = channels.transpose(1, 2, 0)
                seen = np.where(np.isnan(seen).any(-1, keepdims=True), NOT_OBSERVED, seen)
                top, left = i * step[0], j * step[1]
                mosaic[top : top + len(seen), left : left + seen.shape[1]] = seen
        return mosaic

    def _lines(self, axes: Axes) -> None:
        zero = self.low / self.scale
        for i, array in enumerate(self.arrays):
            for j, series in enumerate(array):
                ends = j * self.step[1], j * self.step[1] + self.width
                if self.low <= 0 <= self.high:  # which also says where one ends and another begins
                    axes.hlines(i * self.step[0] + 1 + zero, *ends, color="0.85", linewidth=0.6, zorder=0)
                for d, curve in enumerate(series.reshape(len(series), -1).T):
                    x = j * self.step[1] + np.arange(len(curve))
                    # A value between two that are missing has no line to be seen by.
                    style = ".-" if len(curve) < 3 or np.isnan(curve).any() else "-"
                    y = i * self.step[0] + 1 - (curve - self.low) / self.scale
                    axes.plot(x, y, style, color=f"C{d}", linewidth=0.8, markersize=3)
        axes.margins(x=0.01)
        if len(self.event_shape) == 2 and 1 < self.event_shape[1] <= 8:
            keys = [Line2D([], [], color=f"C{d}", label=f"x[{d}]") for d in range(self.event_shape[1])]
            look: dict[str, Any] = {"fontsize": 8, "frameon": False, "handlelength": 1.2, "ncols": 8}
            axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=1.5, **look)
        _axis_of_time(axes, self.event_shape, self.step, self.number, len(self.arrays), self.low, self.high)


def _enlarged(image: np.ndarray, times: int) -> np.ndarray:
    """``[C, H, W]`` with so many times the pixels along a side; with gaps as it is, only larger."""
    if np.isnan(image).any():
        return image.repeat(times, 1).repeat(times, 2)
    enlarged = functional.interpolate(torch.as_tensor(image)[None], scale_factor=times, mode="bicubic")
    return enlarged[0].clamp(0, 1).numpy()


def index_of(shape: Sequence[int]) -> str:
    """What numbers one after the other are over: of a series ``(T, D)`` the time, of a vector no more."""
    return "time" if len(shape) > 1 else "index"


def _axis_of_time(
    axes: Any,
    shape: Sequence[int],
    step: tuple[float, float],
    number: int,
    rows: int,
    low: float,
    high: float,
) -> None:
    """Below, the index at which each column begins and the last one ends; beside, values of the last row."""
    axes.set_ylim((rows - 1) * step[0] + 1.05, -0.05)
    below = axes.secondary_xaxis("bottom")
    starts = [j * step[1] for j in range(number)]
    last = shape[0] - 1
    below.set_xticks([*starts, starts[-1] + last], ["0"] * number + [str(last)], fontsize=7)
    below.set_xlabel(index_of(shape), fontsize=8)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(
        [(rows - 1) * step[0] + 1, (rows - 1) * step[0]], [f"{low:.3g}", f"{high:.3g}"], fontsize=7
    )
    for axis in (below, beside):
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.tick_params(length=2)


@checked
def training_curves(history: Sequence[dict[str, float]], *, figure: FigureBase | None = None) -> Figure:
    """ELBO, reconstruction and KL by epoch, from a run's history; by site where there are several.

    Args:
        history: of a run, ``run.history``.
        figure: a part of a figure of one's own, or all of it, to draw on.
    """
    if not history or not {"epoch", "elbo", "reconstruction", "kl"} <= history[0].keys():
        raise ValueError(f"history={found(history)} must be the rows of a run: run.history")
    host = within(figure, 9, 3.6)
    for axes, key in zip(host.subplots(1, 3), CURVES, strict=True):
        curve(axes, history, key, legend=key == "elbo")
    return whole(host)


CURVES = {
    "elbo": "ELBO",
    "reconstruction": "Reconstruction, -E[log p(x|z)]",
    "kl": "KL(q(z|x) || p(z))",
}
"""Columns of a history that are drawn, and what they are."""


def curve(axes: Axes, history: Sequence[dict[str, float]], key: str, *, legend: bool = True) -> None:
    """One of ``CURVES`` by epoch, in training and validation; by site where there are several.

    Without ``legend`` the lines are those of its neighbour, unless they are of sites.
    """
    epochs, title = [row["epoch"] for row in history], CURVES[key]
    sites = [name.removeprefix(f"{key}_") for name in history[0] if name.startswith(f"{key}_")]
    if sites:
        title = f"{title.split(',')[0].split('(')[0]} by site"
    shown, palette = list[float](), colours(1 + len(sites))
    for i, name in enumerate([key, *(f"{key}_{site}" for site in sites)]):
        for prefix, label, style in (("", "training", "--"), ("validation_", "validation", "-")):
            if prefix + name not in history[0]:
                continue
            values = [row[prefix + name] for row in history]
            look: dict[str, Any] = {"label": label}
            if sites:
                twice = not prefix and f"validation_{name}" in history[0]
                look = {"color": palette[i], "linestyle": style, "label": "" if twice else ["all", *sites][i]}
            marker = "." if len(epochs) < 3 else ""  # a line of one point is not seen
            axes.plot(epochs, values, marker=marker, **look)
            # The first epochs of an untrained model would flatten all that follows.
            shown += values[len(values) // 20 :]
    margin = 0.1 * (max(shown) - min(shown))
    if margin <= 1e-5 * max(map(abs, shown)):  # constant but for rounding, as the KL of codes
        margin = 1.0
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_xlim(epochs[0] - 0.5 * (len(epochs) < 3), epochs[-1] + 0.5 * (len(epochs) < 3))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
    axes.grid(alpha=0.3)
    if legend or sites:
        look = {"title": "(dashed: training)", "title_fontsize": 7} if sites else {}
        axes.legend(fontsize=8, ncols=-(-len(palette) // 6), **look)


PALETTE = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#a96b59"),
    *("#e76300", "#b9ac70", "#717581", "#92dadd", "#94a4a2"),
)
"""Colours that the colour-blind tell apart, too (Petroff, 2021, "Accessible color sequences for data
visualization"), the greys last."""


def colours(number: int) -> list[Any]:
    """So many colours that can be told apart, as far as there are."""
    if number <= len(PALETTE):
        return [matplotlib.colors.to_rgba(colour) for colour in PALETTE[:number]]
    palette = matplotlib.colormaps["tab20" if number <= 20 else "viridis"]
    return [palette(i if number <= 20 else i / (number - 1)) for i in range(number)]
