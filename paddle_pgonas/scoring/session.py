"""Scoring from Python: a supernet's weights and the images are opened once, then any architectures are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle_pgonas.arch import Arch
from paddle_pgonas.config import Config
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights
from paddle_pgonas.runtime import select_device
from paddle_pgonas.scoring import scorer
from paddle_pgonas.scoring.scorer import METRICS


class Session:
    """The configured images and a supernet with the weights of a file.

    Raises:
        UserError: weights or images that do not fit the configuration.
    """

    def __init__(self, config: Config, weights: str | Path) -> None:
        self.device = select_device(config.device)
        self.config = config
        self.net = Supernet(config.search_space, config.model.num_classes, config.model.activation)
        self.trained = load_weights(self.net, weights)
        """The record of the weights."""
        self.data = scorer.scoring_set(config)

    def measure(self, archs: Sequence[Arch], folder: Path | None = None) -> np.ndarray:
        """``METRICS`` (top-1, top-5, probability, loss) of each architecture: float64 [len(archs), 4].

        Args:
            folder: as in :func:`paddle_pgonas.scoring.scorer.score`.
        """
        return scorer.score(self.net, archs, self.data, self.config, folder)

    def identity(self) -> dict[str, object]:
        """Everything that the measured values depend on beside the architecture."""
        return scorer.identity(self.net, self.data, self.config)


def metric_values(measured: np.ndarray, metric: str) -> np.ndarray:
    """The column of ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``) of what was measured [N, 4]."""
    if metric == "likelihood":
        return np.exp(-measured[:, METRICS.index("loss")])
    return measured[:, METRICS.index(metric)]


def score(config: Config, weights: str | Path, archs: Sequence[Arch], metric: str = "top1") -> np.ndarray:
    """Score architectures with a supernet's weights on the configured images: float64 [len(archs)].

    Args:
        metric: ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``).
    """
    return metric_values(Session(config, weights).measure(archs), metric)
