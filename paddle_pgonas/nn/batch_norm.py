"""BatchNorm for elastic widths: takes the leading channels that arrive, and keeps its promises about statistics.

PaddleSlim's SuperBatchNorm2D decides at its first call whether it uses running statistics and keeps to it for good: traced in
evaluation mode first, it never trains on batch statistics; called in training mode first, it evaluates on them ever after.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class ElasticBatchNorm2D(nn.BatchNorm2D):
    """BatchNorm over the leading ``x.shape[1]`` channels.

    In training mode it normalises with the batch's statistics and moves the leading running statistics; in evaluation mode it
    uses these; switching back and forth works. With ``frozen`` set it uses the running statistics in both modes and never
    moves them (as the published runs did).
    """

    frozen: bool = False

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Normalised [N, C, H, W] for any C up to the layer's width."""
        width = x.shape[1]
        whole = width == self._mean.shape[0]
        weight = self.weight if whole else self.weight[:width]
        bias = self.bias if whole else self.bias[:width]
        if not self.training or self.frozen:
            mean = self._mean if whole else self._mean[:width]
            variance = self._variance if whole else self._variance[:width]
            return F.batch_norm(x, mean, variance, weight, bias, training=False, epsilon=self._epsilon)
        # The kernel writes into what it is given and autograd keeps that, so it gets copies: a slice may be a view (Paddle 3)
        # or a copy (Paddle 2), and two forwards before a backward must not disturb each other.
        mean, variance = self._mean[:width].clone(), self._variance[:width].clone()
        out = F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=self._momentum, epsilon=self._epsilon)
        with paddle.no_grad():
            self._mean[:width] = mean.detach()
            self._variance[:width] = variance.detach()
        return out


def calibrate(net: nn.Layer, x: paddle.Tensor) -> None:
    """Give every BatchNorm of a stand-alone network the statistics of these images, taken as one batch.

    Args:
        net: changed in its running statistics only; left in evaluation mode.
        x: normalised images [N, 3, S, S].
    """
    layers = [layer for layer in net.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    momenta = [layer._momentum for layer in layers]
    for layer in layers:
        layer._momentum = 0.0  # the batch's own statistics take the place of the running ones
    net.train()
    try:
        with paddle.no_grad():
            net(x)
    finally:
        net.eval()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer._momentum = momentum
