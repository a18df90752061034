"""Scoring from Python: a session opens a supernet's weights and the images once and scores any architectures.

With several supernets (few-shot NAS) each architecture is scored with the weights that were trained for its depths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from paddle_pgonas.config.loading import Config
from paddle_pgonas.config.meaning import SCORED, check_record, trained_part, warn, warn_untrained
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.data.images import JobImages, open_images
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.records import Record
from paddle_pgonas.nn.building import build_untrained
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights, read_arrays, trained_alone
from paddle_pgonas.progress import say_once
from paddle_pgonas.runtime import compute_dtype, device_name, select_device
from paddle_pgonas.scores.correlation import reached_by_guessing
from paddle_pgonas.scoring import scorer
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.space.arch import Arch


class Session:
    """The configured images (those of the session ``beside``, if there is one) and a supernet with the weights of a file.

    Without a file it is the initial supernet of a training: ``model.pretrained``, reordered if configured. Stand-alone weights
    are the slices of their subnet, the only one that they can measure. Raises UserError for weights or images that do not fit
    the configuration or each other, or neither a file nor ``model.pretrained``.
    """

    def __init__(self, config: Config, weights: str | Path | None, beside: Session | None = None) -> None:
        self.device = select_device(config.device, config.exhaustive_search)
        compute_dtype(config.score.amp, "score.amp")  # before weights and images are read
        self.sections, space, model = (config.data, config.score), config.search_space, config.model
        self.opened: JobImages = open_images(config) if beside is None else beside.opened
        self.file = str(weights or model.pretrained)
        source, bn = self.opened.val_source, config.score.bn
        images = f"{len(source.labels):,} images of {len(np.unique(source.labels)):,} classes from {source.where}"
        first = f", after calibrating on {config.score.calibration_images:,}" if bn == "calibrated" else f", score.bn={bn}"
        say_once(f"scoring on {images}{first}, on {device_name()}", error=False)
        self.trained: Record
        """The record of the weights."""

        check = partial(check_record, SCORED, config, source.classes)
        if weights is None:
            self.net, record = build_untrained(
                space, model.num_classes, model.activation, pretrained=model.pretrained, reorder=model.reorder, check=check
            )
            self.trained = record | {"step": 0}
        else:
            self.net = Supernet(space, model.num_classes, model.activation)
            self.trained = load_weights(self.net, weights, subnets=True, check=check)
        self.images: DecodedImages = self.opened.for_scoring(config.score) if beside is None else beside.images

    def measure(self, archs: Sequence[Arch], folder: Path | None = None) -> np.ndarray:
        """``METRICS`` of each architecture, float64 [len(archs), 4]; finished chunks are kept in ``folder`` if one is given."""
        self.require(archs)
        return scorer.score(self.net, archs, self.images, *self.sections, folder)

    def require(self, archs: Sequence[Arch]) -> None:
        """Raise UserError for an architecture without weights: any other than that of stand-alone weights of a part."""
        code = trained_alone(self.trained)
        others = [arch for arch in archs if code not in (None, arch.code, arch.space.largest.code)]
        if others:
            raise UserError(
                f"{self.file}: holds the stand-alone weights of subnet {code}, not of {others[0]} ({len(others):,} in all); "
                "give a supernet's weights, or score that subnet alone (--only NAME)"
            )

    def warn_guessing(self, best: float) -> None:
        """Say on stderr if the ``best`` top-1 of all subnets is one that guessing the most frequent class may reach."""
        labels = self.images.labels
        chance, most = reached_by_guessing(labels)
        if best <= most:
            warn(
                f"{self.file}: no subnet is better than guessing: the best top-1 is {best:.4f} on {len(labels):,} images, "
                f"where guessing reaches {chance:.4f}, by luck up to {most:.4f}"
            )

    def identity(self) -> dict[str, object]:
        """Everything that the measured values depend on in addition to the architecture."""
        return scorer.identity(self.net, self.images, *self.sections)


def metric_values(measured: np.ndarray, metric: str) -> np.ndarray:
    """The column of ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``) of measured values [N, 4]."""
    if metric == "likelihood":
        return np.exp(-measured[:, METRICS.index("loss")])
    return measured[:, METRICS.index(metric)]


def score(config: Config, weights: str | Path, archs: Sequence[Arch | str], metric: str = "top1") -> np.ndarray:
    """Score architectures, or their codes, with a supernet's weights on the configured images: float64 [len(archs)].

    ``metric`` is ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``).
    """
    parsed = [config.search_space.parse(arch) if isinstance(arch, str) else arch for arch in archs]
    return metric_values(Session(config, weights).measure(parsed), metric)


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
        session, chosen = Session(config, path, sessions[0] if sessions else None), [archs[position] for position in share]
        session.require(chosen)
        if path is not None:
            warn_untrained(path, session.trained, chosen)
        step = together or len(share)
        for start in range(0, len(share), step):
            measured[share[start : start + step]] = session.measure(chosen[start : start + step], folder)
        sessions.append(session)
    return measured, sessions


def _shares(weights: Sequence[str | Path], archs: Sequence[Arch]) -> list[list[int]]:
    """Positions of the architectures that each file scores."""
    left, shares = list(range(len(archs))), []
    for path in weights:
        # The whole file is read, not only its record, so that damage is found before hours of scoring with the other files.
        trained = trained_part(read_arrays(path)[1], archs[0].space)
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
