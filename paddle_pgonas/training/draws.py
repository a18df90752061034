"""The source of a run's random subnets: the seed, a candidate file, or the published code's own order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from paddle_pgonas.config.loading import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.scores.files import read_candidates
from paddle_pgonas.space.arch import Arch, SearchSpace
from paddle_pgonas.space.subspace import Region

IMAGE_SIZE = 224


@dataclass(frozen=True)
class ListedRegion(Region):
    """A region whose subnets come in a given order; its largest and smallest are those of the bounds."""

    draw: Callable[[random.Random], Arch] | None = None

    def sample(self, rng: random.Random) -> Arch:
        """The next architecture."""
        assert self.draw is not None
        return self.draw(rng)


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
            self.archs = [arch for arch in archs if self.region.contains(arch)]
            if not self.archs:
                raise UserError(f"{train.candidates}: no candidate lies within train.depth_ranges and train.highest_codes")

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
        numbers = itertools.count(step * subnets)  # of the samples, counted over the whole run
        limits = self.region.highest_codes, self.region.depth_ranges
        return rng, ListedRegion(self.region.space, *limits, lambda _: self._candidate(next(numbers)))

    def _candidate(self, number: int) -> Arch:
        """The candidates in shuffled rounds. A step without pairs skips theirs; pairs that are drawn again take later ones."""
        turn, place = divmod(number, len(self.archs))
        return self.archs[_order(len(self.archs), self.config.seed, turn)[place]]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, turn: int) -> list[int]:
    order = list(range(count))
    random.Random(f"candidates {seed} {turn}").shuffle(order)
    return order


def published_draws(space: SearchSpace, strategy: str, step_in_epoch: int, epoch: int) -> tuple[random.Random, Region]:
    """Generator and region of a step (epoch and step from 0), after the largest and the smallest subnet of a sandwich.

    The subnets are those that the published code, or the organisers' baseline for ``uniform``, trained at this step.
    """
    rng = published_generator(step_in_epoch, epoch)
    if strategy == "uniform":
        return rng, ListedRegion(space, draw=partial(draw_published_baseline, space))
    for _ in ("largest", "smallest"):
        rng.choice([IMAGE_SIZE])
    return rng, ListedRegion(space, draw=partial(draw_published_pgonas, space))


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
