"""Tables about the truths of a study: how exact they are, and what they say about costs, depth and width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from paddle_pgonas.io.files import read_json
from paddle_pgonas.scores.correlation import Estimate, kendall
from studies.cells import interval, markdown, prior_label
from studies.depth import COLUMNS, Depth, depth, structure
from studies.intervals import SIMILAR, Taus, attainable_tau, resampled_tau, seed_deviation, seeds_per_subnet, similar
from studies.results import Results

PUBLISHED = "Track 1, published"
"""What the accuracies are called whose figures are those of REAL_TRACK1."""
REAL_TRACK1 = Path(__file__).parent / "real_track1" / "figures.json"


def truth_table(results: Results) -> str:
    """Spread and noise of the truth that the results hold."""
    mean = results.mean_truth
    rows = [["stand-alone accuracy, mean over seeds", f"{100 * mean.min():.1f} % to {100 * mean.max():.1f} %"]]
    rows.append(["spread between subnets (standard deviation)", f"{100 * mean.std():.2f} points"])
    if len(results.truth) > 1:
        noise = seed_deviation(results.truth)
        seeds, close = (
            Taus(resampled_tau(results.truth[:1], results.truth[1], pairs)) for pairs in (None, similar(results.macs, SIMILAR))
        )
        rows += [
            ["spread between seeds of one subnet (standard deviation)", f"{100 * noise:.2f} points"],
            ["noise: Kendall tau between two seeds", interval(seeds.estimate())],
            [f"the same, pairs within {SIMILAR} times each other's cost", interval(close.estimate())],
            ["noise ceiling: tau of the exact accuracies with this truth (simulated)", f"{attainable_tau(results.truth):.3f}"],
        ]
    return markdown(["truth", f"{len(results.archs)} subnets, {len(results.truth)} seeds"], rows)


def truths_table(results: Results) -> str:
    """How exact every truth is, and tau with each other one over their common candidates, with their number if it is less."""
    named, rows = {"": "first", **{name: name for name in results.study.whole_truths}}, []
    for name, label in named.items():
        part = results.part(None, "", name)
        mean = 100 * part.mean_truth
        exact = f"{100 * seed_deviation(part.truth):.2f}", f"{attainable_tau(part.truth):.3f}"
        row = [
            f"{label} truth",
            _subnets_by_seeds(part.truth),
            f"{mean.min():.1f} to {mean.max():.1f}",
            f"{mean.std():.2f}",
            *exact,
        ]
        for other in named:
            common = part.part(None, "", other)
            tau = kendall(common.mean_truth, replace(common, truth_name=name).mean_truth)
            fewer = f" ({len(common.archs)})" if len(common.archs) < len(part.archs) else ""
            row.append("" if other == name else f"{tau:.3f}{fewer}")
        rows.append(row)
    deviations = ["deviation between subnets, points", "between seeds of one subnet"]
    exact_head = [*deviations, "noise ceiling: tau of the exact accuracies (simulated)"]
    return markdown(
        ["truth", "subnets x seeds", "accuracy, %", *exact_head, *(f"tau with {label}" for label in named.values())], rows
    )


def costs_table(results: Results) -> str:
    """Tau of the controls with every truth, and with the published accuracies of Track 1."""
    names, real = results.study.controls, read_json(REAL_TRACK1, "figures")
    rows = [
        [label, str(len(part.archs)), *(interval(part.tau(name).estimate()) for name in names)]
        for label, part in _truths(results).items()
    ]
    known = (real["rankings"].get(prior_label(name)) for name in names)
    published = (interval(Estimate(*of["kendall"])) if of else "" for of in known)
    rows.append([PUBLISHED, str(real["subnets"]), *published])
    return markdown(["truth", "subnets", *(f"{name} [95 %]" for name in names)], rows)


def depth_table(results: Results) -> str:
    """Depth's coefficient beside the costs in every truth of the study and in the published accuracies of Track 1."""
    rows = [
        _depth_row(label, len(part.archs), depth(part.mean_truth, *map(part.prior, ("blocks", "flops", "params"))))
        for label, part in _truths(results).items()
    ]
    real = read_json(REAL_TRACK1, "figures")
    rows.append(_depth_row(PUBLISHED, real["subnets"], Depth(*real["depth"])))
    head = ["truth", "subnets", *(f"{name} [95 %]" for name in COLUMNS), "deeper wins at equal cost [95 %]", "pairs"]
    return markdown(head, rows)


def _depth_row(label: str, subnets: int, found: Depth) -> list[str]:
    shown = map(_coefficient, found.coefficients.values())
    return [label, str(subnets), *shown, "{:.2f} [{:.2f}, {:.2f}]".format(*found.wins), str(found.pairs)]


def _coefficient(of: Iterable[float]) -> str:
    return "{:+.2f} +- {:.2f} [{:+.2f}, {:+.2f}]".format(*of)


def structure_table(results: Results) -> str:
    """Coefficients of each stage's depth and width in every truth of the study and in the published accuracies of Track 1."""
    real = read_json(REAL_TRACK1, "figures")
    found = {label: (len(part.archs), structure(part.mean_truth, part.archs)) for label, part in _truths(results).items()}
    found[PUBLISHED] = real["subnets"], real["structure"]
    columns = sorted({name for _, fitted in found.values() for name in fitted})
    rows = [
        [label, str(subnets), *(_coefficient(fitted[name]) if name in fitted else "" for name in columns)]
        for label, (subnets, fitted) in found.items()
    ]
    return markdown(["truth", "subnets", *(f"{name} [95 %]" for name in columns)], rows)


def _truths(results: Results) -> dict[str, Results]:
    """Every truth of the study, but parts of another one; for the candidates of each also larger earlier ones with them all."""
    named, earlier = {"first truth": results.part(None, "", "")}, {"": "first"}
    for name in results.study.whole_truths:
        part = results.part(None, "", name)
        named[f"{name} truth"] = part
        for other, label in earlier.items():
            common = part.part(None, "", other)
            if len(part.archs) == len(common.archs) < len(named[f"{label} truth"].archs):
                named[f"{label} truth of {len(common.archs)} of {name}"] = common
        earlier[name] = name
    return named


def _subnets_by_seeds(truth: np.ndarray) -> str:
    """How many subnets have how many seeds, most seeds first."""
    numbers = Counter(seeds_per_subnet(truth).tolist())
    return ", ".join(f"{numbers[seeds]} x {seeds}" for seeds in sorted(numbers, reverse=True))
