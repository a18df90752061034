"""The report's pictures as SVG text. Points are drawn as pixels inside, so 45,000 of them stay small."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from paddle_pgonas import cost
from paddle_pgonas.arch import Arch
from paddle_pgonas.report.comparison import Row

INK, ACCENT = "#1f4e79", "#c8553d"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "paddle_pgonas",  # the same data give the same bytes
}


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # else the file names dates and addresses
    figure.savefig(buffer, format="svg", dpi=110, bbox_inches="tight", metadata=nobody)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, color: str) -> None:
    """A scatter whose points shrink and fade as they get many."""
    count = len(x)
    size, alpha = max(1.5, min(18, 4000 / count)), max(0.15, min(0.8, 300 / count))
    axes.scatter(x, y, s=size, color=color, alpha=alpha, linewidths=0, rasterized=True)


def rank_scatter(row: Row, reference: str) -> str:
    """Rank in the file against rank in the reference; a perfect file lies on the diagonal."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.2))
        axes = figure.subplots()
        x, y = rankdata(row.reference), rankdata(row.scores)
        axes.plot([1, len(x)], [1, len(x)], color="grey", linewidth=0.8)
        _points(axes, x, y, INK)
        axes.set_xlabel(f"rank in {reference}", parse_math=False)
        axes.set_ylabel(f"rank in {row.name}", parse_math=False)
        axes.set_aspect("equal")
        return _svg(figure)


def cost_scatter(archs: Sequence[Arch], values: np.ndarray, name: str) -> str:
    """A file's values against multiply-accumulates."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2, 4.2))
        axes = figure.subplots()
        macs = np.array([cost.macs(arch) for arch in archs]) / 1e6
        _points(axes, macs, values, ACCENT)
        axes.set_xlabel(f"million multiply-accumulates at {archs[0].space.image_size} pixels")
        axes.set_ylabel(f"value in {name}", parse_math=False)
        return _svg(figure)


def training_curves(metrics: Sequence[dict[str, float]]) -> str:
    """Losses per kind of subnet, and the rank loss's weight, over the steps of a run."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4))
        axes = figure.subplots()
        kinds = sorted({name for line in metrics for name in line if name.startswith("loss/")})
        for kind, color in zip(kinds, (INK, ACCENT, "#4f772d", "#7b2d8b"), strict=False):
            points = [(line["step"], line[kind]) for line in metrics if kind in line]
            axes.plot(*zip(*points, strict=True), label=kind.removeprefix("loss/"), color=color, linewidth=1.2)
        axes.plot([line["step"] for line in metrics], [line["rank_lambda"] for line in metrics], label="rank loss weight",
                  color="grey", linestyle="--", linewidth=1)  # fmt: skip
        axes.set_xlabel("step")
        axes.set_ylabel("loss, weight")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, ncols=5, loc="upper right")
        return _svg(figure)


def pareto_scatter(
    points: Sequence[tuple[float, float]], front: Sequence[tuple[float, float]], limit: float | None, cost_name: str, score: str
) -> str:
    """All (cost, score) points of a search, the front as a staircase through the best of them, and the limit of the cost."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.2))
        axes = figure.subplots()
        cloud = np.array(points)
        _points(axes, cloud[:, 0], cloud[:, 1], INK)
        axes.step(*zip(*front, strict=True), where="post", color=ACCENT, linewidth=1.2, marker="o", markersize=3, label="front")
        if limit is not None:
            axes.axvline(limit, color="grey", linewidth=0.8, linestyle="--", label="limit")
        axes.set_xlabel(cost_name)
        axes.set_ylabel(score, parse_math=False)
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)
