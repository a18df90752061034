"""Cost of a subnet: multiply-accumulates (MACs) and parameters, computed from its architecture."""

from __future__ import annotations

import math
import random

from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.space.arch import Arch, SearchSpace


def macs(arch: Arch, image_size: int | None = None, num_classes: int = 1000) -> int:
    """Multiply-accumulates (MACs) of convolutions and linear layer for one image; the NAS literature calls this number FLOPs."""
    return sum([layer.macs for layer in layers(arch, image_size, num_classes)])


def params(arch: Arch, num_classes: int = 1000) -> int:
    """Trainable values: convolution weights, BatchNorm weight and bias, the linear layer with its bias."""
    return sum([layer.params for layer in layers(arch, None, num_classes)])


def sample_spread(space: SearchSpace, count: int, rng: random.Random) -> list[Arch]:
    """Distinct architectures evenly spread over the logarithm of their multiply-accumulates, smallest and largest included.

    A small space may yield fewer than ``count``.

    Uniformly sampled architectures have similar costs, because the widths of many layers average out. Here a pool is sampled in
    which each architecture stays near one depth and one width, and for each step of cost the nearest of the pool is taken.
    """
    pool = {space.smallest, space.largest}
    for _ in range(1000 * count):  # a small space may not hold that many
        if len(pool) >= 100 * count:
            break
        pool.add(_draw_alike(space, rng))
    ranked = sorted(pool, key=lambda arch: (macs(arch), arch.code))
    low, high = math.log(macs(space.smallest)), math.log(macs(space.largest))
    chosen = [space.smallest, space.largest]
    left = [arch for arch in ranked if arch not in chosen]
    for step in range(1, count - 1):
        if not left:
            break
        target = low + (high - low) * step / (count - 1)
        nearest = min(left, key=lambda arch: abs(math.log(macs(arch)) - target))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda arch: (macs(arch), arch.code))[:count]


def _draw_alike(space: SearchSpace, rng: random.Random) -> Arch:
    """An architecture whose widths lie within two codes of one width, and its depths within a third of one depth."""
    codes, centre, fullness = len(space.ratios), rng.uniform(1, len(space.ratios)), rng.random()

    def code() -> int:
        return min(codes, max(1, round(centre + rng.uniform(-2, 2))))

    def depth(deepest: int) -> int:
        share = min(1.0, max(0.0, fullness + rng.uniform(-1 / 3, 1 / 3)))
        return space.min_depth + round(share * (deepest - space.min_depth))

    conv1 = tuple(tuple(code() for _ in range(depth(deepest))) for deepest in space.max_depths)
    return space.build(conv1, tuple(code() for _ in space.bases))
