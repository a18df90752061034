"""Scoring from Python: a session opens a supernet's weights and the images once and scores any architectures.

With several supernets (few-shot NAS) each architecture is scored with the weights that were trained for its depths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle_pgonas.config.loading import Config
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.data.images import open_images
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.records import Record
from paddle_pgonas.nn.building import build_untrained
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights, read_arrays
from paddle_pgonas.runtime import select_device
from paddle_pgonas.scoring import scorer
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.subspace import Subspace


class Session:
    """The configured images (``images``, if they are open already) and a supernet with the weights of a file.

    Without a file it is the initial supernet of a training: ``model.pretrained``, reordered if configured. Raises UserError for
    weights or images that do not fit the configuration, or neither a file nor ``model.pretrained``.
    """

    def __init__(self, config: Config, weights: str | Path | None, images: DecodedImages | None = None) -> None:
        self.device = select_device(config.device)
        self.sections, space, model = (config.data, config.score), config.search_space, config.model
        self.trained: Record = {"step": 0}
        """The record of the weights."""
        if weights is None:
            self.net = build_untrained(
                space, model.num_classes, model.activation, pretrained=model.pretrained, reorder=model.reorder
            )
        else:
            self.net = Supernet(space, model.num_classes, model.activation)
            self.trained = load_weights(self.net, weights)
        self.images = open_images(config).for_scoring(config.score) if images is None else images

    def measure(self, archs: Sequence[Arch], folder: Path | None = None) -> np.ndarray:
        """``METRICS`` of each architecture, float64 [len(archs), 4]; finished chunks are kept in ``folder`` if one is given."""
        return scorer.score(self.net, archs, self.images, *self.sections, folder)

    def identity(self) -> dict[str, object]:
        """Everything that the measured values depend on in addition to the architecture."""
        return scorer.identity(self.net, self.images, *self.sections)


def metric_values(measured: np.ndarray, metric: str) -> np.ndarray:
    """The column of ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``) of measured values [N, 4]."""
    if metric == "likelihood":
        return np.exp(-measured[:, METRICS.index("loss")])
    return measured[:, METRICS.index(metric)]


def score(config: Config, weights: str | Path, archs: Sequence[Arch], metric: str = "top1") -> np.ndarray:
    """Score architectures with a supernet's weights on the configured images: float64 [len(archs)].

    ``metric`` is ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``).
    """
    return metric_values(Session(config, weights).measure(archs), metric)


def measure_with(
    config: Config, weights: Sequence[str | Path], archs: Sequence[Arch], folder: Path, together: int | None = None
) -> tuple[np.ndarray, list[Session]]:
    """``METRICS`` of each architecture, float64 [len(archs), 4], by the weights assigned to it, and the sessions that measured.

    One weight file scores all architectures; without any file the pretrained network does. Of several files each scores the
    architectures within the ``train.depth_ranges`` of its record that no earlier file scores. With ``together`` a file scores so
    many at a time, in their order, so that lists that begin alike share what is kept in ``folder``. Raises UserError as
    :class:`Session`, and, before anything is scored, for an architecture that no file was trained for.
    """
    shares = _shares(weights, archs) if len(weights) > 1 else [list(range(len(archs)))]
    files: list[str | Path | None] = list(weights) or [None]
    measured, sessions = np.empty((len(archs), len(METRICS))), list[Session]()
    for path, share in zip(files, shares, strict=True):
        session = Session(config, path, sessions[0].images if sessions else None)
        step = together or len(share)
        for start in range(0, len(share), step):
            part = share[start : start + step]
            measured[part] = session.measure([archs[position] for position in part], folder)
        sessions.append(session)
    return measured, sessions


def _shares(weights: Sequence[str | Path], archs: Sequence[Arch]) -> list[list[int]]:
    """Positions of the architectures that each file scores."""
    left, shares = list(range(len(archs))), []
    for path in weights:
        # The whole file is read, not only its record, so that damage is found before hours of scoring with the other files.
        ranges = read_arrays(path)[1].get("config", {}).get("train", {}).get("depth_ranges")
        trained = Subspace(archs[0].space, None, ranges and tuple((low, high) for low, high in ranges))  # without: of all depths
        share = [position for position in left if trained.within_depths(archs[position])]
        if not share:
            raise UserError(
                f"{path}: no candidate is left for the depths that these weights were trained for; leave the file out"
            )
        shares.append(share)
        left = sorted(set(left).difference(share))
    if left:
        missing = archs[left[0]]
        raise UserError(
            f"--weights: no file was trained for the depths {missing.depths} of {missing} ({len(left)} candidates in all); "
            "give the supernet of all depths as the last file"
        )
    return shares
