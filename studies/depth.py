"""What a truth makes of depth and width: coefficients of linear models, and who wins among subnets of equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from paddle_pgonas.errors import UserError
from paddle_pgonas.scores.correlation import Estimate
from paddle_pgonas.scoring.smoothing import stage_widths
from paddle_pgonas.space.arch import Arch
from studies.intervals import cost_ratios, draws

EQUAL = 1.15
"""Two subnets cost the same if their multiply-accumulates are within this factor."""
TINY = 1e-6
"""A standardised variable with a smaller deviation in a resample is the same for all of its subnets, but for rounding."""
COLUMNS = ("blocks", "log FLOPs", "log parameters")


class Coefficient(NamedTuple):
    """Of a linear model whose variables are all standardised."""

    value: float
    error: float
    """Standard error of least squares."""
    low: float
    """95 % interval, from resamples of the subnets."""
    high: float


class Depth(NamedTuple):
    """What :func:`depth` finds."""

    coefficients: dict[str, Coefficient]
    """By the name of the column."""
    wins: Estimate
    """Share of the pairs of equal cost and different depth in which the deeper subnet is more accurate; a tie counts half."""
    pairs: int


def depth(truth: np.ndarray, blocks: np.ndarray, macs: np.ndarray, params: np.ndarray) -> Depth:
    """Accuracy as a linear model of :data:`COLUMNS`, and pairs of equal cost; all arguments [subnets].

    Raises UserError if no two of different depth cost the same.
    """
    wins = _wins(truth, blocks, macs)
    columns = dict(zip(COLUMNS, (blocks, np.log(macs), np.log(params)), strict=True))
    return Depth(coefficients(truth, columns), *wins)


def structure(truth: np.ndarray, archs: Sequence[Arch]) -> dict[str, Coefficient]:
    """Accuracy [subnets] as a linear model of each stage's blocks and mean width, without the costs.

    What is the same in all subnets has no coefficient.
    """
    depths, widths = np.array([arch.depths for arch in archs]).T, np.array([stage_widths(arch) for arch in archs]).T
    columns = {f"blocks of stage {number}": of for number, of in enumerate(depths, start=1)}
    columns |= {f"width of stage {number}": of for number, of in enumerate(widths, start=1)}
    return coefficients(truth, {name: of for name, of in columns.items() if np.ptp(of)})


def coefficients(truth: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, Coefficient]:
    """Coefficients by column of a linear model of the truth; all values are [subnets]."""
    inputs = np.stack(list(columns.values()), 1).astype(float)
    values, errors = _fit(truth, inputs)
    low, high = np.percentile(_resampled(truth, inputs), [2.5, 97.5], axis=0)
    numbers = (map(float, of) for of in zip(values, errors, low, high, strict=True))
    return {name: Coefficient(*of) for name, of in zip(columns, numbers, strict=True)}


def _fit(truth: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of least squares with standardised variables, and their standard errors."""
    target, inputs = ((part - part.mean(0)) / part.std(0) for part in (truth, columns))
    inverse = np.linalg.pinv(inputs.T @ inputs)
    found = inverse @ inputs.T @ target
    noise = ((target - inputs @ found) ** 2).sum() / max(len(target) - inputs.shape[1] - 1, 1)
    return found, np.sqrt(noise * np.diag(inverse))


def _resampled(truth: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Coefficients of :func:`_fit` for every resample of the subnets in which all variables differ, [resamples, variables]."""
    together = np.column_stack([inputs, truth])
    together = (together - together.mean(0)) / together.std(0)
    shares = draws(len(truth))[1:] / len(truth)
    means = shares @ together
    covariance = np.einsum("rn,ni,nj->rij", shares, together, together, optimize=True) - means[:, :, None] * means[:, None, :]
    deviations = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).clip(0))
    differ = (deviations > TINY).all(1)
    correlations = covariance[differ] / (deviations[differ, :, None] * deviations[differ, None, :])
    return (np.linalg.pinv(correlations[:, :-1, :-1]) @ correlations[:, :-1, -1:])[..., 0]


def _wins(truth: np.ndarray, blocks: np.ndarray, macs: np.ndarray) -> tuple[Estimate, int]:
    """The share of pairs that the deeper subnet wins, with its interval, and the number of pairs."""
    deeper = np.sign(blocks[:, None] - blocks) * (cost_ratios(macs) < EQUAL)
    won, times = deeper * np.sign(truth[:, None] - truth), draws(len(truth))

    def weigh(signs: np.ndarray) -> np.ndarray:
        return ((times @ signs) * times).sum(1)

    pairs = weigh(deeper**2)
    if pairs[0] == 0:
        raise UserError(f"none of the truth's {len(truth)} subnets differs in depth from one within {EQUAL} times its cost")
    shares = (1 + weigh(won)[pairs > 0] / pairs[pairs > 0]) / 2
    low, high = np.percentile(shares[1:], [2.5, 97.5])
    return Estimate(float(shares[0]), float(low), float(high)), int(pairs[0]) // 2
