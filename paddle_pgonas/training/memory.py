"""Whether a batch fits into a GPU's memory, estimated before the first step."""

from __future__ import annotations

import paddle

from paddle_pgonas.config.loading import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.runtime import device_memory
from paddle_pgonas.space.arch import Arch

VALUES_KEPT = 2
"""Least number of values stored for the backward pass per output value of a convolution: its output and that of the activation. A
process on a CPU was measured at 2.5 (docs/gpu.md)."""
VALUES_PER_WEIGHT = 3
"""A weight, its gradient and its momentum."""


def training_bytes(config: Config, arch: Arch, images: int) -> int:
    """Lower bound of the memory for a forward and backward pass of an architecture, with weights and optimizer."""
    everything = layers(arch, config.data.image_size, config.model.num_classes)
    width = 4 if config.train.amp == "off" else 2
    maps = sum(layer.c_out * layer.side**2 for layer in everything)
    return images * maps * VALUES_KEPT * width + sum(layer.params for layer in everything) * VALUES_PER_WEIGHT * 4


def check_memory(config: Config, arch: Arch) -> None:
    """Refuse a batch with which the largest trained architecture does not fit into the GPU.

    Raises:
        UserError: names the estimate, the GPU's memory, and the smallest ``train.accumulate`` that may fit.
    """
    if paddle.get_device() == "cpu":
        return
    train, there = config.train, device_memory()
    at_once = train.batch_size // train.accumulate
    if training_bytes(config, arch, at_once) <= there:
        return
    parts = range(train.accumulate + 1, train.batch_size + 1)
    fitting = (n for n in parts if train.batch_size % n == 0 and training_bytes(config, arch, train.batch_size // n) <= there)
    accumulate = next(fitting, None)
    remedies = [f"set train.accumulate={accumulate}" if accumulate else "lower data.image_size"]
    remedies += ["or train.amp=bf16"] if train.amp == "off" else []
    raise UserError(
        f"train.batch_size: {at_once} images at a time take {training_bytes(config, arch, at_once) / 2**30:.1f} GiB or more "
        f"(estimated), this GPU has {there / 2**30:.1f} GiB; {', '.join(remedies)}"
    )
