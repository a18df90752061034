"""A study's pictures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from scipy.stats import rankdata

from paddle_pgonas.io.files import read_json, write_text
from paddle_pgonas.report.plots import ACCENT, COLORS, INK, STYLE, svg
from paddle_pgonas.scores.correlation import kendall
from studies.intervals import attainable_tau
from studies.results import Results

LINES = cycler(linestyle=["-", "--", ":"]) * cycler(color=COLORS)
"""A line of its own for each of up to 18 methods."""


def write_picture(results: Results, name: str, path: Path) -> None:
    """Write a picture of FIGURES as an SVG file."""
    with rc_context(STYLE):
        figure = FIGURES[name](results)
    write_text(path, svg(figure))


def _ranks_figure(results: Results) -> Figure:
    """One square per method: rank by the supernet, averaged over the seeds, against rank by stand-alone accuracy."""
    columns, truth = 4, rankdata(results.mean_truth)
    rows = max(1, math.ceil(len(results.runs) / columns))
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    for number, method in enumerate(results.runs):
        axes = figure.add_subplot(rows, columns, number + 1)
        ranks = np.mean([rankdata(row) for row in results.scores(method)], axis=0)
        axes.plot([1, len(truth)], [1, len(truth)], color="grey", linewidth=0.8)
        axes.scatter(truth, ranks, s=12, color=INK, linewidths=0)
        axes.set_title(textwrap.fill(results.label(method), 30), fontsize=8)
        axes.set_aspect("equal")
    figure.supxlabel("rank by stand-alone accuracy", fontsize=10)
    figure.supylabel("rank by supernet (mean over seeds)", fontsize=10)
    return figure


def _tau_figure(results: Results, metric: str = "top1") -> Figure:
    """A line per method: its mean tau by a metric, the interval, and every seed's tau."""
    truth = results.mean_truth
    figure = Figure(figsize=(7.5, 0.8 + 0.4 * len(results.runs)), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(reversed(results.runs)):
        tau = results.tau(method, metric=metric).estimate()
        seeds = [kendall(row, truth) for row in results.scores(method, metric=metric)]
        axes.plot([tau.low, tau.high], [place, place], color=INK, linewidth=1.5)
        axes.scatter([tau.value], [place], s=40, color=INK, zorder=2)
        axes.scatter(seeds, [place] * len(seeds), s=14, color=ACCENT, zorder=3, linewidths=0)
    for value, name, line in (
        (kendall(results.macs, truth), "FLOPs alone", "--"),
        (attainable_tau(results.truth), "noise ceiling", ":"),
    ):
        axes.axvline(value, color="grey", linestyle=line, label=name)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    axes.set_yticks(range(len(results.runs)), [results.label(method) for method in reversed(results.runs)])
    read = "top-1" if metric == "top1" else metric
    figure.supxlabel(f"Kendall tau of {read} with stand-alone accuracy: mean, 95 % interval, and each seed", fontsize=10)
    return figure


def _truths_figure(results: Results) -> Figure:
    """Every further truth against the first one, a point per subnet, its parameters as its colour."""
    names = results.study.whole_truths
    figure = Figure(figsize=(0.7 + 4.6 * len(names), 4), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        part = results.part(None, "", name)
        first, other = (100 * replace(part, truth_name=of).mean_truth for of in ("", name))
        points = axes.scatter(first, other, c=part.prior("params") / 1000, s=24, cmap="viridis")
        axes.set(xlabel="stand-alone accuracy, first truth, %", ylabel=f"{name} truth, %")
        axes.set_title(f"Kendall tau {kendall(first, other):.2f}", fontsize=10)
        figure.colorbar(points, ax=axes, label="parameters, thousands")
    return figure


def _lengths_figure(results: Results) -> Figure:
    """Accuracy against the epochs of the truths, a line for each subnet that has all, coloured by its number of blocks.

    Truths whose branches begin closed are of another kind and left out.
    """
    study, part, epochs = results.study, results, dict[str, int]()
    for name in ("", *study.whole_truths):
        file = study.path(study.further_truths[name][0] if name else "accuracies.json")
        recipe = read_json(file, "accuracies")["recipe"]
        if not recipe.get("closed"):
            epochs[name], part = recipe["train"]["epochs"], part.part(None, "", name)
    names = sorted(epochs, key=lambda name: epochs[name])
    accs = 100 * np.array([replace(part, truth_name=name).mean_truth for name in names])
    blocks = part.prior("blocks")
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes, colours = figure.subplots(), ScalarMappable(Normalize(blocks.min(), blocks.max()), "viridis")
    lengths = [epochs[name] for name in names]
    for line, depth in zip(accs.T, blocks, strict=True):
        axes.plot(lengths, line, color=colours.to_rgba(depth), linewidth=1, marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(number) for number in lengths])
    axes.set(xlabel="epochs of the training", ylabel="stand-alone accuracy, %", title=f"{len(blocks)} subnets")
    figure.colorbar(colours, ax=axes, label="blocks")
    return figure


def _curves_figure(results: Results) -> Figure:
    """Over the training of each PGONAS method, mean of its runs: the weight of the rank loss, the share of pairs out of order."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = [method for method in results.runs if "pgonas" in method]
    for axes, name in ((left, "rank_lambda"), (right, "pairs_out_of_order")):
        axes.set_prop_cycle(LINES)
        for method in ranked:
            axes.plot(*_mean_curve([run["curve"] for run in results.runs[method]], name), label=results.label(method))
    left.set(xlabel="share of the training", ylabel="weight of the rank loss")
    right.set(xlabel="share of the training", ylabel="share of pairs out of order", ylim=(0, 1))
    if ranked:
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=1, fontsize=8)
    return figure


def _mean_curve(curves: list[list[dict[str, float]]], name: str) -> tuple[list[float], list[float]]:
    """Progress and mean of a scalar over the runs, by tenths of the training."""
    tenths: dict[int, list[float]] = {}
    for point in (point for curve in curves for point in curve if name in point):
        tenths.setdefault(int(point["progress"] * 10), []).append(point[name])
    return [(part + 0.5) / 10 for part in sorted(tenths)], [float(np.mean(tenths[part])) for part in sorted(tenths)]


def _training_figure(results: Results) -> Figure:
    """A line per method: Kendall tau over the training by top-1 and by likelihood, mean over the measured seeds."""
    shares, truth = results.study.watch_at, results.mean_truth
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    watched = [method for method, runs in results.runs.items() if any(run.get("watched") for run in runs)]
    for axes, metric in zip(panels, ("top1", "likelihood"), strict=True):
        axes.set_prop_cycle(LINES)
        for method in watched:
            scores = [results.scores(method, metric=metric, watched=at) for at in range(len(shares))]
            taus = [np.mean([kendall(row, truth) for row in rows]) for rows in scores]
            axes.plot(range(len(shares)), taus, label=results.label(method))
        axes.axhline(kendall(results.macs, truth), color="grey", linestyle="-.", label="FLOPs alone")
        axes.set_xticks(range(len(shares)), [f"{share:.3g}" for share in shares])
        axes.set(title=f"by {metric}", xlabel="share of the training")
    panels[0].set_ylabel("Kendall tau")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "ranks": _ranks_figure,
    "tau": _tau_figure,
    "tau_probability": partial(_tau_figure, metric="probability"),
    "truths": _truths_figure,
    "lengths": _lengths_figure,
    "curves": _curves_figure,
    "training": _training_figure,
}
"""The pictures by their names in a study's file."""
