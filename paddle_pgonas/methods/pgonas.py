"""PGONAS: Prior-Guided One-shot NAS (arXiv 2206.13329), Algorithm 1. A step, gradients summed:

1. the sandwich: largest subnet with labels, smallest and random ones with the largest one's logits;
2. ``pairs`` times: two random subnets a, b with cross-entropies La, Lb on the labels;
   ``lambda * max(0, L(better prior) - L(worse prior))``, where a prior is known without training, such as FLOPs;
3. the gradient of this reaches b only, as published (``rank_gradient`` chooses);
4. lambda changes with the epoch (``rank_lambda``).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import pi, sin
from typing import TYPE_CHECKING, Literal

from paddle_pgonas import processes
from paddle_pgonas.errors import UserError
from paddle_pgonas.methods.base import Metrics, Parts, Step
from paddle_pgonas.methods.sampling import Sampler, take
from paddle_pgonas.methods.sandwich import Sandwich, SandwichOptions
from paddle_pgonas.priors.by_name import Prior, TrainingPrior, terms
from paddle_pgonas.schema import Integer, Number, key
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.subspace import Subspace

if TYPE_CHECKING:
    import paddle

    from paddle_pgonas.nn.supernet import Supernet


class PgonasOptions(SandwichOptions):
    """The sandwich's options, and those of the pairs."""

    name: Literal["pgonas"] = "pgonas"  # type: ignore[assignment]
    prior: TrainingPrior = "flops"
    """Predicts which of two subnets should have the lower loss: ``flops``, ``params``, ``zen``, your own,
    ``my_module:my_prior`` (docs/extend.md), or a sum, ``flops+params``."""
    pairs: Integer = key(2, at_least=1)
    """Pairs of random subnets per step."""
    pair_distance: Integer = key(0, at_least=0)
    """Sample the second subnet again until the codes differ in at least this number of digits (33 with Zen-score)."""
    pair_ratio: Number = key(1.0, at_least=1)
    """Sample the pair again until the larger prior is at least this times the smaller (1 takes any pair, as published). Random
    subnets mostly have a cost near the average, and for two of nearly equal cost the prior hardly predicts which is better."""
    rank_gradient: Literal["second", "both", "better"] = "second"
    """The subnets of a pair that receive the gradient: the second (as published), both, or the one with the better prior."""
    equal_priors: Literal["skip", "second_worse"] = "skip"
    """A pair of equal priors is skipped, or its second subnet counts as the worse (as published)."""
    pair_losses: Literal["all_processes", "per_process"] = "all_processes"
    """The images whose losses decide whether a pair is in order: those of all processes, or each process's own (as published)."""
    rank_lambda: Literal["warmup", "constant", "sine", "multi_stage"] = "warmup"
    """The schedule of lambda."""
    stretch_lambda: bool = False
    """Rescale the schedule, defined for 70 epochs, to the length of the run."""
    rank_weight: Number = key(1.0, at_least=0)
    """Factor on lambda (1 as published)."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        if len(terms(self.prior)) > 1 and self.pair_ratio != 1:
            yield "pair_ratio", f"must be 1: method.prior={self.prior} is a sum, whose values may be negative and have no ratio"

    def start(self, parts: Parts) -> Pgonas:
        """PGONAS with these options."""
        sampler = self.make_sampler(parts, self.random_subnets + 2 * self.pairs)
        return Pgonas(self, parts.subspace, sampler, parts.prior(self.prior))

    def weight(self, step: Step) -> float:
        """Lambda at a step, never negative. It changes per epoch."""
        total = step.epochs * step.steps_per_epoch
        epoch = step.index * PUBLISHED_EPOCHS // total if self.stretch_lambda else step.epoch
        return self.rank_weight * max(0.0, RANK_LAMBDAS[self.rank_lambda](epoch))


PUBLISHED_EPOCHS = 70
"""Epochs of the published runs, for which the schedules of lambda are defined."""
MOST_PAIRS, MOST_SECONDS = 10_000, 1000
"""So many pairs, and second subnets of a pair, are sampled to find one that is far enough apart."""


def _multi_stage(epoch: float) -> float:
    if epoch < 5:
        return 0.0
    if epoch < 20:
        return 2 * (epoch - 5) / 15
    return 2.0 if epoch < 50 else 7 - epoch / 10


RANK_LAMBDAS: dict[str, Callable[[int], float]] = {
    "warmup": lambda epoch: min(2.0, epoch / 10),
    "constant": lambda epoch: 1.0,
    "sine": lambda epoch: 2 * sin(0.8 * pi * epoch / PUBLISHED_EPOCHS),
    "multi_stage": _multi_stage,
}
"""The paper's schedules of lambda over the epochs."""


