"""What a prior costs, and how well closed-form Zen-score agrees with sampling."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from paddle_pgonas.arch import TRACK1, Arch
from paddle_pgonas.correlation import pearson, spearman
from paddle_pgonas.priors import PRIORS


def measure(subnets: int = 100, seed: int = 0) -> dict[str, Any]:
    """Microseconds per call of each prior on random Track 1 subnets, freshly parsed, and Zen-score's agreement.

    ``zen_mc`` samples at 112 pixels with batch 8, twice; the published runs used 224 pixels, batch 16, 32 times.
    """
    rng = random.Random(seed)
    codes = [TRACK1.sample(rng).code for _ in range(subnets)]
    microseconds: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    for name, prior in PRIORS.items():
        archs = [TRACK1.parse(code) for code in codes]  # anew, as an Arch keeps its list of blocks
        if name != "zen_mc":
            [prior(arch) for arch in _many(codes[:5])]  # tables that are filled once per process
            archs = _many(codes)
        started = time.perf_counter()
        found = [prior(arch) for arch in tqdm(archs, desc=name, unit="subnet", delay=5)]
        microseconds[name] = (time.perf_counter() - started) / len(archs) * 1e6
        values[name] = np.array(found[:subnets])
    return {
        "subnets": subnets,
        "microseconds": microseconds,
        "spearman_zen": spearman(values["zen"], values["zen_mc"]),
        "pearson_zen": pearson(values["zen"], values["zen_mc"]),
        "speedup_zen": microseconds["zen_mc"] / microseconds["zen"],
    }


def _many(codes: list[str]) -> list[Arch]:
    """Enough fresh architectures to time something that takes microseconds."""
    return [TRACK1.parse(code) for _ in range(20) for code in codes]
