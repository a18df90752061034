"""Kendall tau over few subnets and runs, with intervals over both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from paddle_pgonas.scores.correlation import Estimate, attainable_kendall

RESAMPLES = 2000
SIMULATIONS = 200
PAIRS = 3
"""So many runs of the same seeds are compared with each other."""
CEILING_SIMULATIONS = 500
SIMILAR = 1.5
"""Two subnets are of similar cost if their multiply-accumulates are within this factor."""


def draws(count: int) -> np.ndarray:
    """Multiplicity of each of ``count`` subnets, [1 + RESAMPLES, count]: once each in the first row, then with replacement."""
    return _draws(count, RESAMPLES)


@lru_cache(maxsize=32)
def _draws(count: int, resamples: int) -> np.ndarray:
    drawn = np.random.default_rng((0,)).multinomial(count, np.full(count, 1 / count), resamples)
    return np.concatenate([np.ones((1, count), dtype=int), drawn])


def resampled_tau(scores: np.ndarray, truth: np.ndarray, pairs: np.ndarray | None = None) -> np.ndarray:
    """Kendall tau-b of each run with the truth: for the data, then for every resample of the subnets, the same for all calls.

    Args:
        scores: [runs, n], larger is better.
        truth: [n].
        pairs: bool [n, n], symmetric: only these pairs of subnets count; all by default.

    Returns:
        [runs, 1 + RESAMPLES]; NaN if a resample has no pairs.
    """
    count = len(truth)
    exact = np.float32 if count**2 <= 2**24 else np.float64  # holds every sum of signs, which are whole numbers
    times = draws(count).astype(exact)

    def signs_of(values: np.ndarray) -> np.ndarray:
        return (_signs(values) if pairs is None else _signs(values) * pairs).astype(exact)

    def weigh(signs: np.ndarray) -> np.ndarray:
        return ((times @ signs) * times).sum(1, dtype=np.float64)

    truth_signs = signs_of(truth)
    taus, untied = [], weigh(truth_signs**2)
    for run in scores:
        run_signs = signs_of(run)
        with np.errstate(invalid="ignore"):
            taus.append(weigh(run_signs * truth_signs) / np.sqrt(weigh(run_signs**2) * untied))
    return np.array(taus)


class Difference(NamedTuple):
    """An estimate with its 95 % interval, and the two-sided p-value of its being 0, of the same distribution."""

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Taus:
    """Kendall tau of the runs of one way to rank, with what intervals need.

    A 95 % interval is the mean -+ t * sqrt(variance over resampled subnets + variance between the runs / their number). t is
    Student's, with the degrees of freedom of the whole (Satterthwaite); a resample of three runs would give an interval that is
    too narrow. With one run only the subnets vary.
    """

    values: np.ndarray
    """[runs, 1 + RESAMPLES], of :func:`resampled_tau`."""
    seeds: tuple[int, ...] = ()
    """Of runs that share something with other methods' runs of the same seed; empty if all runs are independent."""

    @property
    def value(self) -> float:
        """The mean over the runs."""
        return float(self.values[:, 0].mean())

    def estimate(self) -> Estimate:
        """The mean over the runs and its interval."""
        return Estimate(*_estimate(self.values.mean(0), [self.values[:, 0]], bound=1)[:3])

    def paired(self, other: Taus) -> tuple[Taus, Taus] | None:
        """Both, of the seeds that they have in common, in the same order; None if these are too few."""
        seeds = tuple(sorted(set(self.seeds) & set(other.seeds)))
        if len(seeds) < PAIRS:
            return None
        one, two = (Taus(taus.values[[taus.seeds.index(seed) for seed in seeds]], seeds) for taus in (self, other))
        return one, two

    def minus(self, other: Taus) -> Difference:
        """How far the mean lies above another one.

        Runs of the same seed are compared with each other, and others left out. With fewer than three such pairs, which tell
        little about how much seeds differ, all runs count as independent.
        """
        if pair := self.paired(other):
            apart = pair[0].values - pair[1].values
            return _estimate(apart.mean(0), [apart[:, 0]], bound=2)
        return _estimate(self.values.mean(0) - other.values.mean(0), [self.values[:, 0], other.values[:, 0]], bound=2)


