"""The tables of a study's document by name; those about its rankings are made here."""

from __future__ import annotations

import math
import random

import numpy as np
from scipy.stats import spearmanr

from paddle_pgonas.io.files import read_json
from paddle_pgonas.priors import cost
from paddle_pgonas.scores.correlation import kendall, pearson
from studies import truth_tables
from studies.cells import interval, markdown
from studies.collecting import BN
from studies.intervals import (
    SIMILAR,
    Difference,
    Taus,
    cost_ratios,
    difference_deviation,
    error_correlations,
    holm,
    share_ordered_alike,
    similar,
)
from studies.results import Results

BANDS = (1, 1.2, 1.5, 2)
"""Bounds of the cost ratio (larger over smaller) of a pair, from each to the next."""
READINGS = ("top1", "likelihood", "probability")
ASSUMED_ERRORS = {
    "as in the wide set, all methods": (0.93, 0.67),
    "as in the wide set: baseline, sandwich, PGONAS": (0.93, 0.86),
    "if seeds differ more": (0.7, 0.6),
}
"""Correlations of the errors of two runs of a method and of two methods, for the table of detectable differences."""
LEVEL = 0.05
"""Of the tests that were fixed in advance."""
TYPICAL_TAU = 0.7
"""Kendall tau of the simulated methods in the table of detectable differences."""


def _methods_table(results: Results) -> str:
    truth = results.mean_truth
    rows = []
    for method, runs in results.runs.items():
        bn = results.bn(method)
        [other] = set(BN) - {bn}
        scores = results.scores(method, bn)
        reached = scores.mean(0)
        rows.append([
            results.label(method),
            " ".join(f"{kendall(row, truth):.2f}" for row in scores),
            interval(results.tau(method).estimate()),
            f"{results.tau(method, other).value:.3f}" if results.scored(method, other) else "",
            f"{100 * np.mean([pearson(row, truth) for row in scores]):.1f}",
            f"{100 * reached[results.macs.argmin()]:.1f} / {100 * reached[results.macs.argmax()]:.1f}",
            f"{np.mean([run['train_seconds'] for run in runs]) / 60:.0f}",
        ])  # fmt: skip
    for name in results.study.controls:
        pearson_alone = f"{100 * pearson(results.prior(name), truth):.1f}"
        rows.append([results.label(name), "", interval(results.tau(name).estimate()), "", pearson_alone, "", ""])
    bn, other = _statistics_shown(results)
    tau, with_other = f"tau, {bn} [95 %]", f"tau, {other} (measured seeds)"
    head = ["scores from", "tau per seed", tau, with_other, "Pearson x 100", "smallest / largest, %", "minutes"]
    return markdown(head, rows)


def _statistics_shown(results: Results) -> tuple[str, str]:
    """What the statistics of the regime, and the others, are called in a heading: by name if there is one regime."""
    shown = {results.bn(method) for method in results.runs}
    if len(shown) != 1:
        return "the regime's statistics", "the other statistics"
    [bn] = shown
    [other] = set(BN) - shown
    return bn, other


def _rules_table(results: Results) -> str:
    """Tau of rankings by top-1, by likelihood and by the likelihood with FLOPs added, also for pairs of similar cost."""
    close, ways = similar(results.macs, SIMILAR), (("top1", None), ("likelihood", None), ("likelihood", "flops"))
    rows = []
    for method in results.runs:
        taus = (results.tau(method, None, metric, pairs, prior).value for pairs in (None, close) for metric, prior in ways)
        rows.append([results.label(method), *(f"{tau:.3f}" for tau in taus)])
    alone = [results.tau("flops", pairs=pairs).value for pairs in (None, close)]
    rows.append(["flops alone", "", "", f"{alone[0]:.3f}", "", "", f"{alone[1]:.3f}"])
    readings = ["top-1", "likelihood", "likelihood and FLOPs"]
    head = ["tau", *readings, f"similar cost: {readings[0]}", *readings[1:]]
    return markdown(head, rows)


def _readings_table(results: Results) -> str:
    """Tau of rankings by each metric of the scores, in the regime's statistics, alone and with FLOPs added."""
    ways = [(metric, prior) for prior in (None, "flops") for metric in READINGS]
    rows = [
        [results.label(name), *(f"{results.tau(name, metric=metric, prior=prior).value:.3f}" for metric, prior in ways)]
        for name in results.runs
    ]
    return markdown(["tau by", *(metric if prior is None else f"{metric} and FLOPs" for metric, prior in ways)], rows)


