"""Zen-score (arXiv 2102.01063): how much a random network amplifies a small change of its input.

The closed form has the mean-field value of every term, so nothing is sampled; docs/method.md derives it. It leaves out the
max-pool of the ImageNet stem, which adds the same constant to every architecture of the space.
"""

from __future__ import annotations

from functools import cache
from math import acos, log, pi, sqrt
from typing import TYPE_CHECKING

from paddle_pgonas.priors.geometry import TRUNK, Layer, convolutions
from paddle_pgonas.runtime import prepare_process
from paddle_pgonas.space.arch import Arch

if TYPE_CHECKING:
    import paddle

RELU_VARIANCE = 0.5 - 0.5 / pi


@cache
def log_valid_share(kernel: int, stride: int, side_in: int, side_out: int) -> float:
    """Log of the share of a convolution's taps that fall on the image and not on its zero padding (both axes)."""
    pad = kernel // 2
    taps = sum(0 <= out * stride - pad + tap < side_in for out in range(side_out) for tap in range(kernel))
    return 2 * log(taps / (kernel * side_out))


@cache
def log_distance(convolutions: int) -> float:
    """Log of ``sqrt(2 (1 - rho))`` after this number of convolutions with a ReLU between each two."""
    # 1 - rho is 5e-5 at the start; it is stored as a difference to avoid cancellation in 1 - (1 - 5e-5).
    gap = 1 - 1 / sqrt(1 + 0.01**2)
    for _ in range(convolutions - 1):
        rho = 1 - gap
        kappa_gap = (pi - sqrt(1 - rho * rho) - rho * (pi - acos(rho))) / (2 * pi)  # kappa(1) - kappa(rho)
        gap = kappa_gap / RELU_VARIANCE
    return 0.5 * log(2 * gap)


def zen_score(arch: Arch, image_size: int) -> float:
    """Closed-form Zen-score of an architecture for images of this side."""
    trunk = _trunk(arch, image_size)
    log_variance = 0.0
    for layer in trunk:
        variance_in = RELU_VARIANCE if layer.index else 1.0  # the stem reads the image, the others the output of a ReLU
        valid = log_valid_share(layer.kernel, layer.stride, layer.side_in, layer.side)
        log_variance += log(layer.kernel**2 * layer.c_in * variance_in) + valid
    last = trunk[-1]
    return 0.5 * log_variance + log(last.c_out * last.side**2) + log_distance(len(trunk))


def zen_score_monte_carlo(arch: Arch, image_size: int) -> float:
    """Mean over 2 draws of ``log E||f(x) - f(x + 0.01 e)||_1 + sum over BatchNorm layers of log sqrt(mean variance)``.

    f is the network up to its last ReLU, without shortcuts and head, with N(0, 1) weights and BatchNorm on batch statistics;
    x and e are 8 images of N(0, 1). It checks the closed form. The published setting has twice the batch and more draws.
    """
    prepare_process()
    import paddle

    paddle.seed(0)
    with paddle.no_grad():
        return sum([_draw(_trunk(arch, image_size), paddle.randn([8, 3, image_size, image_size])) for _ in range(2)]) / 2


def _draw(trunk: list[Layer], x: paddle.Tensor) -> float:
    """One draw, layer by layer, of the weights that x and the changed x share."""
    import paddle

    functional, streams, log_deviation = paddle.nn.functional, [x, x + 0.01 * paddle.randn(x.shape)], 0.0
    for layer in trunk:
        if streams[0].shape[-1] != layer.side_in:  # the stem's pool
            streams = [functional.max_pool2d(stream, 3, 2, 1) for stream in streams]
        weight = paddle.randn([layer.c_out, layer.c_in, layer.kernel, layer.kernel])
        outputs = [functional.conv2d(stream, weight, stride=layer.stride, padding=layer.kernel // 2) for stream in streams]
        log_deviation += 0.5 * log(float(outputs[0].var([0, 2, 3], unbiased=False).mean()))
        streams = [functional.relu(_normalise(output)) for output in outputs]
    return log(float((streams[0] - streams[1]).abs().sum([1, 2, 3]).mean())) + log_deviation


def _normalise(x: paddle.Tensor) -> paddle.Tensor:
    """BatchNorm on the batch's own statistics, without scale and shift."""
    mean = x.mean([0, 2, 3], keepdim=True)
    return (x - mean) / (x.var([0, 2, 3], unbiased=False, keepdim=True) + 1e-5).sqrt()


def _trunk(arch: Arch, image_size: int) -> list[Layer]:
    return [layer for layer in convolutions(arch, image_size) if layer.part in TRUNK]
