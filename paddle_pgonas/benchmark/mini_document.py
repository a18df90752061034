"""The mini track's document: tables, pictures and intervals, rebuilt from its results."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import rankdata

from paddle_pgonas import cost
from paddle_pgonas.benchmark.mini_results import METHODS, Track, read_track
from paddle_pgonas.benchmark.mini_statistics import attainable_tau, estimate, resampled_tau, similar
from paddle_pgonas.correlation import Estimate, kendall, pearson
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import write_text
from paddle_pgonas.priors import PRIORS
from paddle_pgonas.report.plots import ACCENT, COLORS, INK, STYLE, svg
from paddle_pgonas.submission import write_scores

CLASSES = 10
SIMILAR = 1.5
"""Two subnets are of similar cost if their multiply-accumulates are within this factor."""

PAIRS = (
    ("sandwich_relu", "baseline"),
    ("progressive", "baseline"),
    ("sandwich_prelu", "sandwich_relu"),
    ("sandwich_mish", "sandwich_relu"),
    ("pgonas_flops_constant", "sandwich_prelu"),
    ("pgonas_flops_warmup", "sandwich_prelu"),
    ("pgonas_flops_warmup", "pgonas_flops_constant"),
    ("pgonas_zen", "sandwich_prelu"),
    ("pgonas_flops_warmup", "baseline"),
    ("pgonas_zen", "baseline"),
    ("pgonas_flops_better", "pgonas_flops_warmup"),
    ("pgonas_flops_ordered", "pgonas_flops_warmup"),
    ("pgonas_flops_ordered", "sandwich_prelu"),
    ("random_pgonas", "random_sandwich"),
    ("random_sandwich", "random_baseline"),
    ("sandwich_prelu", "random_sandwich"),
)
"""Which methods are compared, each with the one that it adds something to."""


def write_report(home: Path, docs: Path) -> Path:
    """Rebuild the tables in ``docs/mini_track1.md``, its pictures and the truth's table from the result files.

    Returns the document's path.
    """
    track = read_track(home)
    write_truth(track, home)
    document = docs / "mini_track1.md"
    text = document.read_text(encoding="utf-8")
    for name, table in tables(track).items():
        text = _fill(document, text, name, table)
    write_text(document, text)
    write_pictures(track, docs / "mini_track1")
    return document


def write_truth(track: Track, home: Path) -> None:
    """``truth.csv`` for people (:func:`truth_csv`) and ``truth.json``, the means as a truth file for the tools."""
    write_scores(home / "truth.json", track.candidates, track.truth.mean(0).tolist())
    write_text(home / "truth.csv", truth_csv(track))


def truth_csv(track: Track) -> str:
    """Every subnet's cost, mean accuracy, its deviation over the seeds, and every seed's accuracy."""
    mean, deviation = track.truth.mean(0), track.truth.std(0, ddof=1)
    seeds = [f"seed{seed}" for seed in range(len(track.truth))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "arch", "depths", "macs", "params", "mean", "deviation", *seeds])
    for number, entry in enumerate(track.candidates):
        arch = entry.arch
        described = [entry.name, arch, " ".join(map(str, arch.depths))]
        costs = [cost.macs(arch, num_classes=CLASSES), cost.params(arch, CLASSES)]
        accs = [mean[number], deviation[number], *track.truth[:, number]]
        table.writerow([*described, *costs, *(f"{acc:.4f}" for acc in accs)])
    return text.getvalue()


def _fill(document: Path, text: str, name: str, table: str) -> str:
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{document}: needs the lines '{begin.strip()}' and '{end}' once each, around the table {name}")
    return text[: text.index(begin) + len(begin)] + table + "\n" + text[text.index(end) :]


def tables(track: Track) -> dict[str, str]:
    """The document's tables as Markdown, by name."""
    return {
        "truth": _truth_table(track),
        "methods": _methods_table(track),
        "rules": _rules_table(track),
        "differences": _differences_table(track),
    }


