"""What a subnet costs: multiply-accumulates and parameters, layer by layer, from its architecture alone."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from paddle_pgonas.arch import Arch, SearchSpace


class Layer(NamedTuple):
    """One weight layer: its name in the network, channels in and out, kernel side and output side (1 for the linear layer)."""

    name: str
    c_in: int
    c_out: int
    kernel: int
    side: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.c_in * self.c_out * self.kernel**2 * self.side**2


def stem_sides(arch: Arch, image_size: int) -> tuple[int, int]:
    """Side of the feature map behind the stem's convolution, and behind its pool (equal if there is none)."""
    space = arch.space
    side = -(-image_size // space.stem_stride)
    return side, -(-side // 2) if space.stem_pool else side


def layers(arch: Arch, image_size: int | None = None, num_classes: int = 1000) -> list[Layer]:
    """All convolutions and the linear layer in the order of computation. ``image_size`` defaults to the space's."""
    conv_side, side = stem_sides(arch, image_size or arch.space.image_size)
    found = [Layer("blocks.0.conv", 3, arch.stem_width, arch.space.stem_kernel, conv_side)]
    for index, c_in, c_mid, c_out, stride in arch.blocks:
        if stride == 2:
            side = -(-side // 2)
        found.append(Layer(f"blocks.{index}.conv1", c_in, c_mid, 3, side))
        found.append(Layer(f"blocks.{index}.conv2", c_mid, c_out, 3, side))
        if stride == 2:
            found.append(Layer(f"blocks.{index}.downsample.0", c_in, c_out, 1, side))
    found.append(Layer(f"blocks.{arch.space.first_blocks[-1]}.fc", arch.out_width, num_classes, 1, 1))
    return found


def macs(arch: Arch, image_size: int | None = None, num_classes: int = 1000) -> int:
    """Multiply-accumulates of one image through convolutions and linear layer (what the field calls FLOPs).

    The sum of ``layer.macs`` over :func:`layers`, without making the list: the rank loss asks for it at every step.
    """
    conv_side, side = stem_sides(arch, image_size or arch.space.image_size)
    total = 3 * arch.stem_width * (arch.space.stem_kernel * conv_side) ** 2 + arch.out_width * num_classes
    for _, c_in, c_mid, c_out, stride in arch.blocks:
        block = 9 * c_mid * (c_in + c_out)
        if stride == 2:
            side = -(-side // 2)
            block += c_in * c_out
        total += block * side * side
    return total


def params(arch: Arch, num_classes: int = 1000) -> int:
    """Trainable values: convolution weights, BatchNorm weight and bias, the linear layer with its bias."""
    total = arch.stem_width * (3 * arch.space.stem_kernel**2 + 2) + (arch.out_width + 1) * num_classes
    for _, c_in, c_mid, c_out, stride in arch.blocks:
        total += 9 * c_mid * (c_in + c_out) + 2 * (c_mid + c_out)
        if stride == 2:
            total += c_out * (c_in + 2)
    return total


def sample_spread(space: SearchSpace, count: int, rng: random.Random) -> list[Arch]:
    """Distinct architectures evenly spread over the logarithm of their multiply-accumulates, smallest and largest included.

    Uniform draws all cost about the same, because the widths of many layers average out. These come from a pool in which each
    architecture keeps near a depth and a width of its own; of the pool, the one next to each step of cost is taken.
    """
    pool = {space.smallest, space.largest}
    while len(pool) < 100 * count:
        pool.add(_draw_alike(space, rng))
    ranked = sorted(pool, key=lambda arch: (macs(arch), arch.code))
    low, high = math.log(macs(space.smallest)), math.log(macs(space.largest))
    chosen = [space.smallest, space.largest]
    left = [arch for arch in ranked if arch not in chosen]
    for step in range(1, count - 1):
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
