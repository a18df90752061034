"""Cost of a subnet: multiply-accumulates (MACs) and parameters, computed from its architecture."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.space.arch import Arch, SearchSpace


class Setting(NamedTuple):
    """What a cost depends on beside the architecture."""

    image_size: int
    """Side of the images, in pixels."""
    num_classes: int
    assumed: str = ""
    """What of these nobody told, in words; empty if all was told."""


def setting(space: SearchSpace, image_size: int | None, num_classes: int | None) -> Setting:
    """What was told; for None the space's image size and 1,000 classes, and words that say that these are assumed."""
    parts = [] if image_size else [f"images of {space.image_size} pixels, as is usual for space {space.name}"]
    parts += [] if num_classes else ["1,000 classes"]
    return Setting(image_size or space.image_size, num_classes or 1000, ", and ".join(parts))


def macs(arch: Arch, image_size: int, num_classes: int) -> int:
    """Multiply-accumulates (MACs) of convolutions and linear layer for one image; the NAS literature calls this number FLOPs."""
    return sum([layer.macs for layer in layers(arch, image_size, num_classes)])


def params(arch: Arch, num_classes: int) -> int:
    """Trainable values: convolution weights, BatchNorm weight and bias, the linear layer with its bias."""
    return sum([layer.params for layer in layers(arch, arch.space.image_size, num_classes)])  # the same for images of any side


def sample_spread(space: SearchSpace, count: int, rng: random.Random, image_size: int, num_classes: int) -> list[Arch]:
    """Distinct architectures evenly spread over the logarithm of their multiply-accumulates, smallest and largest included.

    A small space may yield fewer than ``count``.

    Uniformly sampled architectures have similar costs, because the widths of many layers average out. Here a pool is sampled in
    which each architecture stays near one depth and one width, and for each step of cost the nearest of the pool is taken.
    """

    def of_cost(arch: Arch) -> float:
        return math.log(macs(arch, image_size, num_classes))

    pool = {space.smallest, space.largest}
    for _ in range(1000 * count):  # a small space may not hold that many
        if len(pool) >= 100 * count:
            break
        pool.add(_draw_alike(space, rng))
    ranked = sorted(pool, key=lambda arch: (of_cost(arch), arch.code))
    low, high = of_cost(space.smallest), of_cost(space.largest)
    chosen = [space.smallest, space.largest]
    left = [arch for arch in ranked if arch not in chosen]
    for step in range(1, count - 1):
        if not left:
            break
        target = low + (high - low) * step / (count - 1)
        nearest = min(left, key=lambda arch: abs(of_cost(arch) - target))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda arch: (of_cost(arch), arch.code))[:count]


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
