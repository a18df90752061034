"""Built-in strategies, and how they sample the random subnets of a step.

A sampler is a pure function of the step and the step's own generator. Samples do not depend on earlier calls, so a resumed run
draws the same subnets as an uninterrupted one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from paddle_pgonas.errors import UserError
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.by_name import Prior
from paddle_pgonas.space.arch import Arch, SearchSpace
from paddle_pgonas.space.subspace import Region

if TYPE_CHECKING:
    import paddle


DEPTH_PHASES, WIDTH_PHASES = 3, 6
SECOND_PLACE_EPOCHS = 70
"""Epochs of the 2nd place's first training, the unit of its phases."""
DEPTH_OPENS = ((0, 2 / 3), (5, 1 / 3), (15, 0.0))
"""(epoch, least share of a stage's optional blocks that is used from this epoch on); the last stage is free from the start."""
WIDTH_OPENS = ((0, 1), (30, 3), (35, 5), (45, 9))
"""(epoch, highest width code that is sampled from this epoch on); 9: all codes of the region."""


@dataclass(frozen=True)
class Step:
    """Arguments of a strategy in addition to the network and the batch."""

    rng: random.Random
    region: Region
    """The region from which random subnets are drawn; the sandwich trains its largest and smallest subnet."""
    index: int = 0
    """Number of the step, from 0 over all epochs."""
    rank_lambda: float = 0.0
    progress: float = 0.0
    """Finished share of the training, 0 to 1."""
    distils: bool = True
    """Whether the sandwich's smaller subnets learn from the largest; from the labels otherwise."""
    backward: Callable[[paddle.Tensor], None] = lambda loss: loss.backward()
    """Adds the gradients of a loss (the trainer's function scales the loss first, for fp16 and micro-batches)."""
    macs: Prior = lambda arch: cost.macs(arch, arch.space.image_size, 1000)
    """Multiply-accumulates of a subnet, for the run's images and classes."""


def draw_fair(region: Region, rng: random.Random, count: int) -> list[Arch]:
    """Architectures whose depths and widths are sampled without replacement (FairNAS).

    With more architectures than options, a new round of options begins.
    """

    def options(low: int, high: int) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < count:
            chosen += rng.sample(range(low, high + 1), high + 1 - low)
        return chosen[:count]

    depths = [options(*bounds) for bounds in region.depths]
    conv2 = [options(1, code) for code in region.codes]
    conv1 = [[options(1, code) for _ in range(most)] for code, (_, most) in zip(region.codes, region.depths, strict=True)]
    archs = []
    for i in range(count):
        stages = zip(conv1, depths, strict=True)
        archs.append(region.space.build(tuple(tuple(mid[i] for mid in mids[: depth[i]]) for mids, depth in stages),
                                 tuple(out[i] for out in conv2)))  # fmt: skip
    return archs


def once_for_all_phase(region: Region, progress: float) -> Region:
    """Progressive shrinking (once-for-all): three phases with more and more shallow subnets, then six with narrow ones.

    Args:
        progress: finished share of the training, 0 to 1; each phase lasts a ninth.
    """
    phase = min(int(progress * (DEPTH_PHASES + WIDTH_PHASES)), DEPTH_PHASES + WIDTH_PHASES - 1)
    opened = min(phase + 1, DEPTH_PHASES) / DEPTH_PHASES
    shallowest = [most - math.ceil(opened * (most - least)) for least, most in region.depths]
    width = 0 if phase < DEPTH_PHASES else (phase - DEPTH_PHASES + 1) / WIDTH_PHASES
    return region.narrowed([1 + math.ceil(width * (code - 1)) for code in region.codes], shallowest)


