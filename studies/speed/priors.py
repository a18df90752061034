"""Time of the priors, and agreement of the closed-form Zen-score with Monte Carlo sampling."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np

from paddle_pgonas.config.loading import Config
from paddle_pgonas.priors.by_name import AT_INITIALISATION, PRIORS
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.correlation import pearson, spearman
from paddle_pgonas.scoring.untrained import value_of
from paddle_pgonas.space.arch import TRACK1, Arch

IMAGES = {"near": 128}
"""In a batch; else 32. NEAR needs as many positions as the widest layer has channels."""


def measure(subnets: int = 100, seed: int = 0) -> dict[str, Any]:
    """Microseconds per call of each prior on random Track 1 subnets without caching, and Zen-score's agreement.

    ``zen_mc`` samples at 112 pixels with batch 8, twice; the published runs used 224 pixels, batch 16, 32 times. Priors at
    initialisation take some of the subnets at 64 pixels.
    """
    rng = random.Random(seed)
    drawn = [TRACK1.sample(rng) for _ in range(subnets)]
    microseconds: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    for name, prior in PRIORS.items():
        archs = drawn
        if name != "zen_mc":
            archs = drawn * 20  # enough to measure microseconds
            [prior(arch, TRACK1.image_size, 1000) for arch in archs]  # fills the caches that a process fills once
        started = time.perf_counter()
        priors = [prior(arch, TRACK1.image_size, 1000) for arch in progress(archs, name, "subnets")]
        microseconds[name] = (time.perf_counter() - started) / len(archs) * 1e6
        values[name] = np.array(priors[:subnets])
    return {
        "subnets": subnets,
        "microseconds": microseconds,
        "seconds_at_initialisation": {name: _seconds(name, drawn[:10]) for name in AT_INITIALISATION},
        "spearman_zen": spearman(values["zen"], values["zen_mc"]),
        "pearson_zen": pearson(values["zen"], values["zen_mc"]),
        "speedup_zen": microseconds["zen_mc"] / microseconds["zen"],
    }


def _seconds(name: str, archs: list[Arch]) -> float:
    """Per subnet and seed, with building it, for one batch of random images of 64 pixels."""
    rng, config = np.random.default_rng(0), Config()
    count = IMAGES.get(name, 32)
    images = rng.integers(256, size=(count, 64, 64, 3), dtype=np.uint8)
    labels = rng.integers(config.model.num_classes, size=count)
    started = time.perf_counter()
    for arch in progress(archs, name, "subnets"):
        value_of(config, name, arch, 0, images, labels)
    return (time.perf_counter() - started) / len(archs)
