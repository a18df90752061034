"""Agreement of two rankings: five statistics with bootstrap intervals and paired differences.

Leaderboard A of the challenge shows ``100 * |Pearson|``; leaderboard B, which decides, shows Kendall tau. Both weigh all
architectures equally; ``kendall_top`` and ``precision_at_k`` measure the top of the ranking. In every function ``x`` is the
reference (the truth) and ``y`` the file's values; the order of the pairs does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

STATISTICS = ("pearson", "kendall", "spearman", "kendall_top", "precision_at_k")
LEAST = 1e-150
"""Largest differences whose squares can be summed without overflow."""
LEVEL = 0.95
"""Coverage of the intervals."""
TOP_SHARE = 0.1
"""``kendall_top`` uses this share of the architectures."""
TOP_K = 100
"""``precision_at_k`` uses this number of architectures, in small sets a tenth of them."""


class Estimate(NamedTuple):
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if math.isfinite(self.value) else "undefined"


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation; NaN if either side is constant, or varies so little that squares vanish."""
    return float(np.corrcoef(x, y)[0, 1]) if min(np.ptp(x), np.ptp(y)) > LEAST else math.nan


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall tau-b, which corrects for ties; NaN if either side is constant."""
    if len(x) < 2:
        return math.nan
    # SciPy sorts its second argument first, which is already in order after resampling. It also computes a p-value, which is not
    # used: the asymptotic method is the fastest, but it is not defined for two values.
    return float(stats.kendalltau(y, x, method="asymptotic" if len(x) > 2 else "auto").statistic)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation, ties having their mean rank; NaN if either side is constant."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


def kendall_top(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall tau-b among the truth's best tenth, at least two; ties with the last of these are included."""
    count = max(2, math.ceil(TOP_SHARE * len(x)))
    best = x >= np.partition(x, -count)[-count]
    return kendall(x[best], y[best])


def precision_at_k(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Share of the truth's best k among the file's best k: the mean over all ways to break ties, so k / n for a constant file."""
    return float(_among_best(x, k) @ _among_best(y, k)) / k


def reached_by_guessing(labels: np.ndarray) -> tuple[float, float]:
    """Accuracy of guessing the most frequent of these labels, and what it may reach on so many images (four deviations more)."""
    chance = float(np.bincount(labels).max()) / len(labels)
    return chance, chance + 4 * math.sqrt(chance * (1 - chance) / len(labels))


def default_k(count: int) -> int:
    """The k of ``precision_at_k``: 100, in sets of fewer than 1000 a tenth of them (at least 1)."""
    return min(TOP_K, max(1, count // 10))


def resamples_for(count: int) -> int:
    """Number of bootstrap resamples: 1000 for small sets, 100 for the 45,000 (whose intervals are narrow), to limit the time."""
    return int(np.clip(4_500_000 // max(count, 1), 100, 1000))


def attainable_kendall(x: np.ndarray, std_error: float | np.ndarray, resamples: int = 1000) -> float:
    """Kendall tau that error-free scores would have with a truth of these standard errors; simulated.

    np.ndarray are drawn around the truth's, which are spread more widely than the exact ones, so the result is somewhat too high.
    """
    rng = np.random.default_rng(0)
    return float(np.mean([kendall(x, x + rng.normal(0, std_error, len(x))) for _ in range(resamples)]))


@dataclass(frozen=True)
class Agreement:
    """The statistics of one file against the reference, and their values in every bootstrap resample."""

    values: dict[str, float]
    resampled: dict[str, np.ndarray]

    def estimates(self) -> dict[str, Estimate]:
        """Each statistic with its interval."""
        return {name: _estimate(self.values[name], self.resampled[name]) for name in STATISTICS}

    def minus(self, other: Agreement) -> dict[str, Estimate]:
        """Each statistic's difference to another file's, of the same architectures against the same reference.

        Both use the same resamples, so common variation cancels. A difference is significant if its interval excludes 0.
        """
        return {
            name: _estimate(self.values[name] - other.values[name], self.resampled[name] - other.resampled[name])
            for name in STATISTICS
        }


def correlate(x: np.ndarray, y: np.ndarray, k: int | None = None, seed: int = 0) -> Agreement:
    """All statistics of the pairs ``(x[i], y[i])``, and of :func:`resamples_for` resamples of these pairs.

    The draws depend on the seed and on the order of ``x`` alone, so files given with the same ``x`` share them.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"need two equally long vectors of at least two values, got shapes {x.shape} and {y.shape}")
    k = default_k(len(x)) if k is None else k
    if not 1 <= k <= len(x):
        raise ValueError(f"k must be 1 to {len(x)}, not {k}")
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    x_ranks, y_ranks = _dense_ranks(x), _dense_ranks(y)
    drawn = [_statistics(x[draw], y[draw], x_ranks[draw], y_ranks[draw], k) for draw in _draws(len(x), seed)]
    resampled = {name: np.array([values[name] for values in drawn]) for name in STATISTICS}
    return Agreement(_statistics(x, y, x_ranks, y_ranks, k), resampled)


def _statistics(x: np.ndarray, y: np.ndarray, x_ranks: np.ndarray, y_ranks: np.ndarray, k: int) -> dict[str, float]:
    """All statistics except Pearson use only the order, and small integers are faster to sort than floats."""
    return {
        "pearson": pearson(x, y),
        "kendall": kendall(x_ranks, y_ranks),
        "spearman": spearman(x_ranks, y_ranks),
        "kendall_top": kendall_top(x_ranks, y_ranks),
        "precision_at_k": precision_at_k(x_ranks, y_ranks, k),
    }


def _draws(count: int, seed: int) -> Iterator[np.ndarray]:
    """Indices drawn with replacement, in ascending order, so that sorted data stay sorted."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples_for(count)):
        times = np.bincount(rng.integers(0, count, count, dtype=np.int32), minlength=count)
        yield np.repeat(np.arange(count), times)


def _dense_ranks(values: np.ndarray) -> np.ndarray:
    """1 for the least value, 2 for the next greater one, and so on, in the smallest type that holds them."""
    return stats.rankdata(values, "dense").astype(np.min_scalar_type(len(values)))


def _among_best(values: np.ndarray, k: int) -> np.ndarray:
    """Each value's share of a place among the best k: 1 above the k-th best value, 0 below, the rest for its equals."""
    border = np.partition(values, -k)[-k]
    above, tied = values > border, values == border
    return above + tied * ((k - above.sum()) / tied.sum())


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    """Percentile interval. Resamples with a constant side have no correlation and are left out."""
    defined = resampled[np.isfinite(resampled)]
    if not math.isfinite(value) or not len(defined):
        return Estimate(value, math.nan, math.nan)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))
