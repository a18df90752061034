"""Which random subnets a step draws. Every draw comes from the step's own generator."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.config import Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors import Prior

DEPTH_PHASES, WIDTH_PHASES = 3, 6
IMAGE_SIZE = 224

Sample = Callable[[SearchSpace, random.Random], Arch]
"""Draws one random architecture from the step's generator."""


def step_draws(train: Train, seed: int, step: int, steps_per_epoch: int) -> tuple[random.Random, Sample]:
    """The generator of a step (counted from 0 over all epochs), and what draws random architectures from it (``train.draws``)."""
    if train.draws == "seed":
        return random.Random(f"subnets {seed} {step}"), SearchSpace.sample
    epoch, step_in_epoch = divmod(step, steps_per_epoch)
    rng = published_generator(step_in_epoch, epoch)
    if train.strategy == "uniform":
        return rng, draw_published_baseline
    for _ in ("largest", "smallest"):
        rng.choice([IMAGE_SIZE])
    return rng, draw_published_pgonas


def draw_fair(space: SearchSpace, rng: random.Random, count: int) -> list[Arch]:
    """Architectures that share no choice (FairNAS): per depth and width, options without replacement.

    With more architectures than options a new round of options begins.
    """

    def options(low: int, high: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            found += rng.sample(range(low, high + 1), high + 1 - low)
        return found[:count]

    codes = len(space.ratios)
    depths = [options(space.min_depth, deepest) for deepest in space.max_depths]
    conv2 = [options(1, codes) for _ in space.bases]
    conv1 = [[options(1, codes) for _ in range(deepest)] for deepest in space.max_depths]
    archs = []
    for i in range(count):
        stages = zip(conv1, depths, strict=True)
        archs.append(space.build(tuple(tuple(mid[i] for mid in mids[: depth[i]]) for mids, depth in stages),
                                 tuple(out[i] for out in conv2)))  # fmt: skip
    return archs


def draw_progressive(space: SearchSpace, rng: random.Random, progress: float) -> Arch:
    """Progressive shrinking (once-for-all): three phases that admit ever shallower subnets, then six for ever narrower ones.

    Args:
        progress: share of the training that is over, 0 to 1; each phase lasts a ninth.
    """
    phase = min(int(progress * (DEPTH_PHASES + WIDTH_PHASES)), DEPTH_PHASES + WIDTH_PHASES - 1)
    opened = min(phase + 1, DEPTH_PHASES) / DEPTH_PHASES
    shallowest = tuple(deepest - math.ceil(opened * (deepest - space.min_depth)) for deepest in space.max_depths)
    narrowest = 1 if phase < DEPTH_PHASES else 1 + math.ceil((phase - DEPTH_PHASES + 1) / WIDTH_PHASES * (len(space.ratios) - 1))
    return space.sample(rng, (narrowest,) * len(space.bases), shallowest)


def published_generator(step: int, epoch: int) -> random.Random:
    """Python's generator as the published code's crop sampler leaves it before each training step.

    It is seeded with the digits of the step (counted within the epoch) and of the epoch, then one image size is chosen from a
    list of one. So the published subnets are a function of step and epoch, whatever the seed.
    """
    rng = random.Random(int(f"{step}{epoch:03d}"))
    rng.choices([IMAGE_SIZE])
    return rng


def draw_published_pgonas(space: SearchSpace, rng: random.Random) -> Arch:
    """The next random architecture of the published PGONAS code.

    Every convolution of the full network draws a width. Of tied widths the first drawn counts (the stem's for stage 1, that of
    the first block's conv2 for the others), the rest, like those of blocks that the depth leaves out, are dropped.
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


def draw_pair(space: SearchSpace, rng: random.Random, distance: int, sample: Sample = SearchSpace.sample) -> tuple[Arch, Arch]:
    """Two random architectures whose codes differ in at least ``distance`` digits, the second redrawn until they do.

    Raises:
        UserError: a thousand draws did not find one.
    """
    first = sample(space, rng)
    for _ in range(1000):
        second = sample(space, rng)
        if first.distance(second) >= distance:
            return first, second
    raise UserError(f"train.pair_distance: random codes of space {space.name} hardly ever differ in {distance} digits; lower it")


def draw_ordered_pair(
    space: SearchSpace, rng: random.Random, distance: int, prior: Prior, ratio: float, sample: Sample = SearchSpace.sample
) -> tuple[Arch, Arch]:
    """A pair as :func:`draw_pair` gives it, redrawn until the larger prior is at least ``ratio`` times the smaller.

    Not the paper's: random subnets are mostly near the average in cost, and of two that cost nearly the same the prior hardly
    tells which is better.

    Raises:
        UserError: ten thousand draws did not find one.
    """
    for _ in range(10_000):
        first, second = draw_pair(space, rng, distance, sample)
        low, high = sorted((prior(first), prior(second)))
        if high >= ratio * low:
            return first, second
    raise UserError(f"train.pair_ratio: random subnets of space {space.name} hardly ever have priors {ratio} times apart")
