"""One callable per training method. Each runs the forward and backward passes of a step, which sum up the gradients.

The trainer clears gradients before and steps the optimizer after. Subnets are drawn from the step's own generator, seeded with
(seed, step), so they do not depend on earlier steps.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import paddle
from paddle import nn

from paddle_pgonas import distributed
from paddle_pgonas.arch import Arch
from paddle_pgonas.config import Config
from paddle_pgonas.extensions import import_callable, is_import_path
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.priors import Prior, make_prior
from paddle_pgonas.regions import Region
from paddle_pgonas.sections import TAUGHT
from paddle_pgonas.training.losses import Distillation, cross_entropy, make_distillation, rank_hinge
from paddle_pgonas.training.samplers import draw_fair, draw_largest, draw_ordered_pair, draw_progressive, second_place_phase


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


@dataclass
class Metrics:
    """Metrics of a strategy's passes, as tensors, because reading a value waits for the device."""

    losses: list[tuple[str, paddle.Tensor]] = field(default_factory=list)
    """Kind and value of every loss in the order of the passes."""
    accuracy: paddle.Tensor | None = None
    """Share of the batch that the step's first subnet classified correctly."""
    pairs: int = 0
    pairs_out_of_order: int = 0

    def add(self, kind: str, loss: paddle.Tensor) -> None:
        """Note the value of a loss."""
        self.losses.append((kind, loss.detach()))


def mean_metrics(parts: Sequence[Metrics]) -> Metrics:
    """Metrics of a whole batch from those of its micro-batches, which have the same passes and the same size."""
    if len(parts) == 1:
        return parts[0]
    losses = [
        (same[0][0], paddle.add_n([loss for _, loss in same]) / len(parts))
        for same in zip(*(part.losses for part in parts), strict=True)
    ]
    accuracies = [part.accuracy for part in parts if part.accuracy is not None]
    return Metrics(
        losses,
        paddle.add_n(accuracies) / len(accuracies) if accuracies else None,
        sum(part.pairs for part in parts),
        sum(part.pairs_out_of_order for part in parts),
    )


Strategy = Callable[[Supernet, paddle.Tensor, paddle.Tensor, Step], Metrics]


