"""Whether a batch fits into a GPU's memory, estimated before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from paddle_pgonas.config.loading import Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors.geometry import Layer
from paddle_pgonas.runtime import PRECISIONS, device_memory, recommended_amp

VALUES_KEPT = 2
"""Least number of values stored for the backward pass per output value of a convolution: its output and that of the activation. A
process on a CPU was measured at 2.5 (docs/several_gpus.md)."""
VALUES_PER_WEIGHT = 3
"""A weight, its gradient and its momentum."""


def training_bytes(everything: Sequence[Layer], amp: str, images: int) -> int:
    """Lower bound of the memory for a forward and backward pass of a network's layers, with weights and optimizer."""
    width = PRECISIONS[amp].value_bytes
    maps = sum(layer.c_out * layer.side**2 for layer in everything)
    return images * maps * VALUES_KEPT * width + sum(layer.params for layer in everything) * VALUES_PER_WEIGHT * 4


def check_memory(everything: Sequence[Layer], train: Train) -> None:
    """Raise UserError for a batch with which these layers, of the largest trained architecture, do not fit into the GPU.

    It names the estimate, the GPU's memory, and the smallest ``train.accumulate`` that may fit.
    """
    if paddle.get_device() == "cpu":
        return
    there, at_once = device_memory(), train.batch_size // train.accumulate

    def bytes_of(images: int) -> int:
        return training_bytes(everything, train.amp, images)

    if bytes_of(at_once) <= there:
        return
    parts = range(train.accumulate + 1, train.batch_size + 1)
    accumulate = next((n for n in parts if train.batch_size % n == 0 and bytes_of(train.batch_size // n) <= there), None)
    remedies = [f"set train.accumulate={accumulate}" if accumulate else "lower data.image_size"]
    low = recommended_amp()
    remedies += [f"or train.amp={low}"] if low and PRECISIONS[train.amp].value_bytes == 4 else []
    raise UserError(
        f"train.batch_size: {at_once} images at a time take {bytes_of(at_once) / 2**30:.1f} GiB or more "
        f"(estimated), this GPU has {there / 2**30:.1f} GiB; {', '.join(remedies)}"
    )
