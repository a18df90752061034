"""Detection of diverged or collapsed training. All processes decide together, so that none waits for one that stopped."""

from __future__ import annotations

import math

import paddle

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Train
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.errors import Diverged


def check_losses(losses: dict[str, float]) -> None:
    """Raise Diverged if a loss, the mean over all processes, is not a finite number."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value}: training diverged")


class Health:
    """Collects the accuracy of the first subnet of each step, and checks weights before a checkpoint."""

    def __init__(self, settings: Train, batches: EpochBatches) -> None:
        self.settings, self.batches = settings, batches
        self._restart()

    def _restart(self) -> None:
        self.right, self.steps = paddle.zeros([]), 0

    def add(self, accuracy: paddle.Tensor | None) -> None:
        """Add the share of a step's images that its first subnet classified correctly."""
        if accuracy is not None:
            self.right += accuracy
            self.steps += 1

    def check(self, step: int, parameters: list[paddle.Tensor]) -> None:
        """Raise Diverged if a weight is not finite; or if, after the warm-up and a whole epoch, the accuracy of the first subnet
        since the last check is not above that of guessing (by four standard deviations)."""
        finite = bool(paddle.isfinite(paddle.add_n([weight.sum() for weight in parameters])))
        if processes.any_of(not finite):
            raise Diverged(f"weights are no longer numbers at step {step}: training diverged")
        per_epoch, steps = self.batches.steps_per_epoch, self.steps
        if steps < per_epoch:
            return
        accuracy, chance = float(processes.mean(self.right)) / steps, 1 / len(self.batches.source.classes)
        self._restart()
        images = steps * self.settings.batch_size * processes.connected()
        guessing = chance + 4 * math.sqrt(chance * (1 - chance) / images)
        warm = self.settings.schedule == "cosine" and step > (self.settings.warmup_epochs + 1) * per_epoch
        if warm and accuracy <= guessing < chance + (1 - chance) / 4:  # otherwise there are too few images to decide
            raise Diverged(f"accuracy {accuracy:.4f} before step {step}, where guessing gives {chance:.4f}: training collapsed")
