"""How well one ranking agrees with another: Pearson, Kendall tau-b, Spearman, with bootstrap intervals.

Leaderboard A of the challenge shows ``100 * |Pearson|``; leaderboard B, which decides, shows Kendall tau.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

Values = np.ndarray


class Estimate(NamedTuple):
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float


def pearson(x: Values, y: Values) -> float:
    """Linear correlation; NaN if either side is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else float("nan")


def kendall(x: Values, y: Values) -> float:
    """Kendall tau-b, which corrects for ties; NaN if either side is constant."""
    return float(stats.kendalltau(x, y, variant="b").statistic)


def spearman(x: Values, y: Values) -> float:
    """Rank correlation; NaN if either side is constant."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


STATISTICS: dict[str, Callable[[Values, Values], float]] = {"pearson": pearson, "kendall": kendall, "spearman": spearman}


def resamples_for(count: int) -> int:
    """How many bootstrap resamples are affordable: 1000 for small sets, 100 for the 45,000 (whose intervals are narrow)."""
    return int(np.clip(4_000_000 // max(count, 1), 100, 1000))


def correlate(
    x: Values, y: Values, statistics: tuple[str, ...] = tuple(STATISTICS), seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """Each statistic of the pairs ``(x[i], y[i])`` with its percentile bootstrap interval, resampling the pairs.

    Resamples in which a side is constant have no correlation and are left out; if none remains the interval is NaN.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"need two equally long vectors of at least two values, got shapes {x.shape} and {y.shape}")
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(x), len(x)) for _ in range(resamples_for(len(x)))]
    tail = 50 * (1 - level)
    estimates = {}
    for name in statistics:
        function = STATISTICS[name]
        values = np.array([function(x[draw], y[draw]) for draw in draws])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [tail, 100 - tail]) if len(values) else (float("nan"), float("nan"))
        estimates[name] = Estimate(function(x, y), float(low), float(high))
    return estimates
