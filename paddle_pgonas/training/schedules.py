"""Learning rate and rank-loss weight as functions of the step and the epoch, without state."""

from __future__ import annotations

from math import ceil, cos, pi, sin

from paddle_pgonas.config.loading import Train

PUBLISHED_EPOCHS = 70
RESTARTS = ((0, 0.25), (5, 0.5), (15, 1.0), (30, 0.25), (35, 0.5), (45, 1.0))
"""(epoch at which a cosine of the 2nd place starts, of 70; its highest rate as a share of the highest of all)."""


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
    epoch = progress * PUBLISHED_EPOCHS
    number = max(index for index, (begin, _) in enumerate(RESTARTS) if begin <= epoch)
    begin, highest = RESTARTS[number]
    end = RESTARTS[number + 1][0] if number + 1 < len(RESTARTS) else PUBLISHED_EPOCHS
    return highest * 0.5 * (1 + cos(pi * (epoch - begin) / (end - begin)))


def _multi_stage(epoch: float) -> float:
    if epoch < 5:
        return 0.0
    if epoch < 20:
        return 2 * (epoch - 5) / 15
    return 2.0 if epoch < 50 else 7 - epoch / 10


RANK_LAMBDAS = {
    "warmup": lambda epoch: min(2.0, epoch / 10),
    "constant": lambda epoch: 1.0,
    "sine": lambda epoch: 2 * sin(0.8 * pi * epoch / PUBLISHED_EPOCHS),
    "multi_stage": _multi_stage,
}


def rank_lambda(train: Train, step: int, steps_per_epoch: int) -> float:
    """Weight of the rank loss at a step (from 0), never negative: one of the paper's schedules times ``rank_weight``.

    The schedules change per epoch and are defined for 70 epochs. With ``stretch_lambda`` they are rescaled to the run's length.
    """
    total = train.epochs * steps_per_epoch
    epoch = step * PUBLISHED_EPOCHS // total if train.stretch_lambda else step // steps_per_epoch
    return train.rank_weight * max(0.0, RANK_LAMBDAS[train.rank_lambda](epoch))