def _accuracy(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    return (logits.detach().argmax(-1) == labels).astype("float32").mean()


@dataclass
class Uniform:
    """The organisers' baseline (single-path one-shot): random subnets learn from the labels and from a fixed teacher.

    The teacher runs once per batch, not once per subnet. Without a teacher only the labels are used.
    """

    random_subnets: int
    distil: Distillation
    teacher: nn.Layer | None = None

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """Forward and backward passes of one step on images [N, 3, S, S] and labels [N]."""
        metrics, target = Metrics(), None
        if self.teacher is not None:
            with paddle.no_grad():
                target = self.teacher(x)
        for arch in self.draw(step):
            net.set_active_subnet(arch)
            logits = net(x)
            loss = cross_entropy(logits, y)
            if target is not None:
                distilled = self.distil(logits, target)
                metrics.add("distilled", distilled)
                loss = loss + distilled
            step.backward(loss)
            metrics.add("random", loss)
            if metrics.accuracy is None:
                metrics.accuracy = _accuracy(logits, y)
        return metrics

    def draw(self, step: Step) -> list[Arch]:
        """The step's subnets."""
        return [step.region.sample(step.rng) for _ in range(self.random_subnets)]


@dataclass
class Progressive(Uniform):
    """Progressive shrinking (once-for-all): the uniform step in a space that grows during the training."""

    def draw(self, step: Step) -> list[Arch]:
        """Subnets of the current part of the space."""
        return [draw_progressive(step.region, step.rng, step.progress) for _ in range(self.random_subnets)]


@dataclass
class Phases(Uniform):
    """The 2nd place's first training: the uniform step in a space that grows in phases, in depth first and in width later."""

    def draw(self, step: Step) -> list[Arch]:
        """Subnets of the phase's part of the space."""
        phase = second_place_phase(step.region, step.progress)
        return [phase.sample(step.rng) for _ in range(self.random_subnets)]


@dataclass
class Largest(Uniform):
    """The 1st place's second stage: the largest of many random subnets, and every third step an unfiltered one."""

    largest_of: int = 400

    def draw(self, step: Step) -> list[Arch]:
        """The step's subnets, the largest first."""
        archs = draw_largest(step.region, step.rng, self.random_subnets, self.largest_of)
        return archs if step.index % 3 else [*archs, step.region.sample(step.rng)]


@dataclass
class Sandwich:
    """Sandwich rule with in-place distillation (PGONAS Algorithm 1, lines for the largest, smallest and random subnets)."""

    random_subnets: int
    distil: Distillation

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """Largest subnet with labels, then smallest and random ones with its detached logits (or at first with labels)."""
        net.set_active_subnet(step.region.largest)
        logits = net(x)
        loss = cross_entropy(logits, y)
        step.backward(loss)
        metrics = Metrics(accuracy=_accuracy(logits, y))
        metrics.add("largest", loss)
        target, learn = (logits.detach(), self.distil) if step.distils else (y, cross_entropy)

        metrics.add("smallest", self._learn(net, step.region.smallest, x, target, learn, step))
        for arch in self.draw(step):
            metrics.add("random", self._learn(net, arch, x, target, learn, step))
        return metrics

    @staticmethod
    def _learn(
        net: Supernet, arch: Arch, x: paddle.Tensor, target: paddle.Tensor, learn: Distillation, step: Step
    ) -> paddle.Tensor:
        net.set_active_subnet(arch)
        loss = learn(net(x), target)
        step.backward(loss)
        return loss

    def draw(self, step: Step) -> list[Arch]:
        """The subnets between the largest and the smallest."""
        return [step.region.sample(step.rng) for _ in range(self.random_subnets)]


@dataclass
class FairSandwich(Sandwich):
    """The sandwich with middle subnets sampled without replacement (FairNAS)."""

    def draw(self, step: Step) -> list[Arch]:
        """The subnets between the largest and the smallest, without replacement per layer."""
        return draw_fair(step.region, step.rng, self.random_subnets)


@dataclass
class Pgonas:
    """The sandwich, then pairs of random subnets whose losses should be in the order of their priors (Algorithm 1)."""

    sandwich: Sandwich
    prior: Prior
    pairs: int
    pair_distance: int = 0
    pair_ratio: float = 1.0
    gradient: str = "second"
    equal_priors: str = "skip"
    pair_losses: str = "all_processes"

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """The sandwich's passes, then the pairs'."""
        metrics = self.sandwich(net, x, y, step)
        if step.rank_lambda == 0:  # the pairs cannot change a weight
            return metrics
        for _ in range(self.pairs):
            pair = draw_ordered_pair(step.region, step.rng, self.pair_distance, self.prior, self.pair_ratio)
            self.rank(net, x, y, step, metrics, *pair)
        return metrics

    def rank(
        self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step, metrics: Metrics, first: Arch, second: Arch
    ) -> None:
        """``lambda * max(0, L(better prior) - L(worse prior))`` of one pair.

        As published only the second loss has a gradient: it decreases if the second's prior is the better one, and increases
        otherwise. With several processes the losses are compared as means over the images of all processes, or (as published)
        by each process on its own. Of equal priors the second counts as the worse, as published, or the pair is skipped.
        """
        prior_first, prior_second = self.prior(first), self.prior(second)
        if prior_first == prior_second and self.equal_priors == "skip":
            return
        second_is_better = prior_second > prior_first
        loss_first = self._loss(net, first, x, y, self.gradient == "both" or (self.gradient == "better" and not second_is_better))
        loss_second = self._loss(net, second, x, y, self.gradient != "better" or second_is_better)
        better, worse = (loss_second, loss_first) if second_is_better else (loss_first, loss_second)
        compared = paddle.stack([better.detach(), worse.detach()])
        hinge = rank_hinge(*(distributed.mean(compared) if self.pair_losses == "all_processes" else compared))
        metrics.pairs += 1
        for kind, loss in (("first", loss_first), ("second", loss_second), ("rank", hinge)):
            metrics.add(kind, loss)
        if float(hinge) > 0:  # in order: the gradient is exactly zero
            metrics.pairs_out_of_order += 1
            step.backward(step.rank_lambda * (better - worse))

    @staticmethod
    def _loss(net: Supernet, arch: Arch, x: paddle.Tensor, y: paddle.Tensor, learns: bool) -> paddle.Tensor:
        net.set_active_subnet(arch)
        with contextlib.nullcontext() if learns else paddle.no_grad():
            return cross_entropy(net(x), y)


def learn_labels(net: nn.Layer, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
    """Stand-alone training: a single network learns from the labels."""
    logits = net(x)
    loss = cross_entropy(logits, y)
    step.backward(loss)
    metrics = Metrics(accuracy=_accuracy(logits, y))
    metrics.add("subnet", loss)
    return metrics


def make_strategy(config: Config, teacher: nn.Layer | None) -> Strategy:
    """The configured method: a built-in one, or the callable of an import path, called with the configuration and the teacher."""
    train = config.train
    if is_import_path(train.strategy):
        own: Strategy = import_callable(train.strategy, "train.strategy")(config, teacher)
        return own
    distil = make_distillation(train.distillation, train.temperature)
    if train.strategy == "largest":
        return Largest(train.random_subnets, distil, teacher, train.largest_of)
    if train.strategy in TAUGHT["strategy"]:
        simple = {"uniform": Uniform, "progressive": Progressive, "phases": Phases}
        return simple[train.strategy](train.random_subnets, distil, teacher)
    sandwich = (FairSandwich if train.strategy == "fair_sandwich" else Sandwich)(train.random_subnets, distil)
    if train.strategy != "pgonas":
        return sandwich
    return Pgonas(
        sandwich,
        make_prior(train.prior, config.search_space, config.data.image_size, config.model.num_classes),
        train.pairs,
        train.pair_distance,
        train.pair_ratio,
        train.rank_gradient,
        train.equal_priors,
        train.pair_losses,
    )
