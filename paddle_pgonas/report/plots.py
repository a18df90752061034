"""The report's pictures. Points are rasterized inside the SVG, so that 45,000 points take little space."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from paddle_pgonas.errors import printable
from paddle_pgonas.io.files import atomic_path
from paddle_pgonas.io.outputs import claim
from paddle_pgonas.progress import progress
from paddle_pgonas.report import hover
from paddle_pgonas.report.comparison import Comparison, Row
from paddle_pgonas.scores.correlation import pearson
from paddle_pgonas.space.arch import Arch

INK, ACCENT = "#1f4e79", "#c8553d"
COLORS = (INK, ACCENT, "#4f772d", "#7b2d8b", "#b8860b", "#3a3a3a")
MARKERS = "os^Dvx"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "paddle_pgonas",  # the same data give the same bytes
    "text.parse_math": False,  # names hold dollar signs
}
SIZE = (4.2, 3.4)
COST_ITSELF = 0.999
"""Pearson correlation with multiply-accumulates from which a file's values are taken for these, and not drawn against them."""

RANKS, COST, ERRORS, TRAINING = "Rank against rank", "Values against cost", "Where the ranking goes wrong", "Training run"
"""The sections of the page."""


class Picture(NamedTuple):
    """A figure with the file name it gets, the section it belongs to, its caption, and the texts of its points."""

    stem: str
    section: str
    caption: str
    figure: Figure
    points: Sequence[hover.Point] = ()


class Panel(NamedTuple):
    """One picture of the training log: its keys (a key that ends in ``/`` stands for all keys with this prefix)."""

    stem: str
    caption: str
    label: str
    keys: tuple[str, ...]


PANELS = (
    Panel("losses", "Losses per kind of subnet", "loss", ("loss/",)),
    Panel("accuracy", "Accuracy on images held out, and of a step's subnet on its batch", "top-1", ("accuracy", "heldout/")),
    Panel("kendall", "Kendall tau of a sample of subnets' held-out accuracy", "Kendall tau", ("kendall/",)),
    Panel("pairs", "Share of the rank loss's pairs that were out of order", "share", ("pairs_out_of_order",)),
    Panel("lambda", "Weight of the rank loss (lambda)", "weight", ("rank_lambda",)),
    Panel("lr", "Learning rate", "learning rate", ("lr",)),
    Panel("grad_norm", "Norm of the gradient", "norm", ("grad_norm",)),
)
MOST_CURVES = 12
"""Largest number of logged values that a picture shows one by one."""
SCHEDULES = ("lr", "rank_lambda")
"""Logged values without noise, which are not smoothed."""


def pictures(comparison: Comparison, metrics: Sequence[dict[str, Any]] = ()) -> list[Picture]:
    """All pictures of a comparison, and of a training log if there is one."""
    with _style():
        return [*_of_ranks(comparison), *_of_cost(comparison), *_of_errors(comparison), *_of_training(metrics)]


@contextmanager
def _style() -> Iterator[None]:
    """The settings of all pictures, whatever the user's are."""
    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # characters of names that the font lacks are drawn as boxes
        rcdefaults()
        rcParams.update(STYLE)
        yield


def svg(figure: Figure, points: Sequence[hover.Point] = ()) -> str:
    """The figure as an SVG element, with the texts of its points."""
    buffer = io.StringIO()
    nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # otherwise the file contains dates and addresses
    with _style():
        figure.savefig(buffer, format="svg", dpi=110, metadata=nobody)
    text = buffer.getvalue()
    return text[text.index("<svg") : text.rindex("</svg>")] + hover.circles(figure, points) + "</svg>\n"


def write_plots(folder: str | Path, shown: Sequence[Picture]) -> None:
    """Write every picture as ``<stem>.png`` and ``<stem>.svg``. Raises UserError if the folder cannot be written, or holds a file
    of such a name that is not an earlier picture."""
    for picture in shown:
        for kind in ("png", "svg"):
            claim("compare --plots", Path(folder) / f"{picture.stem}.{kind}")
    for picture in progress(shown, "plots", "pictures"):
        for kind in ("png", "svg"):
            with atomic_path(Path(folder) / f"{picture.stem}.{kind}") as part, _style():
                metadata = {"Title": picture.caption} | ({"Date": None} if kind == "svg" else {})
                picture.figure.savefig(part, format=kind, dpi=200, metadata=metadata)


