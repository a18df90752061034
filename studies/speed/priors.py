"""Time of the priors, and agreement of the closed-form Zen-score with Monte Carlo sampling."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np

from paddle_pgonas.priors.by_name import PRIORS
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.correlation import pearson, spearman
from paddle_pgonas.space.arch import TRACK1


def measure(subnets: int = 100, seed: int = 0) -> dict[str, Any]:
    """Microseconds per call of each prior on random Track 1 subnets without caching, and Zen-score's agreement.

    ``zen_mc`` samples at 112 pixels with batch 8, twice; the published runs used 224 pixels, batch 16, 32 times.
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
        "spearman_zen": spearman(values["zen"], values["zen_mc"]),
        "pearson_zen": pearson(values["zen"], values["zen_mc"]),
        "speedup_zen": microseconds["zen_mc"] / microseconds["zen"],
    }
