"""Sampling of the random subnets of a step: pure functions of the configuration, the step and the step's own generator.

Samples do not depend on earlier calls, so a resumed run draws the same subnets as an uninterrupted one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from paddle_pgonas import cost
from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.config import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors import Prior
from paddle_pgonas.regions import Region
from paddle_pgonas.submission import read_candidates
from paddle_pgonas.training.published_draws import published_draws

DEPTH_PHASES, WIDTH_PHASES = 3, 6
SECOND_PLACE_EPOCHS = 70
"""Epochs of the 2nd place's first training, the unit of its phases."""
DEPTH_OPENS = ((0, 2 / 3), (5, 1 / 3), (15, 0.0))
"""(epoch, least share of a stage's optional blocks that is used from this epoch on); the last stage is free from the start."""
WIDTH_OPENS = ((0, 1), (30, 3), (35, 5), (45, 9))
"""(epoch, highest width code that is sampled from this epoch on); 9: all codes of the region."""


class Draws:
    """The source of the subnets of a run (``train.draws``, ``highest_codes``, ``depth_ranges`` and ``candidates``).

    Raises:
        UserError: the candidate file cannot be read, holds no subnet of the region, or bounds do not fit the space.
    """

    def __init__(self, config: Config) -> None:
        self.config, train = config, config.train
        self.region = Region(config.search_space, train.highest_codes, train.depth_ranges)
        self.archs: list[Arch] = []
        if train.draws == "candidates":
            assert train.candidates is not None  # the configuration was checked
            archs = dict.fromkeys(candidate.arch for candidate in read_candidates(train.candidates, config.search_space))
            self.archs = [arch for arch in archs if self.region.within_depths(arch)]
            if not self.archs:
                raise UserError(f"{train.candidates}: no candidate has depths within train.depth_ranges")

    def of_step(self, step: int, steps_per_epoch: int) -> tuple[random.Random, Region]:
        """Generator and region of a step, counted from 0 over all epochs."""
        train, seed = self.config.train, self.config.seed
        if train.draws == "published":
            epoch, step_in_epoch = divmod(step, steps_per_epoch)
            return published_draws(self.region.space, train.strategy, step_in_epoch, epoch)
        rng = random.Random(f"subnets {seed} {step}")
        if train.draws == "seed":
            return rng, self.region
        subnets = train.random_subnets + (2 * train.pairs if train.strategy == "pgonas" else 0)
        limits = self.region.highest_codes, self.region.depth_ranges
        return rng, CandidateRegion(self.region.space, *limits, self.archs, seed, itertools.count(step * subnets))


@dataclass(frozen=True)
class CandidateRegion(Region):
    """Given architectures, each once per round, shuffled in every round; largest and smallest are those of the bounds."""

    archs: Sequence[Arch] = ()
    seed: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """The indices of the next samples, counted over the whole run."""

    def sample(self, rng: random.Random) -> Arch:
        """The next candidate; the generator is not used."""
        turn, place = divmod(next(self.numbers), len(self.archs))
        return self.archs[_order(len(self.archs), self.seed, turn)[place]]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, turn: int) -> list[int]:
    order = list(range(count))
    random.Random(f"candidates {seed} {turn}").shuffle(order)
    return order


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


def draw_progressive(region: Region, rng: random.Random, progress: float) -> Arch:
    """Progressive shrinking (once-for-all): three phases with more and more shallow subnets, then six with narrow ones.

    Args:
        progress: finished share of the training, 0 to 1; each phase lasts a ninth.
    """
    phase = min(int(progress * (DEPTH_PHASES + WIDTH_PHASES)), DEPTH_PHASES + WIDTH_PHASES - 1)
    opened = min(phase + 1, DEPTH_PHASES) / DEPTH_PHASES
    shallowest = [most - math.ceil(opened * (most - least)) for least, most in region.depths]
    width = 0 if phase < DEPTH_PHASES else (phase - DEPTH_PHASES + 1) / WIDTH_PHASES
    codes = [1 + math.ceil(width * (code - 1)) for code in region.codes]
    return region.narrowed(codes, shallowest).sample(rng)


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


def draw_largest(region: Region, rng: random.Random, count: int, draws: int) -> list[Arch]:
    """The ``count`` largest of ``draws`` random subnets, no two with equal multiply-accumulates (1st place, second stage).

    Raises:
        UserError: the samples have fewer different costs.
    """
    by_cost = {cost.macs(arch): arch for arch in (region.sample(rng) for _ in range(draws))}
    if len(by_cost) < count:
        raise UserError(f"train.random_subnets: {draws} draws (train.largest_of) hold only {len(by_cost)} different costs")
    return [by_cost[macs] for macs in sorted(by_cost, reverse=True)[:count]]


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
