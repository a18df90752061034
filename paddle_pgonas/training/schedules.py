"""The learning rate as a function of the step, without state."""

from __future__ import annotations

from math import ceil, cos, pi

from paddle_pgonas.config.sections import Train

SECOND_PLACE_EPOCHS = 70
RESTARTS = ((0, 0.25), (5, 0.5), (15, 1.0), (30, 0.25), (35, 0.5), (45, 1.0))
"""(epoch at which a cosine of the 2nd place starts, of 70; its highest rate as a share of the highest of all)."""


def total_steps(settings: Train, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    return min(settings.epochs * steps_per_epoch, settings.max_steps or 2**62)


def learning_rate(train: Train, step: int, steps_per_epoch: int, total_batch: int) -> float:
    """Learning rate of a step (both counted from 0).

    ``cosine``: rises linearly over ``warmup_epochs``, reaching the highest rate at its last step, then falls to 0 at the end.
    ``published``: rises from exactly 0 over ``int(warmup_images / total_batch) * warmup_epochs`` steps, independent of
    the size of the data, then takes one cosine step at the end of each epoch, with a half-period of ``epochs``. If the warm-up
    ends with the last step of an epoch, this epoch counts already. On ImageNet-mini the rate never leaves the warm-up.
    ``restarts``: the 2nd place's six cosines, without a warm-up, rescaled to the length of the run.
    """
    highest = train.lr_per_256 * total_batch / 256
    if train.schedule == "published":
        warmup = int(int(train.warmup_images / total_batch) * train.warmup_epochs)
        if step < warmup:
            return highest * step / warmup
        first_end = max(1, ceil(warmup / steps_per_epoch))  # epochs that have ended when the cosine takes its first step
        epochs_since = step // steps_per_epoch - first_end + 1
        return highest * 0.5 * (1 + cos(pi * epochs_since / train.epochs))
    total = train.epochs * steps_per_epoch
    if train.schedule == "restarts":
        return highest * restarted_cosine(step / total)
    warmup = min(round(train.warmup_epochs * steps_per_epoch), total)
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * 0.5 * (1 + cos(pi * (step - warmup) / max(1, total - warmup)))


def restarted_cosine(progress: float) -> float:
    """The learning rate, relative to the highest, of the 2nd place's restarted cosines at a share of the run (0 to 1)."""
    epoch = progress * SECOND_PLACE_EPOCHS
    number = max(index for index, (begin, _) in enumerate(RESTARTS) if begin <= epoch)
    begin, highest = RESTARTS[number]
    end = RESTARTS[number + 1][0] if number + 1 < len(RESTARTS) else SECOND_PLACE_EPOCHS
    return highest * 0.5 * (1 + cos(pi * (epoch - begin) / (end - begin)))
