"""The passes of the training methods, one callable each: it runs the forward and backward passes of a step,
which sum up the gradients.

The trainer clears gradients before and steps the optimizer after. Subnets are drawn from the step's own generator, seeded with
(seed, step), so they do not depend on earlier steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import paddle
from paddle import nn

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.config.sections import Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.import_paths import import_callable, is_import_path
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.priors.by_name import Prior
from paddle_pgonas.samplers import STRATEGIES, Step, draw_ordered_pair
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.training.losses import Distillation, cross_entropy, make_distillation, rank_hinge


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


Draw = Callable[[Step], list[Arch]]
"""The random subnets of a step."""


@dataclass
class Taught:
    """Random subnets learn from the labels and from a fixed teacher (single-path one-shot, the organisers' baseline).

    The teacher runs once per batch, not once per subnet. Without a teacher only the labels are used.
    """

    draw: Draw
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


@dataclass
class Sandwich:
    """Sandwich rule with in-place distillation (PGONAS Algorithm 1, lines for the largest, smallest and random subnets)."""

    draw: Draw
    """The subnets beside the largest and the smallest."""
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


@dataclass
class Pgonas:
    """The sandwich, then pairs of random subnets whose losses should be in the order of their priors (Algorithm 1)."""

    sandwich: Sandwich
    prior: Prior
    settings: Train

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """The sandwich's passes, then the pairs'."""
        metrics = self.sandwich(net, x, y, step)
        if step.rank_lambda == 0:  # the pairs cannot change a weight
            return metrics
        for _ in range(self.settings.pairs):
            apart = self.settings.pair_distance, self.prior, self.settings.pair_ratio
            pair = draw_ordered_pair(step.region, step.rng, *apart)
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
        if prior_first == prior_second and self.settings.equal_priors == "skip":
            return
        second_is_better = prior_second > prior_first
        side = self.settings.rank_gradient
        loss_first = self._loss(net, first, x, y, side == "both" or (side == "better" and not second_is_better))
        loss_second = self._loss(net, second, x, y, side != "better" or second_is_better)
        better, worse = (loss_second, loss_first) if second_is_better else (loss_first, loss_second)
        compared = paddle.stack([better.detach(), worse.detach()])
        hinge = rank_hinge(*(processes.mean(compared) if self.settings.pair_losses == "all_processes" else compared))
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


def _imported(path: str, config: Config, teacher: nn.Layer | None) -> Strategy:
    """The strategy that the callable of an import path makes from the configuration and the teacher."""
    strategy = import_callable(path, "train.strategy")(config, teacher)
    if not callable(strategy):
        raise UserError(f"train.strategy {path}: made {strategy!r:.60}; it must make an object that is called once per step")

    def checked(net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        metrics = strategy(net, x, y, step)
        if not isinstance(metrics, Metrics) or not metrics.losses:
            raise UserError(
                f"train.strategy {path}: a step returned {metrics!r:.60}; "
                "it must return a training.strategies.Metrics with at least one loss"
            )
        return metrics

    return checked


def make_strategy(config: Config, teacher: nn.Layer | None) -> Strategy:
    """The configured method: a built-in one, or that of an import path.

    Raises:
        UserError: the import path gives no strategy; a strategy from there raises it too if a step returns no Metrics.
    """
    train = config.train
    if is_import_path(train.strategy):
        return _imported(train.strategy, config, teacher)
    method, distil = STRATEGIES[train.strategy], make_distillation(train.distillation, train.temperature)

    def draw(step: Step) -> list[Arch]:
        return method.draw(step, train.random_subnets, train.largest_of)

    if method.passes == "taught":
        return Taught(draw, distil, teacher)
    sandwich = Sandwich(draw, distil)
    if method.passes == "sandwich":
        return sandwich
    return Pgonas(sandwich, config.prior(train.prior), train)
