"""Single-path one-shot (SPOS, arXiv 1904.00420) and its relatives: random subnets learn from labels and from a fixed teacher.

``uniform`` samples them uniformly; with a teacher it is the organisers' baseline of the challenge. The others sample from a part
of the space that grows (``progressive``: once-for-all, arXiv 1908.09791; ``phases``: the challenge's 2nd place) or
keep the largest of many samples (``largest``: the 1st place, second stage).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from paddle_pgonas.errors import UserError
from paddle_pgonas.methods.base import Distilling, Metrics, Parts, RandomSubnets, Step
from paddle_pgonas.methods.published import baseline_sampler
from paddle_pgonas.methods.sampling import Sampling, random_subnets, take
from paddle_pgonas.priors.by_name import Prior
from paddle_pgonas.schema import File, Integer, key
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.subspace import Subspace

if TYPE_CHECKING:
    import paddle

    from paddle_pgonas.nn.supernet import Supernet


class SinglePathOptions(Distilling):
    """Options of every single-path method."""

    random_subnets: Integer = key(2, at_least=1)
    """Subnets per step."""
    teacher: File | None = None
    """Weights of a fixed full network as teacher, with the activation of their record (ReLU without one); null trains with labels
    only."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from self.no_use("distillation", self.teacher is not None, "method.teacher")

    def start(self, parts: Parts) -> SinglePath:
        """The method with these options."""
        return SinglePath(self, self.subnets(parts), None if self.teacher is None else parts.network(self.teacher))


class UniformOptions(SinglePathOptions, Sampling):
    """Uniform samples, or those of another sampler."""

    name: Literal["uniform"] = "uniform"
    published = staticmethod(baseline_sampler)


class ProgressiveOptions(SinglePathOptions):
    """Progressive shrinking."""

    name: Literal["progressive"] = "progressive"
    grows = True

    def subnets(self, parts: Parts) -> RandomSubnets:
        """Uniform samples of the growing part."""
        return _within(parts, once_for_all_phase, self.random_subnets)


class PhasesOptions(SinglePathOptions):
    """The phases of the challenge's 2nd place."""

    name: Literal["phases"] = "phases"
    grows = True

    def subnets(self, parts: Parts) -> RandomSubnets:
        """Uniform samples of the growing part."""
        return _within(parts, second_place_phase, self.random_subnets)


def _within(parts: Parts, part: Callable[[Subspace, float], Subspace], count: int) -> RandomSubnets:
    return lambda step: take(random_subnets(part(parts.subspace, step.progress), step.rng), count)


class LargestOptions(SinglePathOptions):
    """The ``random_subnets`` largest of many samples, and in every third step an unfiltered sample as well."""

    name: Literal["largest"] = "largest"
    largest_of: Integer = key(400, at_least=1)
    """Samples per step, of which the ``random_subnets`` largest are trained."""

    def subnets(self, parts: Parts) -> RandomSubnets:
        """The largest by the run's multiply-accumulates."""
        macs = parts.prior("flops")

        def subnets(step: Step) -> list[Arch]:
            archs = largest_subnets(parts.subspace, step.rng, self.random_subnets, self.largest_of, macs)
            return archs if step.index % 3 else [*archs, parts.subspace.sample(step.rng)]

        return subnets


DEPTH_PHASES, WIDTH_PHASES = 3, 6


def once_for_all_phase(subspace: Subspace, progress: float) -> Subspace:
    """Progressive shrinking: three phases with more and more shallow subnets, then six with narrow ones, a ninth each."""
    phase = min(int(progress * (DEPTH_PHASES + WIDTH_PHASES)), DEPTH_PHASES + WIDTH_PHASES - 1)
    opened = min(phase + 1, DEPTH_PHASES) / DEPTH_PHASES
    shallowest = [most - math.ceil(opened * (most - least)) for least, most in subspace.depths]
    width = 0 if phase < DEPTH_PHASES else (phase - DEPTH_PHASES + 1) / WIDTH_PHASES
    return subspace.narrowed([1 + math.ceil(width * (code - 1)) for code in subspace.codes], shallowest)


SECOND_PLACE_EPOCHS = 70
"""Epochs of the 2nd place's first training, the unit of its phases."""
DEPTH_OPENS = ((0, 2 / 3), (5, 1 / 3), (15, 0.0))
"""(epoch, least share of a stage's optional blocks that is used from this epoch on); the last stage is free from the start."""
WIDTH_OPENS = ((0, 1), (30, 3), (35, 5), (45, 9))
"""(epoch, narrowest width code that is sampled from this epoch on); 9: all codes of the subspace."""


def second_place_phase(subspace: Subspace, progress: float) -> Subspace:
    """The part of the subspace from which the challenge's 2nd place samples at this share of the training.

    For Track 1 these are its published values: least depths 4 4 6 2, then 3 3 4 2, then 2 2 2 2; codes 1, then up to 3, then
    3 3 5 5, then 3 3 5 7.
    """
    epoch = progress * SECOND_PLACE_EPOCHS
    kept = [share for begin, share in DEPTH_OPENS if begin <= epoch][-1]
    code = [most for begin, most in WIDTH_OPENS if begin <= epoch][-1]
    shallowest = [least + math.ceil(kept * (most - least)) for least, most in subspace.depths[:-1]]
    return subspace.narrowed([code] * len(subspace.codes), [*shallowest, subspace.depths[-1][0]])


def largest_subnets(subspace: Subspace, rng: random.Random, count: int, samples: int, macs: Prior) -> list[Arch]:
    """The ``count`` largest of ``samples`` random subnets, no two of equal cost; UserError if there are fewer different costs."""
    by_cost = {macs(arch): arch for arch in (subspace.sample(rng) for _ in range(samples))}
    if len(by_cost) < count:
        raise UserError(f"method.random_subnets: {samples} samples (method.largest_of) hold only {len(by_cost)} different costs")
    return [by_cost[value] for value in sorted(by_cost, reverse=True)[:count]]


@dataclass
class SinglePath:
    """Each subnet learns from the labels and, if there is a teacher, from its logits, which are computed once per batch."""

    options: SinglePathOptions
    subnets: RandomSubnets
    teacher: Callable[[paddle.Tensor], paddle.Tensor] | None

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """See :class:`~paddle_pgonas.methods.base.Strategy`."""
        from paddle_pgonas.methods.losses import cross_entropy

        metrics, distil = Metrics(), self.options.distil()
        target = None if self.teacher is None else self.teacher(x)
        for arch in self.subnets(step):
            net.set_active_subnet(arch)
            logits = net(x)
            loss = cross_entropy(logits, y)
            if target is not None:
                distilled = distil(logits, target)
                metrics.add("distilled", distilled)
                loss = loss + distilled
            step.backward(loss)
            metrics.add("random", loss)
            metrics.note_accuracy(logits, y)
        return metrics