@dataclass
class Pgonas:
    """The sandwich, then pairs of random subnets whose losses should be in the order of their priors."""

    options: PgonasOptions
    subspace: Subspace
    sampler: Sampler
    prior: Prior

    def sample_pair(self, subnets: Iterator[Arch]) -> tuple[Arch, Arch]:
        """The next two subnets that are far enough apart in codes and priors; UserError if random subnets rarely are."""
        options = self.options
        for _ in range(MOST_PAIRS):
            first = next(subnets)
            apart = (arch for arch in itertools.islice(subnets, MOST_SECONDS) if first.distance(arch) >= options.pair_distance)
            second = next(apart, None)
            if second is None:
                raise UserError(f"method.pair_distance: random codes rarely differ in {options.pair_distance} digits; lower it")
            low, high = sorted((self.prior(first), self.prior(second)))
            if high >= options.pair_ratio * low:
                return first, second
        raise UserError(f"method.pair_ratio: the priors of random subnets rarely have a ratio of {options.pair_ratio}")

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """See :class:`~paddle_pgonas.methods.base.Strategy`."""
        subnets = self.sampler(step)
        sandwich = Sandwich(self.options, self.subspace, lambda step: take(subnets, self.options.random_subnets))
        metrics = sandwich(net, x, y, step)
        metrics.schedules["rank_lambda"] = self.options.weight(step)
        if self.options.weight(step) > 0:  # otherwise the pairs cannot change a weight
            for _ in range(self.options.pairs):
                self.rank(net, x, y, step, metrics, *self.sample_pair(subnets))
        return metrics

    def rank(
        self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step, metrics: Metrics, first: Arch, second: Arch
    ) -> None:
        """The rank loss of one pair. As published, the second's loss decreases if its prior is the better one, else increases."""
        import paddle

        priors, options = (self.prior(first), self.prior(second)), self.options
        if priors[0] == priors[1] and options.equal_priors == "skip":
            return
        second_is_better = priors[1] > priors[0]
        sides = {"second": (False, True), "both": (True, True), "better": (not second_is_better, second_is_better)}
        losses = [
            _loss(net, arch, x, y, gradient) for arch, gradient in zip((first, second), sides[options.rank_gradient], strict=True)
        ]
        better, worse = losses[::-1] if second_is_better else losses
        compared = paddle.stack([better.detach(), worse.detach()])
        if options.pair_losses == "all_processes":
            compared = processes.mean(compared)
        hinge = (compared[0] - compared[1]).clip(min=0)
        metrics.pairs += 1
        for kind, loss in (("first", losses[0]), ("second", losses[1]), ("rank", hinge)):
            metrics.add(kind, loss)
        if float(hinge) > 0:  # in order: the gradient is exactly zero
            metrics.pairs_out_of_order += 1
            step.backward(options.weight(step) * (better - worse))


def _loss(net: Supernet, arch: Arch, x: paddle.Tensor, y: paddle.Tensor, gradient: bool) -> paddle.Tensor:
    import paddle

    from paddle_pgonas.methods.losses import cross_entropy

    net.set_active_subnet(arch)
    with contextlib.nullcontext() if gradient else paddle.no_grad():
        return cross_entropy(net(x), y)
