"""Zen-score by Monte Carlo sampling (arXiv 2102.01063): random weights and images, no shortcuts. It checks the closed form."""

from __future__ import annotations

from math import log

import paddle
import paddle.nn.functional as F

from paddle_pgonas.priors.geometry import TRUNK, convolutions
from paddle_pgonas.space.arch import Arch


def zen_score_monte_carlo(
    arch: Arch, image_size: int, batch: int = 8, repeats: int = 2, seed: int = 0, gamma: float = 0.01
) -> float:
    """Mean over ``repeats`` draws of ``log E||f(x) - f(x + gamma e)||_1 + sum over BatchNorm layers of log sqrt(mean variance)``.

    f is the network up to its last ReLU, without shortcuts and head, with N(0, 1) weights and BatchNorm on batch statistics;
    x and e are N(0, 1) images. It is cheaper than the published setting: half the side, half the batch, fewer repeats.
    """
    paddle.seed(seed)
    with paddle.no_grad():
        scores = [_draw(arch, image_size, batch, gamma) for _ in range(repeats)]
    return sum(scores) / repeats


def _draw(arch: Arch, side: int, batch: int, gamma: float) -> float:
    """One draw of images and, layer by layer, of the weights that both streams share."""
    x = paddle.randn([batch, 3, side, side])
    streams = [x, x + gamma * paddle.randn(x.shape)]
    log_deviation = 0.0

    for layer in convolutions(arch, side):
        if layer.part not in TRUNK:
            continue
        if streams[0].shape[-1] != layer.side_in:  # the stem's pool
            streams = [F.max_pool2d(stream, 3, 2, 1) for stream in streams]
        weight = paddle.randn([layer.c_out, layer.c_in, layer.kernel, layer.kernel])
        outputs = [F.conv2d(stream, weight, stride=layer.stride, padding=layer.kernel // 2) for stream in streams]
        log_deviation += 0.5 * log(float(outputs[0].var([0, 2, 3], unbiased=False).mean()))
        streams = [F.relu(_normalise(output)) for output in outputs]
    distance = (streams[0] - streams[1]).abs().sum([1, 2, 3]).mean()
    return log(float(distance)) + log_deviation


def _normalise(x: paddle.Tensor) -> paddle.Tensor:
    """BatchNorm on the batch's own statistics, without scale and shift."""
    mean = x.mean([0, 2, 3], keepdim=True)
    return (x - mean) / (x.var([0, 2, 3], unbiased=False, keepdim=True) + 1e-5).sqrt()