def _recipes_table(results: Results) -> str:
    """Every recipe of the study and every control: tau, Pearson, and how far the first recipe is in front."""
    recipes, rows = list(results.study.recipes.values()), []
    rankings = [
        (
            recipe.label,
            results.tau(recipe.variant, metric=recipe.metric, prior=recipe.prior),
            results.scores(recipe.variant, metric=recipe.metric, prior=recipe.prior),
        )
        for recipe in recipes
        if recipe.variant in results.runs
    ]
    first = rankings[0][1] if recipes and recipes[0].variant in results.runs else None
    rankings += [(results.label(name), results.tau(name), results.prior(name)[None]) for name in results.study.controls]
    for label, tau, scores in rankings:
        lead = first.minus(tau) if first is not None and tau is not first else None
        correlation = 100 * np.mean([pearson(row, results.mean_truth) for row in scores])
        rows.append([label, interval(tau.estimate()), f"{correlation:.1f}", interval(lead, signed=True)])
    return markdown(["ranking by", "tau [95 %]", "Pearson x 100", "the first minus this one, tau [95 %]"], rows)


def _rates_table(results: Results) -> str:
    """The learning rate of every variant, and the mean losses from which it was chosen."""
    path, rows = results.study.results / "rates.json", []
    for name, rate in (read_json(path, "learning rates") if path.exists() else {}).items():
        losses = (f"{at}: {'diverged' if loss is None else f'{loss:.4f}'}" for at, loss in rate["losses"].items())
        rows.append([name, f"{rate['lr_per_256']:g}", ", ".join(losses)])
    return markdown(["method and regime", "chosen", "mean loss of the probes by rate"], rows)


