r"""Zen-score in closed form.

Zen-score (arXiv 2102.01063) measures how much a random network without shortcuts and head amplifies a small change e of its
input x: ``log E||f(x) - f(x + 0.01 e)||_1 + sum over BatchNorm layers of log sqrt(mean variance)``. With Gaussian weights and
BatchNorm on batch statistics every term has a mean-field value, so no network is built and nothing is sampled:

* after BatchNorm the signal is N(0, 1), and ``V = 1/2 - 1/(2 pi)`` is the variance of its ReLU;
* a k x k convolution over c channels multiplies the variance by k*k*c, reduced by the share of taps that fall on padding;
* the correlation rho of the streams x and x + 0.01 e starts at ``1 / sqrt(1 + 0.01**2)``; ReLU maps it to
  ``(kappa(rho) - 1/(2 pi)) / V`` with the arc-cosine kernel
  ``kappa(rho) = (sqrt(1 - rho**2) + rho (pi - arccos rho)) / (2 pi)``, and a convolution does not change it;
* the L1 distance of two N(0, 1) maps with correlation rho is proportional to ``sqrt(2 (1 - rho))`` per value.

The max-pool of the ImageNet stem adds the same constant to every architecture of the space, which does not change the order.
"""

from __future__ import annotations

from functools import cache
from math import acos, log, pi, sqrt

from paddle_pgonas.priors.geometry import TRUNK, convolutions
from paddle_pgonas.space.arch import Arch

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
    trunk = [layer for layer in convolutions(arch, image_size) if layer.part in TRUNK]
    log_variance = 0.0
    for layer in trunk:
        variance_in = RELU_VARIANCE if layer.index else 1.0  # the stem reads the image, the others the output of a ReLU
        taps = log_valid_share(layer.kernel, layer.stride, layer.side_in, layer.side)
        log_variance += log(layer.kernel**2 * layer.c_in * variance_in) + taps
    last = trunk[-1]
    return 0.5 * log_variance + log(last.c_out * last.side**2) + log_distance(len(trunk))
