"""The random subnets of the published PGONAS code and of the organisers' baseline, repeated draw by draw.

Their crop sampler seeds Python's random generator with the digits of the step (counted within the epoch) and of the epoch before
each training step. So the subnets are a function of step and epoch, and depend neither on the seed nor on the process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from paddle_pgonas.methods.base import Step
from paddle_pgonas.methods.sampling import Sampler
from paddle_pgonas.space.arch import Arch, SearchSpace

IMAGE_SIZE = 224


def pgonas_sampler(space: SearchSpace) -> Sampler:
    """The subnets of a step of the published PGONAS code, after its largest and smallest one."""
    return lambda step: _subnets(partial(pgonas_subnet, space), step, sizes_chosen=2)


def baseline_sampler(space: SearchSpace) -> Sampler:
    """The subnets of a step of the organisers' baseline."""
    return lambda step: _subnets(partial(baseline_subnet, space), step)


def _subnets(subnet: Callable[[random.Random], Arch], step: Step, sizes_chosen: int = 0) -> Iterator[Arch]:
    rng = published_generator(step.index % step.steps_per_epoch, step.epoch)
    for _ in range(sizes_chosen):
        rng.choice([IMAGE_SIZE])
    while True:
        yield subnet(rng)


def published_generator(step: int, epoch: int) -> random.Random:
    """Python's generator as the crop sampler leaves it before a step (counted within the epoch): seeded, and one size chosen."""
    rng = random.Random(int(f"{step}{epoch:03d}"))
    rng.choices([IMAGE_SIZE])
    return rng


def pgonas_subnet(space: SearchSpace, rng: random.Random) -> Arch:
    """The next random architecture of the published PGONAS code.

    A width is drawn for every convolution of the full network. Of tied widths the first one is used (the stem's for stage 1, that
    of the first block's conv2 for the others). The rest, and those of unused blocks, are discarded.
    """
    rng.choice([IMAGE_SIZE])
    depths, codes = _depths(space, rng), range(1, 1 + len(space.ratios))
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


def baseline_subnet(space: SearchSpace, rng: random.Random) -> Arch:
    """The next random architecture of the organisers' baseline: no image size, and tied widths are drawn once."""
    depths, codes = _depths(space, rng), range(1, 1 + len(space.ratios))
    conv1, conv2 = [], [rng.choice(codes)]
    for stage, deepest in enumerate(space.max_depths):
        drawn = []
        for block in range(deepest):
            drawn.append(rng.choice(codes))
            if stage and not block:
                conv2.append(rng.choice(codes))
        conv1.append(tuple(drawn[: depths[stage]]))
    return space.build(tuple(conv1), tuple(conv2))


def _depths(space: SearchSpace, rng: random.Random) -> list[int]:
    return [rng.randint(space.min_depth, deepest) for deepest in space.max_depths]
