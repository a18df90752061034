"""What the priors at initialisation see of a subnet: one batch through it with random weights, BatchNorm on batch statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import paddle


class FirstPass(NamedTuple):
    """One pass; feature maps in the order of computation, float32 [N, C, H, W]."""

    before: list[paddle.Tensor]
    """Input of every activation function (pre-activations)."""
    after: list[paddle.Tensor]
    """Its output (post-activations)."""
    weights: list[paddle.Tensor]
    """Of all convolutions and the linear layer, without biases and BatchNorm; empty for priors that need no gradient."""
    gradients: list[paddle.Tensor]
    """Of the mean cross-entropy with the labels, for each of the weights."""
    rng: np.random.Generator
    """For random choices, seeded as the weights are."""


GRADIENTS = ("snip", "grad_norm")
"""The priors that need labels and gradients."""