def second_place_phase(region: Region, progress: float) -> Region:
    """The part of the region from which the 2nd place of the challenge samples at this share of the training.

    For Track 1 these are its published values: least depths 4 4 6 2, then 3 3 4 2, then 2 2 2 2; codes 1, then up to 3, then
    3 3 5 5, then 3 3 5 7.

    Args:
        progress: finished share of the training, 0 to 1.
    """
    epoch = progress * SECOND_PLACE_EPOCHS
    kept = [share for begin, share in DEPTH_OPENS if begin <= epoch][-1]
    code = [most for begin, most in WIDTH_OPENS if begin <= epoch][-1]
    shallowest = [least + math.ceil(kept * (most - least)) for least, most in region.depths[:-1]]
    return region.narrowed([code] * len(region.codes), [*shallowest, region.depths[-1][0]])


def draw_largest(region: Region, rng: random.Random, count: int, draws: int, macs: Prior) -> list[Arch]:
    """The ``count`` largest of ``draws`` random subnets, no two with equal multiply-accumulates (1st place, second stage).

    Args:
        macs: multiply-accumulates of a subnet.

    Raises:
        UserError: the samples have fewer different costs.
    """
    by_cost = {macs(arch): arch for arch in (region.sample(rng) for _ in range(draws))}
    if len(by_cost) < count:
        raise UserError(f"train.random_subnets: {draws} draws (train.largest_of) hold only {len(by_cost)} different costs")
    return [by_cost[value] for value in sorted(by_cost, reverse=True)[:count]]


def draw_pair(region: Region | SearchSpace, rng: random.Random, distance: int) -> tuple[Arch, Arch]:
    """Two random architectures whose codes differ in at least ``distance`` digits, the second redrawn until they do.

    Raises:
        UserError: a thousand attempts gave none.
    """
    first = region.sample(rng)
    for _ in range(1000):
        second = region.sample(rng)
        if first.distance(second) >= distance:
            return first, second
    raise UserError(f"train.pair_distance: random codes rarely differ in {distance} digits; lower it")


def draw_ordered_pair(
    region: Region | SearchSpace, rng: random.Random, distance: int, prior: Prior, ratio: float
) -> tuple[Arch, Arch]:
    """A pair as :func:`draw_pair` gives it, redrawn until the larger prior is at least ``ratio`` times the smaller.

    Not in the paper. Random subnets mostly have a cost near the average, and for two subnets of nearly equal cost the prior
    hardly predicts which is better.

    Raises:
        UserError: ten thousand attempts gave none.
    """
    for _ in range(10_000):
        first, second = draw_pair(region, rng, distance)
        low, high = sorted((prior(first), prior(second)))
        if high >= ratio * low:
            return first, second
    raise UserError(f"train.pair_ratio: the priors of random subnets rarely have a ratio of {ratio}")


Draw = Callable[[Step, int, int], list[Arch]]
"""The random subnets of a step, for ``train.random_subnets`` and ``train.largest_of``."""


def _uniform(phase: Callable[[Region, float], Region] = lambda region, progress: region) -> Draw:
    """Uniform samples of the region, or of the part of it that is open at this share of the training."""

    def draw(step: Step, count: int, largest_of: int) -> list[Arch]:
        part = phase(step.region, step.progress)
        return [part.sample(step.rng) for _ in range(count)]

    return draw


def _largest(step: Step, count: int, largest_of: int) -> list[Arch]:
    archs = draw_largest(step.region, step.rng, count, largest_of, step.macs)
    return archs if step.index % 3 else [*archs, step.region.sample(step.rng)]


class Method(NamedTuple):
    """A built-in strategy: the passes that it makes, and the random subnets that it trains."""

    passes: Literal["taught", "sandwich", "pgonas"]
    """The class of :mod:`paddle_pgonas.training.strategies`."""
    draw: Draw


STRATEGIES = {
    "uniform": Method("taught", _uniform()),
    "progressive": Method("taught", _uniform(once_for_all_phase)),
    "phases": Method("taught", _uniform(second_place_phase)),
    "largest": Method("taught", _largest),
    "sandwich": Method("sandwich", _uniform()),
    "fair_sandwich": Method("sandwich", lambda step, count, _: draw_fair(step.region, step.rng, count)),
    "pgonas": Method("pgonas", _uniform()),
}
"""Built-in values of ``train.strategy``; the configuration takes from here which keys each of them uses."""