def _power_table(results: Results) -> str:
    """What difference between two methods the candidates, and half of them, can show; simulated.

    All candidates count, also those that have no truth yet, because the table is about the plan.
    """
    assumed = dict(ASSUMED_ERRORS)
    for regime in results.study.regimes:
        part = results.part(regime, "")
        errors = error_correlations({name: part.scores(name) for name in part.runs}, part.mean_truth)
        if np.isfinite(errors).all():
            assumed[f"measured, {regime}"] = errors
    rows, count = [], len(results.study.read_candidates())
    for name, (within, between) in assumed.items():
        deviations = [difference_deviation(TYPICAL_TAU, within, between, n, results.study.seeds) for n in (count // 2, count)]
        shown = (text for sd in deviations for text in (f"{1.96 * sd:.3f}", f"{2.8 * sd:.3f}"))
        rows.append([name, f"{within:.2f}", f"{between:.2f}", *shown])
    head = ["correlation of errors", "two runs of a method", "two methods"]
    sizes = (f"{n} subnets: {what}" for n in (count // 2, count) for what in ("95 % interval, +-", "shown in 80 % of studies"))
    return markdown([*head, *sizes], rows)


def _differences_table(results: Results) -> str:
    """How far one method lies above another one by each metric, and from how many runs that is known."""
    rows = []
    for method, other in (pair for comparison in results.study.comparisons for pair in results.resolved(comparison)):
        pairs = [(results.tau(method, metric=metric), results.tau(other, metric=metric)) for metric in READINGS]
        runs = _runs(results, (method, other), pairs[0])
        intervals = (interval(one.minus(two), signed=True) for one, two in pairs)
        rows.append([results.label(method), results.label(other), runs, *intervals])
    metrics = ("top-1", "likelihood", "probability")
    return markdown(["method", "against", "runs", *(f"difference in tau, by {metric} [95 %]" for metric in metrics)], rows)


def _hypotheses_table(results: Results) -> str:
    """The tests that were fixed in advance, with p-values corrected by Holm over all of them, also those without runs."""

    def taus(ranking: str) -> Taus:
        name, prior = results.study.split(ranking)
        return results.tau(name, metric=results.study.hypotheses_by, prior=prior)

    there = {*results.runs, *results.study.controls}
    tests = {
        (one, two): (taus(one), taus(two))
        for one, two in results.study.hypotheses
        if there.issuperset(results.study.split(name)[0] for name in (one, two))
    }
    differences = {pair: mine.minus(other) for pair, (mine, other) in tests.items()}
    p_values = [differences[pair].p_value if pair in tests else 1.0 for pair in results.study.hypotheses]
    rows = []
    for pair, corrected in zip(results.study.hypotheses, holm(p_values), strict=True):
        names = [_ranking(results, name) for name in pair]
        if pair not in tests:
            rows.append([*names, "none", "", "", "", "", "", "not tested"])
            continue
        compared, difference = tests[pair], differences[pair]
        tau = (f"{of.value:.3f}" for of in compared[0].paired(compared[1]) or compared)
        p_value = (f"{of:.3f}" for of in (difference.p_value, corrected))
        runs = _runs(results, pair, compared)
        rows.append([*names, runs, *tau, interval(difference, signed=True), *p_value, _verdict(difference, corrected)])
    head = [
        "test: ranking by",
        "better than",
        "runs",
        "tau",
        "tau of the other",
        "difference [95 %]",
        "p",
        "p, corrected",
        "verdict",
    ]
    return markdown(head, rows)


def _verdict(difference: Difference, corrected: float) -> str:
    """What a test with this corrected p-value shows."""
    if corrected >= LEVEL:
        return "not shown"
    return "shown" if difference.value > 0 else "shown to be worse"


def _runs(results: Results, names: tuple[str, str], taus: tuple[Taus, Taus]) -> str:
    """From how many runs a difference of two rankings is known: pairs of the same seed, or each one's; a control has none."""
    one, two = taus
    if pair := one.paired(two):
        return f"{len(pair[0].seeds)} pairs"
    return ", ".join(str(len(of.values)) for name, of in zip(names, taus, strict=True) if name not in results.study.controls)


def _ranking(results: Results, name: str) -> str:
    """What a ranking of a test is called: a variant's label, and the priors added to it."""
    variant, prior = results.study.split(name)
    return results.label(variant) + (f" + {prior}" if prior else "")


def _pairs_table(results: Results) -> str:
    """Share of pairs that a prior orders correctly, by the ratio of their costs."""
    rng = random.Random(0)
    space, side, classes = results.config.search_space, results.config.data.image_size, results.config.model.num_classes
    drawn = np.array([cost.macs(space.sample(rng), side, classes) for _ in range(1000)])
    ratios, drawn_ratios = cost_ratios(results.macs), cost_ratios(drawn)[np.triu_indices(len(drawn), 1)]
    zen = results.prior("zen")
    rows, shares, right = [], [], []
    for low, high in zip(BANDS, (*BANDS[1:], math.inf), strict=True):
        inside = (low <= ratios) & (ratios < high) & ~np.eye(len(ratios), dtype=bool)
        shares.append(((low <= drawn_ratios) & (drawn_ratios < high)).mean())
        seeds = share_ordered_alike(results.truth[0], results.truth[1], inside)
        right.append([*(share_ordered_alike(values, results.mean_truth, inside) for values in (results.macs, zen)), seeds])
        name = f"{low} to {high} times" if math.isfinite(high) else f"{low} times and more"
        rows.append([name, f"{100 * shares[-1]:.0f} %", str(inside.sum() // 2), *(f"{100 * x:.0f} %" for x in right[-1])])
    as_drawn = np.array(shares) @ np.array(right)
    rows.append(["all, weighted as random pairs are", "", "", *(f"{100 * x:.0f} %" for x in as_drawn)])
    head = ["ratio of costs", "of random pairs", "pairs of candidates", "FLOPs right", "Zen-score right", "two seeds agree"]
    return markdown(head, rows)


def _leanings_table(results: Results) -> str:
    """What rankings follow too much or too little: Spearman correlation of truth and methods with depth, width and cost."""
    of = [results.prior(name) for name in ("blocks", "width", "flops", "params")]

    def row(label: str, runs: np.ndarray) -> list[str]:
        return [label, *(f"{np.mean([spearmanr(run, values).statistic for run in runs]):+.2f}" for values in of)]

    rows = [row("stand-alone accuracy", results.mean_truth[None])]
    rows += [row(results.label(name), results.scores(name)) for name in results.runs]
    head = ["Spearman correlation of", "with blocks", "with the last stage's width", "with FLOPs", "with parameters"]
    return markdown(head, rows)


TABLES = {
    "truth": truth_tables.truth_table,
    "truths": truth_tables.truths_table,
    "costs": truth_tables.costs_table,
    "depth": truth_tables.depth_table,
    "structure": truth_tables.structure_table,
    "methods": _methods_table,
    "rules": _rules_table,
    "differences": _differences_table,
    "hypotheses": _hypotheses_table,
    "readings": _readings_table,
    "recipes": _recipes_table,
    "rates": _rates_table,
    "power": _power_table,
    "pairs": _pairs_table,
    "leanings": _leanings_table,
}
"""The document's tables by the name of their markers in it."""
