"""Layers for elastic widths: PaddleSlim's convolution with a cheaper gradient, and a BatchNorm with channel slicing.

This BatchNorm switches between training and evaluation. PaddleSlim's SuperBatchNorm2D decides at its first call whether it uses
running statistics, and keeps this decision.
"""

from __future__ import annotations

from collections.abc import Iterable

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer, PyLayerContext

from paddle_pgonas import processes
from paddle_pgonas.nn.slim import SuperConv2D

SMALL = 9  # largest number of output pixels for which a CPU computes all images of a batch in one matrix product


def conv2d(x: paddle.Tensor, weight: paddle.Tensor, stride: int) -> paddle.Tensor:
    """``F.conv2d`` with half the kernel as padding: x [N, C, H, W], weight [O, C, k, k].

    On a CPU Paddle multiplies image by image. With 2x2 output pixels that reads the whole weight for four columns. One product
    for all images of the batch is twice as fast (measured: 75 against 35 GFLOP/s on one core, 512 channels, batch 64).
    """
    side = -(-x.shape[2] // stride)
    count, (c_out, _, kernel, _) = x.shape[0], weight.shape
    if not x.place.is_cpu_place() or side * side > SMALL or count <= 1:
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2)
    columns = F.unfold(x, kernel, stride, kernel // 2)  # [N, C * k * k, pixels]
    columns = columns.transpose([1, 0, 2]).reshape([columns.shape[1], -1])
    out = paddle.matmul(weight.reshape([c_out, -1]), columns)  # [O, N * pixels]
    return out.reshape([c_out, count, side, side]).transpose([1, 0, 2, 3])


class ElasticConv2D(SuperConv2D):
    """PaddleSlim's elastic convolution, with :class:`_LeadingFilters` for slicing the weight."""

    def forward(self, x: paddle.Tensor, channel: int | None = None) -> paddle.Tensor:
        """The first ``channel`` outputs (all by default), from the input channels that arrive. PaddleSlim passes ``channel``."""
        out_nc, in_nc = channel or self.weight.shape[0], x.shape[1]
        whole = [out_nc, in_nc] == self.weight.shape[:2]
        weight = self.weight if whole else _LeadingFilters.apply(self.weight, out_nc, in_nc)
        return conv2d(x, weight, self._stride[0])


class _LeadingFilters(PyLayer):
    """``weight[:out, :in]`` of a [O, I, k, k] weight.

    The gradient of Paddle's own slice fills a tensor of the whole weight's size by a general strided copy, which takes longer
    than the convolution itself when the batch is small (512 channels: 22 ms on one core; padding rows of k*k*in values: 2 ms).
    """

    @staticmethod
    def forward(ctx: PyLayerContext, weight: paddle.Tensor, out_nc: int, in_nc: int) -> paddle.Tensor:
        c_out, c_in, height, width = weight.shape
        ctx.shape = weight.shape
        ctx.padding = [0, c_out - out_nc, 0, (c_in - in_nc) * height * width]
        rows = weight.reshape([c_out, -1])[:out_nc, : in_nc * height * width]
        return rows.reshape([out_nc, in_nc, height, width])

    @staticmethod
    def backward(ctx: PyLayerContext, gradient: paddle.Tensor) -> paddle.Tensor:
        return F.pad(gradient.reshape([gradient.shape[0], -1]), ctx.padding).reshape(ctx.shape)


class ElasticBatchNorm2D(nn.BatchNorm2D):
    """BatchNorm over the leading ``x.shape[1]`` channels.

    In training mode it normalises with the batch statistics and updates the leading channels of the running statistics; in
    evaluation mode it uses the running statistics. With ``frozen`` set it uses the running statistics in both modes and never
    updates them (as the published runs did). With ``synchronised`` set the batch statistics are those of all processes.
    """

    frozen = False
    synchronised = False

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Normalised [N, C, H, W] for any C up to the layer's width."""
        width, mean, variance, weight, bias = x.shape[1], self._mean, self._variance, self.weight, self.bias
        if width < mean.shape[0]:
            mean, variance = mean._slice(0, width), variance._slice(0, width)  # these share the buffers' memory
            weight, bias = weight[:width], bias[:width]
        if not self.training or self.frozen:
            return F.batch_norm(x, mean, variance, weight, bias, training=False, epsilon=self._epsilon)
        if self.synchronised and processes.connected() > 1:
            return self._over_all_processes(x, weight, bias)
        # The kernel updates the running statistics in place. No backward pass reads them, it uses those of its own batch.
        return F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=self._momentum, epsilon=self._epsilon)

    def _over_all_processes(self, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        """With the statistics over all processes' batches. Paddle's own such layer cannot slice channels and needs GPUs."""
        width, shape = x.shape[1], [1, x.shape[1], 1, 1]
        count = processes.connected() * x.size / width
        mean = _Total.apply(x.astype("float32").sum([0, 2, 3])) / count
        centred = x.astype("float32") - mean.reshape(shape)
        variance = _Total.apply(centred.square().sum([0, 2, 3])) / count
        scale = weight * (variance + self._epsilon).rsqrt()
        with paddle.no_grad():
            for running, now in ((self._mean, mean), (self._variance, variance)):
                running[:width] = self._momentum * running[:width] + (1 - self._momentum) * now.detach()
        return (centred * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype)


class _Total(PyLayer):
    """The sum over the processes. Its gradient is summed as well, as every process's loss depends on every process's value."""

    @staticmethod
    def forward(ctx: PyLayerContext, values: paddle.Tensor) -> paddle.Tensor:
        return processes.total(values.clone())

    @staticmethod
    def backward(ctx: PyLayerContext, gradient: paddle.Tensor) -> paddle.Tensor:
        return processes.total(gradient.clone())


def calibrate(net: nn.Layer, batches: Iterable[paddle.Tensor]) -> None:
    """Give every BatchNorm of a stand-alone network the statistics of normalised images [n, 3, S, S], averaged over the batches.

    Each batch is normalised with its own statistics (a cumulative moving average); one batch gives exact statistics. Only the
    running statistics change; the network is in evaluation mode afterwards.
    """
    layers = [layer for layer in net.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    momenta = [layer._momentum for layer in layers]
    net.train()
    try:
        with paddle.no_grad():
            for number, x in enumerate(batches):
                for layer in layers:
                    layer._momentum = number / (number + 1)
                net(x)
    finally:
        net.eval()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer._momentum = momentum
