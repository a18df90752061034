"""The mini track's document: tables, pictures and intervals, rebuilt from its results."""

from __future__ import annotations

import csv
import io
import math
import random
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from paddle_pgonas import cost
from paddle_pgonas.arch import MINI
from paddle_pgonas.correlation import Estimate, kendall, pearson
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import write_text
from paddle_pgonas.mini_track.pictures import write_pictures
from paddle_pgonas.mini_track.results import CLASSES, METHODS, Track, read_track
from paddle_pgonas.mini_track.statistics import attainable_tau, cost_ratios, estimate, resampled_tau, share_ordered_alike, similar
from paddle_pgonas.submission import write_scores

SIMILAR = 1.5
"""Two subnets are of similar cost if their multiply-accumulates are within this factor."""
BANDS = (1, 1.2, 1.5, 2)
"""Bounds of the cost ratio (larger over smaller) of a pair, from each to the next."""

PAIRS = (
    ("sandwich_relu", "baseline"),
    ("progressive", "baseline"),
    ("progressive", "pgonas_flops_warmup"),
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
"""Pairs of methods to compare: a method and its reference."""


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
    """``truth.csv`` as a table (:func:`truth_csv`) and ``truth.json``, the means as a truth file for the tools."""
    write_scores(home / "truth.json", track.candidates, track.mean_truth.tolist())
    write_text(home / "truth.csv", truth_csv(track))


def truth_csv(track: Track) -> str:
    """Every subnet's cost, mean accuracy, its deviation over the seeds, and every seed's accuracy."""
    mean, deviation = track.mean_truth, track.truth.std(0, ddof=1)
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
    return {name: table(track) for name, table in TABLES.items()}


def _truth_table(track: Track) -> str:
    mean = track.mean_truth
    rows = [["stand-alone accuracy, mean over seeds", f"{100 * mean.min():.1f} % to {100 * mean.max():.1f} %"]]
    rows.append(["spread between subnets (standard deviation)", f"{100 * mean.std():.2f} points"])
    if len(track.truth) > 1:
        noise = float(np.sqrt(track.truth.var(0, ddof=1).mean()))
        close = resampled_tau(track.truth[:1], track.truth[1], pairs=similar(track.macs, SIMILAR))
        rows += [
            ["spread between seeds of one subnet (standard deviation)", f"{100 * noise:.2f} points"],
            ["noise: Kendall tau between two seeds", _interval(estimate(resampled_tau(track.truth[:1], track.truth[1])))],
            [f"the same, pairs within {SIMILAR} times each other's cost", _interval(estimate(close))],
            ["noise ceiling: tau of the exact accuracies with this truth (simulated)", f"{attainable_tau(track.truth):.3f}"],
        ]
    return _markdown(["truth", f"{len(track.archs)} subnets, {len(track.truth)} seeds"], rows)


def _methods_table(track: Track) -> str:
    truth = track.mean_truth
    rows = []
    for method, runs in track.runs.items():
        scores = track.scores(method, "calibrated")
        reached = scores.mean(0)
        rows.append([
            METHODS[method],
            " ".join(f"{kendall(row, truth):.2f}" for row in scores),
            _interval(estimate(track.tau(method))),
            f"{track.tau(method, 'running')[0]:.3f}",
            f"{100 * np.mean([pearson(row, truth) for row in scores]):.1f}",
            f"{100 * reached[0]:.1f} / {100 * reached[-1]:.1f}",
            f"{np.mean([run['train_seconds'] for run in runs]) / 60:.0f}",
        ])  # fmt: skip
    for name in ("flops", "params", "zen"):
        values = track.prior(name)
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
    """Tau of rankings by top-1, by loss and by the loss's ranks averaged with FLOPs', also for pairs of similar cost."""
    truth, macs = track.mean_truth, track.macs
    close = similar(macs, SIMILAR)
    rows = []
    for method in track.runs:
        row = [METHODS[method]]
        blend = np.array([rankdata(run) + rankdata(macs) for run in track.scores(method, "calibrated", "loss")])
        for pairs in (None, close):
            taus = [track.tau(method, metric="top1", pairs=pairs), track.tau(method, metric="loss", pairs=pairs)]
            row += [f"{tau[0]:.3f}" for tau in (*taus, resampled_tau(blend, truth, pairs=pairs))]
        rows.append(row)
    alone = [resampled_tau(macs[None], truth, pairs=pairs)[0] for pairs in (None, close)]
    rows.append(["flops alone", "", "", f"{alone[0]:.3f}", "", "", f"{alone[1]:.3f}"])
    head = ["tau", "top-1", "loss", "loss and FLOPs", "similar cost: top-1", "loss", "loss and FLOPs"]
    return _markdown(head, rows)


def _differences_table(track: Track) -> str:
    rows = []
    for method, other in PAIRS:
        if method in track.runs and other in track.runs:
            differences = [track.tau(method, metric=metric) - track.tau(other, metric=metric) for metric in ("top1", "loss")]
            rows.append([METHODS[method], METHODS[other], *(_interval(estimate(taus), signed=True) for taus in differences)])
    return _markdown(["method", "against", "difference in tau, by top-1 [95 %]", "by loss [95 %]"], rows)


def _pairs_table(track: Track) -> str:
    """Share of pairs that a prior orders correctly, by the ratio of their costs."""
    rng = random.Random(0)
    drawn = np.array([cost.macs(MINI.sample(rng), num_classes=CLASSES) for _ in range(1000)])
    ratios, drawn_ratios = cost_ratios(track.macs), cost_ratios(drawn)[np.triu_indices(len(drawn), 1)]
    zen = track.prior("zen")
    rows, shares, right = [], [], []
    for low, high in zip(BANDS, (*BANDS[1:], math.inf), strict=True):
        inside = (low <= ratios) & (ratios < high) & ~np.eye(len(ratios), dtype=bool)
        shares.append(((low <= drawn_ratios) & (drawn_ratios < high)).mean())
        seeds = share_ordered_alike(track.truth[0], track.truth[-1], inside)
        right.append([*(share_ordered_alike(values, track.mean_truth, inside) for values in (track.macs, zen)), seeds])
        name = f"{low} to {high} times" if math.isfinite(high) else f"{low} times and more"
        rows.append([name, f"{100 * shares[-1]:.0f} %", str(inside.sum() // 2), *(f"{100 * x:.0f} %" for x in right[-1])])
    as_drawn = np.array(shares) @ np.array(right)
    rows.append(["all, weighted as random pairs are", "", "", *(f"{100 * x:.0f} %" for x in as_drawn)])
    head = ["ratio of costs", "of random pairs", "pairs of candidates", "FLOPs right", "Zen-score right", "two seeds agree"]
    return _markdown(head, rows)


def _errors_table(track: Track) -> str:
    """Systematic errors of a method: Spearman correlation of its rank error with depth, width and cost."""
    depth = [sum(arch.depths) for arch in track.archs]
    width = [arch.out_width for arch in track.archs]
    rows = []
    for method in track.runs:
        ranks = np.mean([rankdata(run) for run in track.scores(method, "calibrated", "loss")], axis=0)
        error = ranks - rankdata(track.mean_truth)
        rows.append([METHODS[method], *(f"{spearmanr(error, of).statistic:+.2f}" for of in (depth, width, track.macs))])
    return _markdown(["rank by loss minus rank by truth, correlated with", "blocks", "width of the last stage", "cost"], rows)


def _interval(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES = {
    "truth": _truth_table,
    "methods": _methods_table,
    "rules": _rules_table,
    "differences": _differences_table,
    "pairs": _pairs_table,
    "errors": _errors_table,
}
"""The document's tables by the name of their markers in it."""
