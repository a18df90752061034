"""Scoring with several supernets (few-shot NAS): each architecture is scored with the weights trained for its depths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle_pgonas.arch import Arch
from paddle_pgonas.config import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.weights import read_arrays
from paddle_pgonas.regions import Region
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.session import Session


def measure_with(
    config: Config, weights: Sequence[str | Path], archs: Sequence[Arch], folder: Path
) -> tuple[np.ndarray, list[Session]]:
    """``METRICS`` of each architecture, float64 [len(archs), 4], by the weights assigned to it, and the sessions that measured.

    One weight file scores all architectures; without any file the pretrained network does. Of several files each scores the
    architectures within the ``train.depth_ranges`` of its record that no earlier file scores.

    Raises:
        UserError: as :class:`Session`; or an architecture that no file was trained for; raised before anything is scored.
    """
    if len(weights) < 2:
        session = Session(config, weights[0] if weights else None)
        return session.measure(archs, folder), [session]
    measured, sessions = np.empty((len(archs), len(METRICS))), []
    for path, share in zip(weights, _shares(weights, archs), strict=True):
        session = Session(config, path)
        measured[share] = session.measure([archs[position] for position in share], folder)
        sessions.append(session)
    return measured, sessions


def _shares(weights: Sequence[str | Path], archs: Sequence[Arch]) -> list[list[int]]:
    """Positions of the architectures that each file scores."""
    left, shares = list(range(len(archs))), []
    for path in weights:
        region = _trained_region(path, archs[0])
        share = [position for position in left if region.within_depths(archs[position])]
        if not share:
            raise UserError(
                f"{path}: no candidate is left for the depths that these weights were trained for; leave the file out"
            )
        shares.append(share)
        left = [position for position in left if not region.within_depths(archs[position])]
    if left:
        missing = archs[left[0]]
        raise UserError(
            f"--weights: no file was trained for the depths {missing.depths} of {missing} ({len(left)} candidates in all); "
            "give the supernet of all depths as the last file"
        )
    return shares


def _trained_region(path: str | Path, arch: Arch) -> Region:
    """The depths for which the weights of a file were trained; all depths if its record does not name them."""
    # The whole file is read, not only its record, so that damage is found before hours of scoring with the other files.
    train = read_arrays(path)[1].get("config", {}).get("train", {})
    ranges = train.get("depth_ranges")
    return Region(arch.space, None, ranges and tuple((low, high) for low, high in ranges))
