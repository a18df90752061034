"""Smoothed scores: a small model of structure, fitted to the scores of a random sample of the candidates, ranks all of them.

Averaging over similar subnets removes noise, so few scored candidates suffice. The result is a predictor, though, which rule 6 of
the challenge forbids for entries.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from paddle_pgonas.config.meaning import warn
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors import cost
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.correlation import Estimate, correlate
from paddle_pgonas.space.arch import Arch, SearchSpace

TOGETHER = 500
"""A sample is scored in parts of this size, so that a larger one of the same seed reuses the scores of all whole parts."""
FOLDS = 5
PER_FEATURE = 3
"""A sample has at least so many candidates per feature."""
MOST = 10_000
"""Largest sample: time grows with its cube, memory with its square."""
TUNED_ON = 500
"""The kernel's three numbers are fitted to so many of the scores, as that takes a hundred times longer than to use them."""
AT_A_TIME = 1000
"""Candidates that are predicted together."""


class Sample(NamedTuple):
    """How many candidates are scored, and the seed of their choice and of the folds."""

    size: int
    seed: int = 0

    def positions(self, total: int) -> list[int]:
        """The candidates to score: the first ``size`` of a random order of ``total``, so a smaller sample begins a larger one."""
        return random.Random(f"sample {self.seed}").sample(range(total), total)[: self.size]


@dataclass(frozen=True)
class Smoothed:
    """Predictions of all candidates, with what tells how good they are."""

    values: np.ndarray
    """[candidates], also for the scored ones, from whose scores it removes noise."""
    features: tuple[str, ...]
    kernel: str
    """Of the Gaussian process, for standardised features and scores."""
    held_out: Estimate
    """Kendall tau of the scores with predictions by models that were fitted without them; its interval is over the sample."""
    deviation: float
    """Standard deviation of the scores."""
    error: float
    """The same of their differences to these predictions."""
    noise: float
    """The part of the deviation that the fitted kernel takes for noise: that of the images, and what structure cannot explain."""

    def record(self) -> dict[str, Any]:
        """All but the predictions, as JSON values."""
        facts = {name: value for name, value in asdict(self).items() if name != "values"}
        return facts | {"model": "Gaussian process", "held_out": self.held_out._asdict(), "folds": FOLDS}

    def __str__(self) -> str:
        tau = self.held_out
        return (
            f"held-out Kendall tau of the model with the scores {tau.value:.3f} [{tau.low:.3f}, {tau.high:.3f}]; "
            f"standard deviation of the scores {self.deviation:.3g}, of its errors {self.error:.3g}, of noise {self.noise:.3g}"
        )


def feature_names(space: SearchSpace) -> tuple[str, ...]:
    """What the columns of :func:`features` hold."""
    stages = range(1, 1 + len(space.bases))
    return (*(f"depth{stage}" for stage in stages), *(f"width{stage}" for stage in stages), "log_flops", "log_params")


def features(archs: Sequence[Arch], image_size: int, num_classes: int) -> np.ndarray:
    """Depth and mean channels of the convolutions of each stage, and the logarithms of the costs: float64 [n, 2 * stages + 2]."""
    return np.array([_features(arch, image_size, num_classes) for arch in progress(archs, "features", "subnets")])


def _features(arch: Arch, image_size: int, num_classes: int) -> list[float]:
    costs = np.log([cost.macs(arch, image_size, num_classes), cost.params(arch, num_classes)])
    return [*arch.depths, *stage_widths(arch), *costs]


def stage_widths(arch: Arch) -> list[float]:
    """Mean channels of the convolutions of each stage."""
    stages = zip(arch.space.widths, arch.conv1, arch.conv2, strict=True)
    return [(sum(widths[mid] for mid in mids) / len(mids) + widths[out]) / 2 for widths, mids, out in stages]


class Smoothing:
    """The sample of some candidates, and the model that is fitted to its scores: a Gaussian process on :func:`features`.

    Raises UserError for a sample that is too large or too small, or whose subnets have all the same features.
    """

    def __init__(self, archs: Sequence[Arch], sample: Sample, image_size: int, num_classes: int) -> None:
        self.sample, self.names = sample, feature_names(archs[0].space)
        least, most = PER_FEATURE * len(self.names), min(MOST, len(archs))
        if most < least:
            raise UserError(f"--sample needs at least {least} candidates for {len(self.names)} features, not {most}; score all")
        if not least <= sample.size <= most:
            raise UserError(f"--sample must be {least} to {most:,} here, not {sample.size:,}; leave it out to score all")
        self.positions = sample.positions(len(archs))
        """Of the candidates to score."""
        self.features = features(archs, image_size, num_classes)
        if not np.ptp(self.features[self.positions], axis=0).any():
            raise UserError("--sample: its candidates do not differ in depths, mean widths and costs; score all without it")

    def fit(self, scores: np.ndarray) -> Smoothed:
        """Fit the model to the sample's scores [N], in the order of ``positions``, and predict all candidates.

        Predictions that leave [0, 1], where ``acc`` must lie, are brought to the range of the scores. Raises UserError for scores
        that are all equal.
        """
        from sklearn.exceptions import ConvergenceWarning  # here, as it takes a second
        from sklearn.model_selection import KFold, cross_val_predict

        if np.ptp(scores) == 0:
            raise UserError(f"--sample: all {len(scores)} scores are {scores[0]:g}, so no model can be fitted")
        given, folds = self.features[self.positions], KFold(FOLDS, shuffle=True, random_state=self.sample.seed % 2**32)
        with warnings.catch_warnings():  # a best value at the end of its range is no problem
            warnings.simplefilter("ignore", ConvergenceWarning)
            kernel = gaussian_process().fit(given[:TUNED_ON], scores[:TUNED_ON])[-1].kernel_
        held_out = cross_val_predict(gaussian_process(kernel), given, scores, cv=folds)
        deviation, error = float(scores.std()), float((scores - held_out).std())
        if error >= deviation:
            warn("--sample: the model predicts held-out scores no better than their mean; score more candidates or images")
        model, starts = gaussian_process(kernel).fit(given, scores), range(0, len(self.features), AT_A_TIME)
        predicted = np.concatenate([model.predict(self.features[start : start + AT_A_TIME]) for start in starts])
        return Smoothed(
            _within_unit(predicted, scores),
            self.names,
            str(kernel),
            correlate(scores, held_out).estimates()["kendall"],
            deviation,
            error,
            float(scores[:TUNED_ON].std() * np.sqrt(kernel.k2.noise_level)),
        )


def gaussian_process(kernel: Any = None) -> Any:
    """A Gaussian process on standardised features, with this kernel, or one that its :meth:`fit` chooses by likelihood."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    free = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(3.0, (0.3, 100)) + WhiteKernel(0.3, (1e-4, 10))
    optimizer = None if kernel else "fmin_l_bfgs_b"
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel or free, optimizer=optimizer, normalize_y=True))


def _within_unit(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if values.min() >= 0 and values.max() <= 1:
        return values
    return scores.min() + np.ptp(scores) * (values - values.min()) / (np.ptp(values) or 1)