def _macs(track: Track) -> np.ndarray:
    return np.array([cost.macs(arch, num_classes=CLASSES) for arch in track.archs])


def _stream(method: str) -> int:
    return list(METHODS).index(method)


def _tau(track: Track, method: str, bn: str = "calibrated", metric: str = "top1") -> np.ndarray:
    return resampled_tau(track.scores(method, bn, metric), track.truth.mean(0), _stream(method))


def _truth_table(track: Track) -> str:
    mean = track.truth.mean(0)
    rows = [["stand-alone accuracy, mean over seeds", f"{100 * mean.min():.1f} % to {100 * mean.max():.1f} %"]]
    rows.append(["spread between subnets (standard deviation)", f"{100 * mean.std():.2f} points"])
    if len(track.truth) > 1:
        noise = float(np.sqrt(track.truth.var(0, ddof=1).mean()))
        close = resampled_tau(track.truth[:1], track.truth[1], pairs=similar(_macs(track), SIMILAR))
        rows += [
            ["spread between seeds of one subnet (standard deviation)", f"{100 * noise:.2f} points"],
            ["noise: Kendall tau between two seeds", _interval(estimate(resampled_tau(track.truth[:1], track.truth[1])))],
            [f"the same, pairs within {SIMILAR} times each other's cost", _interval(estimate(close))],
            ["noise ceiling: tau of the exact accuracies with this truth (simulated)", f"{attainable_tau(track.truth):.3f}"],
        ]
    return _markdown(["truth", f"{len(track.archs)} subnets, {len(track.truth)} seeds"], rows)


def _methods_table(track: Track) -> str:
    truth = track.truth.mean(0)
    rows = []
    for method, runs in track.runs.items():
        scores = track.scores(method, "calibrated")
        reached = scores.mean(0)
        rows.append([
            METHODS[method],
            " ".join(f"{kendall(row, truth):.2f}" for row in scores),
            _interval(estimate(_tau(track, method))),
            f"{_tau(track, method, 'running')[0]:.3f}",
            f"{100 * np.mean([pearson(row, truth) for row in scores]):.1f}",
            f"{100 * reached[0]:.1f} / {100 * reached[-1]:.1f}",
            f"{np.mean([run['train_seconds'] for run in runs]) / 60:.0f}",
        ])  # fmt: skip
    for name in ("flops", "params", "zen"):
        values = np.array([PRIORS[name](arch) for arch in track.archs], dtype=float)
        alone = _interval(estimate(resampled_tau(values[None], truth)))
        rows.append([f"{name} alone", "", alone, "", f"{100 * pearson(values, truth):.1f}", "", ""])
    head = [
        "scores from",
        "tau per seed",
        "tau, calibrated [95 %]",
        "tau, running",
        "Pearson x 100",
        "smallest / largest, %",
        "minutes",
    ]
    return _markdown(head, rows)


def _rules_table(track: Track) -> str:
    """What is read off the same supernets: top-1, loss, the loss's ranks averaged with FLOPs'; also where cost cannot tell."""
    truth, macs = track.truth.mean(0), _macs(track)
    close = similar(macs, SIMILAR)
    rows = []
    for method in track.runs:
        top1, loss = (track.scores(method, "calibrated", metric) for metric in ("top1", "loss"))
        blend = np.array([rankdata(row) + rankdata(macs) for row in loss])
        whole = [resampled_tau(scores, truth, _stream(method)) for scores in (top1, loss, blend)]
        near = [resampled_tau(scores, truth, _stream(method), close) for scores in (top1, loss, blend)]
        rows.append([METHODS[method], *(f"{tau[0]:.3f}" for tau in whole), *(f"{tau[0]:.3f}" for tau in near)])
    alone = [resampled_tau(macs[None], truth, pairs=pairs)[0] for pairs in (None, close)]
    rows.append(["flops alone", "", "", f"{alone[0]:.3f}", "", "", f"{alone[1]:.3f}"])
    head = ["tau", "top-1", "loss", "loss and FLOPs", "similar cost: top-1", "loss", "loss and FLOPs"]
    return _markdown(head, rows)


