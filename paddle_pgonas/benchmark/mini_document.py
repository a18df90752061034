"""The mini track's document: tables, pictures and intervals, rebuilt from its results."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import rankdata

from paddle_pgonas import cost
from paddle_pgonas.benchmark.mini_results import BN, METHODS, Track, read_track
from paddle_pgonas.correlation import Estimate, kendall, pearson
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import write_text
from paddle_pgonas.priors import PRIORS
from paddle_pgonas.report.plots import ACCENT, COLORS, INK, STYLE, svg
from paddle_pgonas.submission import write_scores

RESAMPLES = 1000
CLASSES = 10

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
    ("sandwich_labels", "sandwich_prelu"),
    ("pgonas_flops_better", "sandwich_labels"),
    ("pgonas_flops_better", "pgonas_flops_constant"),
    ("pgonas_flops_better", "baseline"),
)
"""Which methods are compared, each with the one that it adds something to."""


def mean_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall tau with the truth, averaged over the runs: scores [runs, n], truth [n]."""
    return float(np.mean([kendall(row, truth) for row in scores]))


def bootstrap(statistic: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic of candidate positions, resampling the candidates."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def tau_with_interval(scores: np.ndarray, truth: np.ndarray) -> Estimate:
    """:func:`mean_tau` with its interval over the candidates."""
    return Estimate(mean_tau(scores, truth), *bootstrap(lambda at: mean_tau(scores[:, at], truth[at]), len(truth)))


def tau_difference(ours: np.ndarray, theirs: np.ndarray, truth: np.ndarray) -> Estimate:
    """How much more :func:`mean_tau` one method has than another, on the same resampled candidates."""

    def difference(at: np.ndarray) -> float:
        return mean_tau(ours[:, at], truth[at]) - mean_tau(theirs[:, at], truth[at])

    return Estimate(difference(np.arange(len(truth))), *bootstrap(difference, len(truth)))


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
    """``truth.csv``: every subnet's cost, mean accuracy, spread and seeds. ``truth.json``: the means, as a truth file."""
    mean, deviation = track.truth.mean(0), track.truth.std(0, ddof=1)
    write_scores(home / "truth.json", track.candidates, mean.tolist())
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
    write_text(home / "truth.csv", text.getvalue())


def _fill(document: Path, text: str, name: str, table: str) -> str:
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{document}: needs the lines '{begin.strip()}' and '{end}' once each, around the table {name}")
    return text[: text.index(begin) + len(begin)] + table + "\n" + text[text.index(end) :]


def tables(track: Track) -> dict[str, str]:
    """The document's tables as Markdown, by name."""
    return {"truth": _truth_table(track), "methods": _methods_table(track), "differences": _differences_table(track)}


def _truth_table(track: Track) -> str:
    mean = track.truth.mean(0)
    rows = [["stand-alone accuracy, mean over seeds", f"{100 * mean.min():.1f} % to {100 * mean.max():.1f} %"]]
    rows.append(["spread between subnets (standard deviation)", f"{100 * mean.std():.2f} points"])
    if len(track.truth) > 1:
        noise = float(np.sqrt(track.truth.var(0, ddof=1).mean()))
        rows.append(["spread between seeds of one subnet (standard deviation)", f"{100 * noise:.2f} points"])
        ceiling = tau_with_interval(track.truth[:1], track.truth[1])
        rows.append(["noise ceiling: Kendall tau between two seeds", _interval(ceiling)])
    return _markdown(["truth", f"{len(track.archs)} subnets, {len(track.truth)} seeds"], rows)


def _methods_table(track: Track) -> str:
    truth = track.truth.mean(0)
    rows = []
    for method in track.runs:
        taus = {bn: tau_with_interval(track.scores(method, bn), truth) for bn in BN}
        by_loss = mean_tau(track.scores(method, "calibrated", "loss"), truth)
        seeds = [kendall(row, truth) for row in track.scores(method, "calibrated")]
        linear = np.mean([pearson(row, truth) for row in track.scores(method, "calibrated")])
        reached = track.scores(method, "calibrated").mean(0)
        rows.append([
            METHODS[method],
            " ".join(f"{tau:.2f}" for tau in seeds),
            _interval(taus["calibrated"]),
            f"{taus['running'].value:.3f}",
            f"{by_loss:.3f}",
            f"{100 * linear:.1f}",
            f"{100 * reached[0]:.1f} / {100 * reached[-1]:.1f}",
        ])  # fmt: skip
    for name in ("flops", "params", "zen"):
        values = np.array([[PRIORS[name](arch) for arch in track.archs]], dtype=float)
        alone = [f"{name} alone", "", _interval(tau_with_interval(values, truth)), "", ""]
        rows.append([*alone, f"{100 * pearson(values[0], truth):.1f}", ""])
    head = [
        "scores from",
        "tau per seed",
        "tau, calibrated [95 %]",
        "tau, running",
        "tau by loss",
        "Pearson x 100",
        "smallest / largest, %",
    ]
    return _markdown(head, rows)


def _differences_table(track: Track) -> str:
    truth, rows = track.truth.mean(0), []
    for method, other in PAIRS:
        if method in track.runs and other in track.runs:
            found = tau_difference(track.scores(method, "calibrated"), track.scores(other, "calibrated"), truth)
            rows.append([METHODS[method], METHODS[other], _interval(found, signed=True)])
    return _markdown(["method", "against", "difference in tau [95 %]"], rows)


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
        scores = track.scores(method, "calibrated")
        tau, seeds = tau_with_interval(scores, truth), [kendall(row, truth) for row in scores]
        axes.plot([tau.low, tau.high], [place, place], color=INK, linewidth=1.5)
        axes.scatter([tau.value], [place], s=40, color=INK, zorder=2)
        axes.scatter(seeds, [place] * len(seeds), s=14, color=ACCENT, zorder=3, linewidths=0)
    axes.set_yticks(range(len(track.runs)), [METHODS[method] for method in reversed(track.runs)])
    figure.supxlabel("Kendall tau with stand-alone accuracy: mean, 95 % interval over subnets, and each seed", fontsize=10)
    return figure


def _curves_figure(track: Track) -> Figure:
    """Over the epochs of each PGONAS method's first seed: the weight of the rank loss, and the share of pairs out of order."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = [method for method in track.runs if method.startswith("pgonas")]
    for method, color in zip(ranked, COLORS, strict=False):
        epochs = track.runs[method][0]["epochs"]
        left.plot([epoch.get("rank_lambda", 0) for epoch in epochs], color=color, label=METHODS[method])
        right.plot([epoch.get("pairs_out_of_order", np.nan) for epoch in epochs], color=color)
    left.set(xlabel="epoch", ylabel="weight of the rank loss")
    right.set(xlabel="epoch", ylabel="share of pairs out of order", ylim=(0, 1))
    if ranked:
        figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure
