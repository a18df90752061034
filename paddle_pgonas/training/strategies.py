"""One callable per training method. Each does the forwards and backwards of a step and leaves the summed gradients.

The trainer clears gradients before and steps the optimizer after. Subnets are drawn from the step's own generator, made from
(seed, step), so they do not depend on what ran before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.config import Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.priors import Prior, prior
from paddle_pgonas.training.losses import cross_entropy, rank_hinge, soft_cross_entropy


@dataclass
class Step:
    """What a step is given beside its batch, and what it reports."""

    rng: random.Random
    rank_lambda: float = 0.0
    losses: dict[str, paddle.Tensor] = field(default_factory=dict)
    """Last loss per kind of subnet; tensors, because reading one out waits for the device."""
    correct: paddle.Tensor | None = None
    """Share of the batch that the step's first subnet classified right."""
    pairs: int = 0
    pairs_out_of_order: int = 0


Strategy = Callable[[Supernet, paddle.Tensor, paddle.Tensor, Step], None]


def _accuracy(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    return (logits.detach().argmax(-1) == labels).astype("float32").mean()


@dataclass
class Uniform:
    """The organisers' baseline (single-path one-shot): random subnets learn from the labels and from a fixed teacher.

    The teacher runs once per batch, not once per subnet; without one the labels alone teach.
    """

    random_subnets: int
    teacher: nn.Layer | None = None

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> None:
        """Forwards and backwards of one step on images [N, 3, S, S] and labels [N]."""
        target = None
        if self.teacher is not None:
            with paddle.no_grad():
                target = F.softmax(self.teacher(x))
        for _ in range(self.random_subnets):
            net.sample_active_subnet(step.rng)
            logits = net(x)
            loss = cross_entropy(logits, y)
            if target is not None:
                loss = loss + soft_cross_entropy(logits, target)
            loss.backward()
            step.losses["random"] = loss.detach()
            if step.correct is None:
                step.correct = _accuracy(logits, y)


@dataclass
class Sandwich:
    """Sandwich rule with in-place distillation (PGONAS Algorithm 1, lines for the largest, smallest and random subnets)."""

    random_subnets: int

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> None:
        """Largest subnet on the labels, then the smallest and random ones on its detached logits."""
        net.set_active_subnet(net.space.largest)
        logits = net(x)
        loss = cross_entropy(logits, y)
        loss.backward()
        step.losses["largest"], step.correct = loss.detach(), _accuracy(logits, y)
        teacher = F.softmax(logits.detach())

        net.set_active_subnet(net.space.smallest)
        step.losses["smallest"] = self._distil(net, x, teacher)
        for _ in range(self.random_subnets):
            net.sample_active_subnet(step.rng)
            step.losses["random"] = self._distil(net, x, teacher)

    @staticmethod
    def _distil(net: Supernet, x: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
        loss = soft_cross_entropy(net(x), teacher)
        loss.backward()
        return loss.detach()


@dataclass
class Pgonas:
    """The sandwich, then pairs of random subnets whose losses should be in the order of their priors (Algorithm 1)."""

    sandwich: Sandwich
    prior: Prior
    pairs: int
    pair_distance: int = 0

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> None:
        """The sandwich's passes, then the pairs'."""
        self.sandwich(net, x, y, step)
        if step.rank_lambda == 0:  # the pairs could not change a weight
            return
        for _ in range(self.pairs):
            self._rank_pair(net, x, y, step, *draw_pair(net.space, step.rng, self.pair_distance))

    def _rank_pair(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step, first: Arch, second: Arch) -> None:
        """As published the first loss is detached: the gradient lowers the second if its prior is better, else raises it."""
        prior_first, prior_second = self.prior(first), self.prior(second)
        if prior_first == prior_second:  # no order to keep
            return
        with paddle.no_grad():
            net.set_active_subnet(first)
            loss_first = cross_entropy(net(x), y)
        net.set_active_subnet(second)
        loss_second = cross_entropy(net(x), y)
        better, worse = (loss_second, loss_first) if prior_second > prior_first else (loss_first, loss_second)
        hinge = rank_hinge(better, worse)
        step.pairs += 1
        step.losses["rank"] = hinge.detach()
        if float(hinge) > 0:  # in order: the gradient is exactly zero
            step.pairs_out_of_order += 1
            (step.rank_lambda * hinge).backward()


def draw_pair(space: SearchSpace, rng: random.Random, distance: int) -> tuple[Arch, Arch]:
    """Two random architectures whose codes differ in at least ``distance`` digits, the second redrawn until they do.

    Raises:
        UserError: a thousand draws did not find one.
    """
    first = space.sample(rng)
    for _ in range(1000):
        second = space.sample(rng)
        if first.distance(second) >= distance:
            return first, second
    raise UserError(f"train.pair_distance: random codes of space {space.name} hardly ever differ in {distance} digits; lower it")


def make_strategy(train: Train, teacher: nn.Layer | None) -> Strategy:
    """The configured method."""
    if train.strategy == "uniform":
        return Uniform(train.random_subnets, teacher)
    sandwich = Sandwich(train.random_subnets)
    if train.strategy == "sandwich":
        return sandwich
    return Pgonas(sandwich, prior(train.prior), train.pairs, train.pair_distance)