def _differences_table(track: Track) -> str:
    rows = []
    for method, other in PAIRS:
        if method in track.runs and other in track.runs:
            found = [_tau(track, method, metric=metric) - _tau(track, other, metric=metric) for metric in ("top1", "loss")]
            rows.append([METHODS[method], METHODS[other], *(_interval(estimate(taus), signed=True) for taus in found)])
    return _markdown(["method", "against", "difference in tau, by top-1 [95 %]", "by loss [95 %]"], rows)


def _interval(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_pictures(track: Track, folder: Path) -> None:
    """``ranks.svg``: rank against rank per method. ``tau.svg``: tau with intervals. ``curves.svg``: weight and disorder."""
    with rc_context(STYLE):
        figures = {"ranks": _ranks_figure(track), "tau": _tau_figure(track), "curves": _curves_figure(track)}
    for name, figure in figures.items():
        write_text(folder / f"{name}.svg", svg(figure))


def _ranks_figure(track: Track) -> Figure:
    """One square per method: rank by the supernet, averaged over the seeds, against rank by stand-alone accuracy."""
    columns, truth = 4, rankdata(track.truth.mean(0))
    rows = max(1, math.ceil(len(track.runs) / columns))
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    for number, method in enumerate(track.runs):
        axes = figure.add_subplot(rows, columns, number + 1)
        ranks = np.mean([rankdata(row) for row in track.scores(method, "calibrated")], axis=0)
        axes.plot([1, len(truth)], [1, len(truth)], color="grey", linewidth=0.8)
        axes.scatter(truth, ranks, s=12, color=INK, linewidths=0)
        axes.set_title(METHODS[method].replace(", ", ",\n", 1), fontsize=8)
        axes.set_aspect("equal")
    figure.supxlabel("rank by stand-alone accuracy", fontsize=10)
    figure.supylabel("rank by supernet (mean over seeds)", fontsize=10)
    return figure


def _tau_figure(track: Track) -> Figure:
    """A line per method: its mean tau, the interval over the subnets, and every seed's tau."""
    truth = track.truth.mean(0)
    figure = Figure(figsize=(7.5, 0.8 + 0.4 * len(track.runs)), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(reversed(track.runs)):
        tau, seeds = estimate(_tau(track, method)), [kendall(row, truth) for row in track.scores(method, "calibrated")]
        axes.plot([tau.low, tau.high], [place, place], color=INK, linewidth=1.5)
        axes.scatter([tau.value], [place], s=40, color=INK, zorder=2)
        axes.scatter(seeds, [place] * len(seeds), s=14, color=ACCENT, zorder=3, linewidths=0)
    axes.set_yticks(range(len(track.runs)), [METHODS[method] for method in reversed(track.runs)])
    figure.supxlabel("Kendall tau with stand-alone accuracy: mean, 95 % interval over subnets, and each seed", fontsize=10)
    return figure


def _curves_figure(track: Track) -> Figure:
    """Over the training of each PGONAS method, first seed: the weight of the rank loss, and the share of pairs out of order."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = [method for method in track.runs if method.startswith("pgonas")]
    for method, color in zip(ranked, COLORS, strict=False):
        curve = track.runs[method][0]["curve"]
        for axes, name in ((left, "rank_lambda"), (right, "pairs_out_of_order")):
            points = [point for point in curve if name in point]
            axes.plot(
                [point["progress"] for point in points], [point[name] for point in points], color=color, label=METHODS[method]
            )
    left.set(xlabel="share of the training", ylabel="weight of the rank loss")
    right.set(xlabel="share of the training", ylabel="share of pairs out of order", ylim=(0, 1))
    if ranked:
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return figure
