"""The random subnets of the published code and of the organisers' baseline: those that they trained at every step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.regions import Region

IMAGE_SIZE = 224


@dataclass(frozen=True)
class PublishedRegion(Region):
    """The whole space, sampled in the order of the published code (or of the baseline)."""

    draw: Callable[[SearchSpace, random.Random], Arch] | None = None

    def sample(self, rng: random.Random) -> Arch:
        """The next architecture of the published stream."""
        assert self.draw is not None
        return self.draw(self.space, rng)


def published_draws(space: SearchSpace, strategy: str, step_in_epoch: int, epoch: int) -> tuple[random.Random, Region]:
    """Generator and region of a step (epoch and step from 0), after the largest and the smallest subnet of a sandwich."""
    rng = published_generator(step_in_epoch, epoch)
    if strategy == "uniform":
        return rng, PublishedRegion(space, draw=draw_published_baseline)
    for _ in ("largest", "smallest"):
        rng.choice([IMAGE_SIZE])
    return rng, PublishedRegion(space, draw=draw_published_pgonas)


def published_generator(step: int, epoch: int) -> random.Random:
    """Python's random generator in the state that the published code's crop sampler gives it before each training step.

    It is seeded with the digits of the step (counted within the epoch) and of the epoch, then one image size is chosen from a
    list of one. So the published subnets are a function of step and epoch and do not depend on the seed.
    """
    rng = random.Random(int(f"{step}{epoch:03d}"))
    rng.choices([IMAGE_SIZE])
    return rng


def draw_published_pgonas(space: SearchSpace, rng: random.Random) -> Arch:
    """The next random architecture of the published PGONAS code.

    A width is drawn for every convolution of the full network. Of tied widths the first one is used (the stem's for stage 1, that
    of the first block's conv2 for the others). The rest, and those of unused blocks, are discarded.
    """
    rng.choice([IMAGE_SIZE])
    depths, codes = _published_depths(space, rng), range(1, 1 + len(space.ratios))
    conv1, conv2 = [], [rng.choice(codes)]
    for stage, deepest in enumerate(space.max_depths):
        drawn = []
        for block in range(deepest):
            drawn += [rng.choice(codes), rng.choice(codes)]
            if stage and not block:
                rng.choice(codes)  # the shortcut's convolution
        conv1.append(tuple(drawn[: 2 * depths[stage] : 2]))
        conv2 += [drawn[1]] if stage else []
    return space.build(tuple(conv1), tuple(conv2))


def draw_published_baseline(space: SearchSpace, rng: random.Random) -> Arch:
    """The next random architecture of the organisers' baseline: no image size, and tied widths are drawn once."""
    depths, codes = _published_depths(space, rng), range(1, 1 + len(space.ratios))
    conv1, conv2 = [], [rng.choice(codes)]
    for stage, deepest in enumerate(space.max_depths):
        drawn = []
        for block in range(deepest):
            drawn.append(rng.choice(codes))
            if stage and not block:
                conv2.append(rng.choice(codes))
        conv1.append(tuple(drawn[: depths[stage]]))
    return space.build(tuple(conv1), tuple(conv2))


def _published_depths(space: SearchSpace, rng: random.Random) -> list[int]:
    return [rng.randint(space.min_depth, deepest) for deepest in space.max_depths]
