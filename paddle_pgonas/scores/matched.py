"""Agreement of scores in memory with a truth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from paddle_pgonas.errors import UserError
from paddle_pgonas.scores import correlation
from paddle_pgonas.scores.correlation import Estimate
from paddle_pgonas.scores.files import LARGEST
from paddle_pgonas.space.arch import Arch

Scores: TypeAlias = Mapping[Any, float] | Sequence[float] | np.ndarray
"""Values by name, code or architecture, or values in an order."""


@dataclass(frozen=True)
class Correlation:
    """How well scores agree with a truth: each statistic with its 95 % bootstrap interval. ``print`` shows all."""

    kendall: Estimate
    spearman: Estimate
    pearson: Estimate
    count: int
    """Architectures compared."""
    left_out: int
    """Names that only one of the mappings has."""

    def __str__(self) -> str:
        left_out = f", {self.left_out:,} of one side only left out" if self.left_out else ""
        return (
            f"Kendall tau {self.kendall}, Spearman {self.spearman}, Pearson {self.pearson} "
            f"({self.count:,} architectures{left_out})"
        )


def correlate(scores: Scores, truth: Scores) -> Correlation:
    """Compare scores with a truth, both in memory: mappings, matched by key, or sequences in the same order.

    An architecture as a key stands for its code. Raises UserError for one mapping and one sequence, sequences of different
    lengths, fewer than two values in common, or a value that is no finite number.
    """
    x, y, left_out = _matched(scores, truth)
    if len(x) < 2:
        raise UserError(f"correlate: scores and truth share {len(x)} architectures; at least 2 are needed")
    found = correlation.correlate(x, y).estimates()
    return Correlation(found["kendall"], found["spearman"], found["pearson"], len(x), left_out)


def _matched(scores: Scores, truth: Scores) -> tuple[np.ndarray, np.ndarray, int]:
    """Truth and scores of the same architectures, and how many have one of the two only."""
    if isinstance(scores, Mapping) and isinstance(truth, Mapping):
        ours, theirs = _by_code(scores), _by_code(truth)
        names = [name for name in theirs if name in ours]
        left_out = len(ours) + len(theirs) - 2 * len(names)
        scores, truth = [ours[name] for name in names], [theirs[name] for name in names]
    elif isinstance(scores, Mapping) or isinstance(truth, Mapping):
        raise UserError("correlate: one of scores and truth is a mapping; give both as mappings, or both in one order")
    elif len(scores) != len(truth):
        raise UserError(f"correlate: {len(scores):,} scores, but {len(truth):,} values of the truth; give both in one order")
    else:
        left_out = 0
    return _numbers("truth", truth), _numbers("scores", scores), left_out


def _by_code(values: Mapping[Any, float]) -> dict[Hashable, float]:
    return {key.code if isinstance(key, Arch) else key: value for key, value in values.items()}


def _numbers(side: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    try:
        numbers = np.array(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not (np.abs(numbers) <= LARGEST).all():
        raise UserError(f"correlate: {side} must be finite numbers of at most {LARGEST:g}, one for each architecture")
    return numbers