def _of_ranks(comparison: Comparison) -> Iterable[Picture]:
    for number, row in enumerate(comparison.rows, start=1):
        caption = f"{row.name}: rank against rank in {comparison.reference}; on the line they are equal"
        x, y = rankdata(row.reference), rankdata(row.scores)
        points = hover.points(row.archs, comparison.macs(row.archs), x, y, [(comparison.reference, x), (row.name, y)])
        yield Picture(_stem("rank", number, row.name), RANKS, caption, rank_scatter(row, comparison.reference), points)


def _of_cost(comparison: Comparison) -> Iterable[Picture]:
    shown = [(comparison.reference, comparison.rows[0].archs, comparison.rows[0].reference)]
    shown += [(row.name, row.archs, row.scores) for row in comparison.rows]
    setting = f"{comparison.setting.image_size} pixels with {comparison.setting.num_classes:,} classes"
    for number, (name, archs, values) in enumerate(shown):
        caption = f"{name}: values against multiply-accumulates at {setting}, and their mean in groups of equal number"
        macs = comparison.macs(archs)
        if pearson(macs, values) > COST_ITSELF:
            continue
        points = hover.points(archs, macs, macs, values, [(name, rankdata(values))])
        yield Picture(_stem("cost", number, name), COST, caption, cost_scatter(macs, values, name, setting), points)


def _of_errors(comparison: Comparison) -> Iterable[Picture]:
    if not comparison.truth:
        return
    for number, row in enumerate(comparison.rows, start=1):
        error = rank_errors(row)
        for kind, groups, what, label in (
            ("depth", by_depth(row.archs), "number of blocks", "blocks in the stage"),
            ("width", by_width(row.archs), "width (of conv2)", "width of the stage, % of its widest"),
        ):
            figure, worst = _group_means(error, groups, label)
            caption = f"{row.name}: mean rank error by each stage's {what}"
            yield Picture(_stem(f"error_{kind}", number, row.name), ERRORS, caption + worst, figure)


def _of_training(metrics: Sequence[dict[str, Any]]) -> Iterable[Picture]:
    logged = {name for line in metrics for name in line}
    for panel in PANELS:
        prefixes = tuple(key for key in panel.keys if key.endswith("/"))
        keys = sorted(name for name in logged if name in panel.keys or name.startswith(prefixes))
        if keys:
            yield Picture(f"training_{panel.stem}", TRAINING, panel.caption, training_curves(metrics, keys, panel.label))


def rank_scatter(row: Row, reference: str) -> Figure:
    """Rank in the file against rank in the reference; a perfect file lies on the diagonal."""
    figure, axes = _axes(f"rank in {_short(reference)} (highest: best)", f"rank in {_short(row.name)}", (4.2, 4.2))
    x, y = rankdata(row.reference), rankdata(row.scores)
    axes.plot([1, len(x)], [1, len(x)], color="grey", linewidth=0.8)
    _points(axes, x, y)
    axes.set_aspect("equal")
    return figure


