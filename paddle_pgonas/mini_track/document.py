"""A study's document: tables, pictures and intervals, rebuilt from its results."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Container
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from paddle_pgonas import cost
from paddle_pgonas.correlation import Estimate, kendall, pearson
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, write_text
from paddle_pgonas.mini_track.pictures import FIGURES, write_picture
from paddle_pgonas.mini_track.results import BN, Track, read_track
from paddle_pgonas.mini_track.statistics import (
    attainable_tau,
    cost_ratios,
    difference_deviation,
    error_correlations,
    estimate,
    resampled_tau,
    share_ordered_alike,
    similar,
)
from paddle_pgonas.mini_track.study import HALVES, Study
from paddle_pgonas.submission import read_candidates, write_scores

SIMILAR = 1.5
"""Two subnets are of similar cost if their multiply-accumulates are within this factor."""
BANDS = (1, 1.2, 1.5, 2)
"""Bounds of the cost ratio (larger over smaller) of a pair, from each to the next."""
READINGS = ("top1", "loss", "probability")
ASSUMED_ERRORS = {
    "as in the wide set, all methods": (0.93, 0.67),
    "as in the wide set: baseline, sandwich, PGONAS": (0.93, 0.86),
    "if seeds differ more": (0.7, 0.6),
}
"""Correlations of the errors of two runs of a method and of two methods, for the table of detectable differences."""
TYPICAL_TAU = 0.7
"""Kendall tau of the simulated methods in the table of detectable differences."""


def write_report(study: Study) -> Path:
    """Rebuild the tables in the study's document, its pictures and the truth's table from the result files.

    Returns the document's path.
    """
    track, document = read_track(study), study.path(study.document)
    if study.truth is not None:
        write_truth(track)
    text = document.read_text(encoding="utf-8")
    for name, table in tables(track).items():
        text = _fill(document, text, name, table)
    write_text(document, text)
    for picture in study.pictures:
        write_picture(*_shown(track, picture, FIGURES), document.with_suffix("") / f"{picture.replace(' ', '-')}.svg")
    return document


def write_truth(track: Track) -> None:
    """``truth.csv`` as a table (:func:`truth_csv`) and ``truth.json``, the means as a truth file for the tools."""
    home = track.study.path(track.study.home)
    write_scores(home / "truth.json", track.candidates, track.mean_truth.tolist())
    write_text(home / "truth.csv", truth_csv(track))


def truth_csv(track: Track) -> str:
    """Every subnet's cost, mean accuracy, its deviation over the seeds, and every seed's accuracy."""
    mean, deviation, classes = track.mean_truth, track.truth.std(0, ddof=1), track.config.model.num_classes
    seeds = [f"seed{seed}" for seed in range(len(track.truth))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "arch", "depths", "macs", "params", "mean", "deviation", *seeds])
    for number, entry in enumerate(track.candidates):
        arch = entry.arch
        described = [entry.name, arch, " ".join(map(str, arch.depths))]
        costs = [cost.macs(arch, track.config.data.image_size, classes), cost.params(arch, classes)]
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
    made = {}
    for listed in track.study.tables:
        part, name = _shown(track, listed, TABLES)
        made[listed] = TABLES[name](part)
    return made


def _shown(track: Track, listed: str, known: Container[str]) -> tuple[Track, str]:
    """The part of a study that a table or picture named ``<name> [<regime>] [<half>]`` shows, and the name.

    Raises:
        UserError: the name is not one of ``known``, or the rest is neither a regime nor a half.
    """
    name, *words = listed.split()
    if name not in known or not {*track.study.regimes, *HALVES}.issuperset(words):
        raise UserError(f"the study's tables and pictures: there is no {listed}")
    regime = next((word for word in words if word in track.study.regimes), None)
    half = next((word for word in words if word in HALVES), "")
    return track.part(regime, half), name


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
    other, bn = BN
    for method, runs in track.runs.items():
        bn = track.bn(method)
        [other] = set(BN) - {bn}
        scores = track.scores(method, bn)
        reached = scores.mean(0)
        rows.append([
            track.label(method),
            " ".join(f"{kendall(row, truth):.2f}" for row in scores),
            _interval(estimate(track.tau(method))),
            f"{track.tau(method, other)[0]:.3f}",
            f"{100 * np.mean([pearson(row, truth) for row in scores]):.1f}",
            f"{100 * reached[track.macs.argmin()]:.1f} / {100 * reached[track.macs.argmax()]:.1f}",
            f"{np.mean([run['train_seconds'] for run in runs]) / 60:.0f}",
        ])  # fmt: skip
    for name in track.study.controls:
        pearson_alone = f"{100 * pearson(track.prior(name), truth):.1f}"
        rows.append([track.label(name), "", _interval(estimate(track.tau(name))), "", pearson_alone, "", ""])
    head = [
        "scores from",
        "tau per seed",
        f"tau, {bn} [95 %]",
        f"tau, {other}",
        "Pearson x 100",
        "smallest / largest, %",
        "minutes",
    ]
    return _markdown(head, rows)


def _rules_table(track: Track) -> str:
    """Tau of rankings by top-1, by loss and by the loss with FLOPs added, also for pairs of similar cost."""
    close, ways = similar(track.macs, SIMILAR), (("top1", None), ("loss", None), ("loss", "flops"))
    rows = []
    for method in track.runs:
        taus = (track.tau(method, None, metric, pairs, prior)[0] for pairs in (None, close) for metric, prior in ways)
        rows.append([track.label(method), *(f"{tau:.3f}" for tau in taus)])
    alone = [track.tau("flops", pairs=pairs)[0] for pairs in (None, close)]
    rows.append(["flops alone", "", "", f"{alone[0]:.3f}", "", "", f"{alone[1]:.3f}"])
    head = ["tau", "top-1", "loss", "loss and FLOPs", "similar cost: top-1", "loss", "loss and FLOPs"]
    return _markdown(head, rows)


def _readings_table(track: Track) -> str:
    """Tau of rankings by each metric of the scores, in the regime's statistics, alone and with FLOPs added."""
    ways = [(metric, prior) for prior in (None, "flops") for metric in READINGS]
    rows = [
        [track.label(name), *(f"{track.tau(name, metric=metric, prior=prior)[0]:.3f}" for metric, prior in ways)]
        for name in track.runs
    ]
    return _markdown(["tau by", *(metric if prior is None else f"{metric} and FLOPs" for metric, prior in ways)], rows)


