"""Where the random subnets of a step come from: the seed, a candidate file, or the published code's own order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal

from paddle_pgonas.errors import UserError
from paddle_pgonas.methods.base import Distilling, Parts, RandomSubnets, Step
from paddle_pgonas.schema import File
from paddle_pgonas.scores.files import read_candidates
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.subspace import Subspace

Sampler = Callable[[Step], Iterator[Arch]]
"""The random subnets of a step, as many as are asked for. They depend on the step only, not on earlier calls."""


class Sampling(Distilling):
    """Options of the methods that take their random subnets from a sampler."""

    published: ClassVar[Any]
    """Makes, for a search space, the sampler of the method's published code."""

    sampler: Literal["random", "candidates", "published"] = "random"
    """``random``: each free choice uniformly, from the seed and the step. ``candidates``: the candidate file, shuffled in every
    round. ``published``: a function of step and epoch, as in the published code of the method."""
    candidates: File | None = None
    """The candidate file to sample from; those outside ``train.depth_ranges`` and ``train.narrowest_codes`` are left out."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from self.no_use("candidates", self.sampler == "candidates", "method.sampler=candidates")
        if self.sampler == "candidates" and self.candidates is None:
            yield "candidates", "is missing: method.sampler=candidates needs the path of a candidate file"

    def subnets(self, parts: Parts) -> RandomSubnets:
        """The next ``random_subnets`` of the sampler."""
        sampler = self.make_sampler(parts, self.random_subnets)
        return lambda step: take(sampler(step), self.random_subnets)

    def make_sampler(self, parts: Parts, subnets: int) -> Sampler:
        """The configured sampler; each step takes ``subnets`` of a candidate file. UserError if none lies in the subspace."""
        if self.sampler == "published":
            return self.published(parts.subspace.space)
        if self.sampler == "random":
            return lambda step: random_subnets(parts.subspace, step.rng)
        assert self.candidates is not None  # the options were checked
        archs, seed = candidates_within(parts.subspace, self.candidates), parts.seed
        return lambda step: (_of_rounds(archs, seed, number) for number in itertools.count(step.index * subnets))


def random_subnets(subspace: Subspace, rng: random.Random) -> Iterator[Arch]:
    """Uniform samples of a subspace without end."""
    while True:
        yield subspace.sample(rng)


def take(subnets: Iterator[Arch], count: int) -> list[Arch]:
    """The next ``count`` subnets."""
    return list(itertools.islice(subnets, count))


def candidates_within(subspace: Subspace, path: str) -> tuple[Arch, ...]:
    """The architectures of a candidate file that lie within the subspace, in the file's order; UserError if there are none."""
    archs = dict.fromkeys(candidate.arch for candidate in read_candidates(path, subspace.space))
    within = tuple(arch for arch in archs if subspace.contains(arch))
    if not within:
        raise UserError(f"{path}: no candidate lies within train.depth_ranges and train.narrowest_codes")
    return within


def _of_rounds(archs: tuple[Arch, ...], seed: int, number: int) -> Arch:
    """The architecture of this number, counted over the whole run; a step without pairs skips theirs. Rounds are shuffled."""
    turn, place = divmod(number, len(archs))
    return archs[_order(len(archs), seed, turn)[place]]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, turn: int) -> list[int]:
    order = list(range(count))
    random.Random(f"candidates {seed} {turn}").shuffle(order)
    return order
