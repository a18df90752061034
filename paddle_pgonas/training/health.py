"""Whether a training is still worth its time. Several processes decide it together, so that none waits for one that gave up."""

from __future__ import annotations

import math

import paddle

from paddle_pgonas import distributed
from paddle_pgonas.config import Train
from paddle_pgonas.data.batches import EpochBatches


class Collapse(Exception):
    """The training is lost: losses or weights are no longer numbers, or the network guesses."""


def check_losses(losses: dict[str, float]) -> None:
    """Raise Collapse if a loss, the mean over all processes, is not a finite number."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise Collapse(f"{name} is {value}: training diverged")


class Health:
    """Collects how often the first subnet of each step is right, and lets no broken weights into a checkpoint."""

    def __init__(self, settings: Train, batches: EpochBatches) -> None:
        self.settings, self.batches = settings, batches
        self._restart()

    def _restart(self) -> None:
        self.right, self.steps = paddle.zeros([]), 0

    def add(self, accuracy: paddle.Tensor | None) -> None:
        """Take in the share of a step's images that its first subnet classified right."""
        if accuracy is not None:
            self.right += accuracy
            self.steps += 1

    def check(self, step: int, parameters: list[paddle.Tensor]) -> None:
        """Let no broken weights into a checkpoint.

        Raises:
            Collapse: a weight is not a number; or the warm-up and a whole epoch are over, and the first subnet of the steps
                since the last check is right no more often than guessing would be (by four standard deviations).
        """
        finite = bool(paddle.isfinite(paddle.add_n([weight.sum() for weight in parameters])))
        if distributed.any_of(not finite):
            raise Collapse(f"weights are no longer numbers at step {step}: training diverged")
        per_epoch, steps = self.batches.steps_per_epoch, self.steps
        if steps < per_epoch:
            return
        accuracy, chance = float(distributed.mean(self.right)) / steps, 1 / len(self.batches.source.classes)
        self._restart()
        images = steps * self.settings.batch_size * distributed.connected()
        guessing = chance + 4 * math.sqrt(chance * (1 - chance) / images)
        warm = self.settings.schedule == "cosine" and step > (self.settings.warmup_epochs + 1) * per_epoch
        if warm and accuracy <= guessing < chance + (1 - chance) / 4:  # else the images are too few to tell
            raise Collapse(f"accuracy {accuracy:.4f} before step {step}, where guessing gives {chance:.4f}: training collapsed")
