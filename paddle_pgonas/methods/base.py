"""What all methods share: the base of their options, what a training gives them, and the metrics that they return."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import isabstract
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import ConfigDict

from paddle_pgonas.errors import UserError
from paddle_pgonas.import_paths import import_callable
from paddle_pgonas.priors.by_name import Prior
from paddle_pgonas.schema import Integer, Number, Section, Text, key, validate
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.subspace import Subspace

if TYPE_CHECKING:
    import paddle

    from paddle_pgonas.nn.supernet import Supernet


@dataclass(frozen=True)
class Parts:
    """What a training opens for its method."""

    subspace: Subspace  # which may be sampled; the sandwich trains its largest and smallest architecture
    seed: int
    prior: Callable[[str], Prior]
    """A prior by name, for the run's images and classes."""
    network: Callable[[str], Callable[[paddle.Tensor], paddle.Tensor]]
    """The full network of a weight file, fixed: logits [N, classes] of images [N, 3, S, S], without a gradient."""


@dataclass(frozen=True)
class Step:
    """A step of the training, in addition to the network and the batch."""

    rng: random.Random
    """The step's own generator: it depends on the seed and the step only, so a resumed run samples the same subnets."""
    index: int = 0
    """Counted from 0 over all epochs."""
    steps_per_epoch: int = 1
    epochs: int = 1
    backward: Callable[[paddle.Tensor], None] = lambda loss: loss.backward()
    """Adds the gradients of a loss (the trainer's function scales the loss first, for fp16 and micro-batches)."""

    @property
    def epoch(self) -> int:
        """Counted from 0."""
        return self.index // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Finished share of the training, 0 to 1."""
        return self.index / (self.epochs * self.steps_per_epoch)


@dataclass
class Metrics:
    """Metrics of a step, as tensors, because reading a value waits for the device."""

    losses: list[tuple[str, paddle.Tensor]] = field(default_factory=list)  # kind and value, in the order of the passes
    accuracy: paddle.Tensor | None = None  # of the step's first subnet on the batch
    pairs: int = 0
    pairs_out_of_order: int = 0
    schedules: dict[str, float] = field(default_factory=dict)  # values that the method schedules over the training

    def add(self, kind: str, loss: paddle.Tensor) -> None:
        """Note the value of a loss."""
        self.losses.append((kind, loss.detach()))

    def note_accuracy(self, logits: paddle.Tensor, labels: paddle.Tensor) -> None:
        """Note the accuracy of logits [N, classes] with labels [N], if they are the step's first ones."""
        if self.accuracy is None:
            self.accuracy = (logits.detach().argmax(-1) == labels).astype("float32").mean()


def mean_metrics(parts: Sequence[Metrics]) -> Metrics:
    """Metrics of a whole batch from those of its micro-batches, which have the same passes and the same size."""
    if len(parts) == 1:
        return parts[0]
    losses = [
        (same[0][0], sum(loss for _, loss in same) / len(parts)) for same in zip(*(part.losses for part in parts), strict=True)
    ]
    accuracies = [part.accuracy for part in parts if part.accuracy is not None]
    return Metrics(
        losses,
        sum(accuracies) / len(accuracies) if accuracies else None,
        sum(part.pairs for part in parts),
        sum(part.pairs_out_of_order for part in parts),
        parts[0].schedules,
    )


class Strategy(Protocol):
    """A method at work. It owns its sampling and its losses."""

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """The forward and backward passes of one step, on images [N, 3, S, S] and labels [N], whose gradients add up.

        The trainer clears the gradients before and steps the optimizer after.
        """
        ...


class Method(Section, ABC):
    """The options of a method: the section ``method`` of a configuration."""

    name: Text
    grows: ClassVar[bool] = False
    """Ever smaller subnets join in during the training, so that the losses may rise; the report says so beside the curves."""

    @abstractmethod
    def start(self, parts: Parts) -> Strategy:
        """The method with these options, for one training."""


class Imported(Method):
    """A user's own method, ``my_module:MyOptions``. Its keys are checked when it starts: reading a configuration runs no code."""

    model_config = ConfigDict(extra="allow")

    def start(self, parts: Parts) -> Strategy:
        """Import the class, check the keys and start it; UserError if it is no :class:`Method`, or a step returns no Metrics."""
        options = import_callable(self.name, "method.name")
        if not (isinstance(options, type) and issubclass(options, Method) and not isabstract(options)):
            raise UserError(f"method.name {self.name}: must be a subclass of paddle_pgonas.methods.base.Method with start(parts)")
        strategy = validate(options, self.model_dump(), "method").start(parts)

        def checked(net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
            metrics = strategy(net, x, y, step)
            if not isinstance(metrics, Metrics) or not metrics.losses:
                raise UserError(
                    f"method.name {self.name}: a step returned {metrics!r:.60}; "
                    "it must return a methods.base.Metrics with at least one loss"
                )
            return metrics

        return checked


RandomSubnets = Callable[[Step], Sequence[Arch]]
"""The random subnets of a step. They depend on the step only, not on earlier calls."""


class Distilling(Method):
    """Options of the methods that train random subnets, which learn from a teacher's logits."""

    random_subnets: Integer = key(2, at_least=0)
    """Random subnets per step; a sandwich trains the largest and the smallest in addition."""

    distillation: Literal["soft_ce", "kl", "alpha"] = "soft_ce"
    """Soft cross-entropy (as published), KL divergence at ``temperature``, or AlphaNet's adaptive alpha-divergence."""
    temperature: Number = key(1.0, at_least=0.01)
    """Of ``kl`` only."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from self.no_use("temperature", self.distillation == "kl", "method.distillation=kl")

    @abstractmethod
    def subnets(self, parts: Parts) -> RandomSubnets:
        """How the method samples."""

    def distil(self) -> Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]:
        """The loss of a student's logits [N, C] against the teacher's detached logits [N, C]."""
        from paddle_pgonas.methods import losses

        if self.distillation == "kl":
            return lambda logits, teacher: losses.kl_divergence(logits, teacher, self.temperature)
        return {"soft_ce": losses.soft_cross_entropy, "alpha": losses.adaptive_alpha_divergence}[self.distillation]