def cost_scatter(macs: np.ndarray, values: np.ndarray, name: str, setting: str) -> Figure:
    """Values against millions of multiply-accumulates at a ``setting`` (in words), and their mean in up to ten equal groups."""
    figure, axes = _axes(f"million MACs at {setting}", f"value in {_short(name)}")
    _points(axes, macs, values)
    groups = np.array_split(np.argsort(macs, kind="stable"), min(10, max(1, len(macs) // 5)))
    means = [(macs[group].mean(), values[group].mean()) for group in groups]
    axes.plot(*zip(*means, strict=True), color=ACCENT, marker="o", markersize=4, linewidth=1.4, label="mean of a group")
    _legend_above(figure, axes)
    return figure


def rank_errors(row: Row) -> np.ndarray:
    """Rank in the file minus rank in the reference, in percent of the number of architectures; above 0: over-rated."""
    return 100 * (rankdata(row.scores) - rankdata(row.reference)) / len(row.scores)


def by_depth(archs: Sequence[Arch]) -> np.ndarray:
    """Blocks of each stage, ``[architecture, stage]``."""
    return np.array([arch.depths for arch in archs])


def by_width(archs: Sequence[Arch]) -> np.ndarray:
    """Channels of each stage's residual sums in percent of the stage's widest, ``[architecture, stage]``."""
    return 100 * np.array(archs[0].space.ratios)[np.array([arch.conv2 for arch in archs]) - 1]


def _group_means(error: np.ndarray, groups: np.ndarray, label: str) -> tuple[Figure, str]:
    """Mean error and its 95 % interval for each value of each stage, and a text that names the largest."""
    figure, axes = _axes(label, "mean rank error, % of ranks")
    axes.axhline(0, color="grey", linewidth=0.8)
    worst = (0.0, "")
    for stage, values in enumerate(groups.T):
        kinds = [kind for kind in np.unique(values) if (values == kind).sum() > 1]
        of_kind = [error[values == kind] for kind in kinds]
        means = [errors.mean() for errors in of_kind]
        margins = [1.96 * errors.std(ddof=1) / math.sqrt(len(errors)) for errors in of_kind]
        axes.errorbar(kinds, means, margins, label=f"stage {stage + 1}", linewidth=1.2, capsize=2,
                      color=COLORS[stage % len(COLORS)], marker=MARKERS[stage % len(MARKERS)], markersize=4)  # fmt: skip
        for kind, mean, margin in zip(kinds, means, margins, strict=True):
            if (clear := abs(mean) - margin) > worst[0]:
                worst = clear, f"; furthest off: stage {stage + 1} at {kind:g}, {mean:+.1f} % of the ranks"
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(figure, axes)
    return figure, worst[1]


def training_curves(metrics: Sequence[dict[str, Any]], keys: Sequence[str], label: str) -> Figure:
    """Logged values over the steps; for long noisy logs a running mean, with the values as thin lines.

    Of more than ``MOST_CURVES`` keys the mean and the range at each step.
    """
    figure, axes = _axes("step", label)
    if len(keys) > MOST_CURVES:
        _draw_range(axes, metrics, keys)
        _legend_above(figure, axes)
        return figure
    for number, key in enumerate(keys):
        points = [(line["step"], line[key]) for line in metrics if "step" in line and isinstance(line.get(key), int | float)]
        if not points:
            continue
        steps, values = np.array(points, dtype=float).T
        color, window = COLORS[number % len(COLORS)], len(steps) // 20
        name = "training batches" if key == "accuracy" else printable(key.split("/")[-1])
        if window > 1 and key not in SCHEDULES:
            axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.3)
            mean = np.ones(window) / window
            steps, values = np.convolve(steps, mean, "valid"), np.convolve(values, mean, "valid")
        axes.plot(steps, values, color=color, linewidth=1.4, marker="" if len(steps) > 1 else "o", label=name)
    if len(keys) > 1:
        _legend_above(figure, axes)
    return figure


def _draw_range(axes: Axes, metrics: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    by_step = {line["step"]: [line[key] for key in keys if isinstance(line.get(key), int | float)] for line in metrics}
    steps = [step for step, values in by_step.items() if values]
    least, mean, most = np.array([[min(by_step[s]), np.mean(by_step[s]), max(by_step[s])] for s in steps]).reshape(-1, 3).T
    axes.fill_between(steps, least, most, color=INK, alpha=0.2, linewidth=0, label="range")
    axes.plot(steps, mean, color=INK, linewidth=1.4, label=f"mean of {len(keys):,} values")


def _axes(x_label: str, y_label: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _legend_above(figure: Figure, axes: Axes) -> None:
    if count := len(axes.get_legend_handles_labels()[1]):
        figure.legend(loc="outside upper center", ncols=min(count, 4), fontsize=8, handlelength=1.5, columnspacing=1.2)


def _points(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A scatter plot whose points are smaller and more transparent if there are many."""
    count = len(x)
    size, alpha = max(1.5, min(18, 4000 / count)), max(0.15, min(0.8, 300 / count))
    axes.scatter(x, y, s=size, color=INK, alpha=alpha, linewidths=0, rasterized=True)


def _short(name: str) -> str:
    return name if len(name) <= 30 else "..." + name[-27:]


def _stem(kind: str, number: int, name: str) -> str:
    """A portable file name; the number distinguishes names that differ only in other characters."""
    return f"{kind}_{number}_" + re.sub(r"[^A-Za-z0-9.-]+", "_", Path(name).stem)[-40:]


def pareto_scatter(
    points: Sequence[tuple[float, float]], front: Sequence[tuple[float, float]], limit: float | None, cost_name: str, score: str
) -> Figure:
    """All (cost, score) points of a search, the Pareto front as a step line, and the limit of the cost."""
    with _style():
        figure, axes = _axes(cost_name, score, (5.6, 4.2))
        _points(axes, *np.array(points).T)
        axes.step(*zip(*front, strict=True), where="post", color=ACCENT, linewidth=1.2, marker="o", markersize=3, label="front")
        if limit is not None:
            axes.axvline(limit, color="grey", linewidth=0.8, linestyle="--", label="limit")
        axes.legend(loc="lower right")
    return figure