def _recipes_table(track: Track) -> str:
    """Every recipe of the study and every control: tau, Pearson, and how far the first recipe is in front."""
    truth = track.mean_truth
    taus: dict[str, np.ndarray] = {}
    correlations: dict[str, float] = {}
    for recipe in track.study.recipes.values():
        if recipe.variant in track.runs:
            taus[recipe.label] = track.tau(recipe.variant, metric=recipe.metric, prior=recipe.prior)
            scores = track.scores(recipe.variant, metric=recipe.metric, prior=recipe.prior)
            correlations[recipe.label] = float(np.mean([pearson(row, truth) for row in scores]))
    for name in track.study.controls:
        taus[track.label(name)], correlations[track.label(name)] = track.tau(name), pearson(track.prior(name), truth)
    rows: list[list[str]] = []
    for name, tau in taus.items():
        lead = next(iter(taus.values())) - tau
        shown = _interval(estimate(lead), signed=True) if rows else ""
        rows.append([name, _interval(estimate(tau)), f"{100 * correlations[name]:.1f}", shown])
    return _markdown(["ranking by", "tau [95 %]", "Pearson x 100", "the first minus this one, tau [95 %]"], rows)


def _training_table(track: Track) -> str:
    """Tau by top-1 and by loss after shares of the training."""
    rows, truth = [], track.mean_truth
    for name, runs in track.runs.items():
        if all(run.get("watched") for run in runs):
            for metric in ("top1", "loss"):
                watched = (track.scores(name, metric=metric, watched=number) for number in range(len(track.study.watch_at)))
                taus = (f"{np.mean([kendall(row, truth) for row in scores]):.3f}" for scores in watched)
                rows.append([track.label(name), metric, *taus, f"{track.tau(name, metric=metric)[0]:.3f}"])
    shares = [f"{share:g}" for share in track.study.watch_at]
    return _markdown(["tau after a share of the training", "by", *shares, "end, all images"], rows)


def _rates_table(track: Track) -> str:
    """The learning rate of every variant, and the mean losses from which it was chosen."""
    path, rows = track.study.results / "rates.json", []
    for name, rate in (read_json(path, "learning rates") if path.exists() else {}).items():
        losses = (f"{at}: {'diverged' if loss is None else f'{loss:.4f}'}" for at, loss in rate["losses"].items())
        rows.append([name, f"{rate['lr_per_256']:g}", ", ".join(losses)])
    return _markdown(["method and regime", "chosen", "mean loss of the probes by rate"], rows)


def _power_table(track: Track) -> str:
    """What difference between two methods the candidates, and half of them, can show; simulated.

    All candidates count, also those that have no truth yet, because the table is about the plan.
    """
    assumed = dict(ASSUMED_ERRORS)
    errors = error_correlations({name: track.scores(name, metric="loss") for name in track.runs}, track.mean_truth)
    if np.isfinite(errors).all():
        assumed["measured, by loss"] = errors
    rows, count = [], len(read_candidates(track.study.candidates, track.config.search_space))
    for name, (within, between) in assumed.items():
        deviations = [difference_deviation(TYPICAL_TAU, within, between, n, track.study.seeds) for n in (count // 2, count)]
        shown = (text for sd in deviations for text in (f"{1.96 * sd:.3f}", f"{2.8 * sd:.3f}"))
        rows.append([name, f"{within:.2f}", f"{between:.2f}", *shown])
    head = ["correlation of errors", "two runs of a method", "two methods"]
    sizes = (f"{n} subnets: {what}" for n in (count // 2, count) for what in ("95 % interval, +-", "shown in 80 % of studies"))
    return _markdown([*head, *sizes], rows)


def _differences_table(track: Track) -> str:
    rows = []
    for method, other in (pair for comparison in track.study.comparisons for pair in track.resolved(comparison)):
        differences = [track.tau(method, metric=metric) - track.tau(other, metric=metric) for metric in ("top1", "loss")]
        intervals = (_interval(estimate(taus), signed=True) for taus in differences)
        rows.append([track.label(method), track.label(other), *intervals])
    return _markdown(["method", "against", "difference in tau, by top-1 [95 %]", "by loss [95 %]"], rows)


def _pairs_table(track: Track) -> str:
    """Share of pairs that a prior orders correctly, by the ratio of their costs."""
    rng = random.Random(0)
    space, side, classes = track.config.search_space, track.config.data.image_size, track.config.model.num_classes
    drawn = np.array([cost.macs(space.sample(rng), side, classes) for _ in range(1000)])
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
        ranks = np.mean([rankdata(run) for run in track.scores(method, metric="loss")], axis=0)
        error = ranks - rankdata(track.mean_truth)
        rows.append([track.label(method), *(f"{spearmanr(error, of).statistic:+.2f}" for of in (depth, width, track.macs))])
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
    "readings": _readings_table,
    "recipes": _recipes_table,
    "training": _training_table,
    "rates": _rates_table,
    "power": _power_table,
    "pairs": _pairs_table,
    "errors": _errors_table,
}
"""The document's tables by the name of their markers in it."""