def _estimate(resampled: np.ndarray, runs: Sequence[np.ndarray], bound: float) -> Difference:
    """Value, interval and p-value of a mean: given are the value with its resamples, and the runs of each independent part.

    The interval ends at +-``bound``, the largest possible value.
    """
    subnets = float(np.nanvar(resampled[1:]))
    parts = [(float(part.var(ddof=1)) / len(part), len(part) - 1) for part in runs if len(part) > 1]
    variance = subnets + sum(of for of, _ in parts)
    chance = sum(of**2 / freedom for of, freedom in parts)
    spread = student(variance**2 / chance) if chance else norm()
    value, half = float(resampled[0]), float(spread.ppf(0.975)) * math.sqrt(variance)
    p_value = 2 * float(spread.sf(abs(value) / math.sqrt(variance))) if variance else float(value == 0)
    return Difference(value, max(value - half, -bound), min(value + half, bound), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected by Holm's step-down method, in the same order."""
    order, corrected, largest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for left, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - left) * p_values[place]))
        corrected[place] = largest
    return corrected


def _signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[:, None] - values[None, :])


def cost_ratios(costs: np.ndarray) -> np.ndarray:
    """Ratio of the larger to the smaller cost of each two subnets, [n, n]."""
    return np.maximum(costs[:, None] / costs[None, :], costs[None, :] / costs[:, None])


def similar(costs: np.ndarray, factor: float) -> np.ndarray:
    """Which pairs of subnets have costs within this factor of each other, [n, n]; no subnet pairs with itself."""
    return (cost_ratios(costs) < factor) & ~np.eye(len(costs), dtype=bool)


def share_ordered_alike(values: np.ndarray, truth: np.ndarray, pairs: np.ndarray) -> float:
    """Share of these pairs, bool [n, n], that values and truth order equally; ties count half."""
    return float((1 + (_signs(values) * _signs(truth))[pairs].mean()) / 2)


def seeds_per_subnet(truth: np.ndarray) -> np.ndarray:
    """How many seeds each subnet has, [n]; truth [seeds, n], NaN for missing seeds."""
    return np.isfinite(truth).sum(0)


def seed_deviation(truth: np.ndarray) -> float:
    """Standard deviation between the seeds of one subnet, pooled over the subnets; truth [seeds, n], NaN for missing seeds."""
    freedom = seeds_per_subnet(truth) - 1
    return float(np.sqrt(np.nanvar(truth, 0, ddof=1) @ freedom / freedom.sum()))


def attainable_tau(truth: np.ndarray) -> float:
    """Noise ceiling: simulated Kendall tau of error-free scores with a truth as noisy as this one, [seeds, n], NaN for missing.

    The subnets' means are taken as exact accuracies, and noisy means over the same numbers of seeds are simulated around them.
    """
    noise = seed_deviation(truth) / np.sqrt(seeds_per_subnet(truth))
    return attainable_kendall(np.nanmean(truth, 0), noise, CEILING_SIMULATIONS)


def error_correlations(scores: Mapping[str, np.ndarray], truth: np.ndarray) -> tuple[float, float]:
    """Mean correlation of the errors of two runs of one method, and of two methods; an error is what the truth does not explain.

    Args:
        scores: [runs, n] of each method.
        truth: [n].

    Returns:
        NaN for either that has no pair of runs.
    """

    def normalised(values: np.ndarray) -> np.ndarray:
        return (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True)

    target = normalised(rankdata(truth))
    ranks = {name: normalised(rankdata(runs, axis=-1)) for name, runs in scores.items()}
    errors = [(name, normalised(row - (row @ target) / len(truth) * target)) for name, rows in ranks.items() for row in rows]
    within: list[float] = []
    between: list[float] = []
    for (one, first), (two, second) in itertools.combinations(errors, 2):
        (within if one == two else between).append(float(first @ second) / len(truth))
    return (float(np.mean(within)) if within else math.nan), (float(np.mean(between)) if between else math.nan)


def difference_deviation(tau: float, within: float, between: float, subnets: int, runs: int) -> float:
    """Standard deviation of the difference of two equally good methods' Kendall tau, each the mean of its runs; simulated.

    Scores are normal values: the truth, an error that both methods share, one of each method and one of each run.

    Args:
        tau: of both methods.
        within: correlation of the errors of two runs of a method.
        between: the same of two methods.
        subnets: number of candidates.
        runs: of each method.
    """
    rng, explained = np.random.default_rng(0), math.sin(math.pi * tau / 2)
    between, (first, second) = min(between, within), np.triu_indices(subnets, 1)
    differences = []
    for _ in range(SIMULATIONS):
        truth, common = rng.normal(size=(2, subnets))
        own, each = rng.normal(size=(2, 1, subnets)), rng.normal(size=(2, runs, subnets))
        error = math.sqrt(max(between, 0)) * common + math.sqrt(within - max(between, 0)) * own + math.sqrt(1 - within) * each
        scores = explained * truth + math.sqrt(1 - explained**2) * error
        alike = (scores[..., first] > scores[..., second]) == (truth[first] > truth[second])
        one, two = 2 * alike.mean((1, 2)) - 1
        differences.append(one - two)
    return float(np.std(differences))
