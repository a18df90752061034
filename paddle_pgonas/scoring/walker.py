"""Computes the logits of every candidate in a prefix tree, each shared activation once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from paddle_pgonas.nn.elastic import conv2d
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.scoring.tree import Node, sibling_groups, stem_width
from paddle_pgonas.space.arch import Block

SLICE_BYTES = 2**28
"""Largest size of the cached slices: enough for the layers of neighbouring paths, independent of the number of candidates."""

Visit = Callable[[Node, paddle.Tensor], None]
Maps = list[paddle.Tensor]
"""Feature maps [n, C, H, W] of one batch: a single tensor when scoring, one per micro-batch when calibrating."""


class Walker:
    """Walks trees with a supernet's weights, never changing them. Logits equal those of the active subnet in evaluation mode.

    ``bn`` says with which statistics maps are normalised: ``running`` uses leading slices of the supernet's, ``batch`` those of
    each batch of images, ``calibrated`` each prefix's own, which :meth:`calibrate` has stored in the tree. ``dtype`` is that of
    feature maps and of convolutions' weights; statistics and logits are float32 in any case.
    """

    def __init__(self, net: Supernet, bn: str, dtype: str = "float32") -> None:
        self.weights = Slices(net.weights(), dtype)
        self.blocks = net.model.blocks
        self.head = f"blocks.{net.space.first_blocks[-1]}.fc"
        self.stem = (net.space.stem_stride, net.space.stem_pool)
        self.dtype, self.normalise = dtype, MODES[bn]
        self.macs = 0
        """Multiply-accumulates of all convolutions and linear layers so far."""
        self.tell: Callable[[int], object] = lambda macs: None
        """Is told those of each layer when it is computed."""

    def calibrate(self, root: Node, batches: Iterable[Sequence[paddle.Tensor]]) -> None:
        """Store in every node the statistics of its BatchNorm layers on these images.

        Each batch is a sequence of micro-batches of normalised images [n, 3, S, S]. Several batches give the average of their
        statistics, where each batch is normalised with its own (a cumulative moving average). Within a batch the statistics are
        exact, independent of the micro-batches.
        """
        usual = self.normalise
        try:
            for number, micro_batches in enumerate(batches, start=1):
                self.normalise = partial(_calibrating, number)
                self._walk(root, list(micro_batches), None)
        finally:  # out of memory, which the caller meets with smaller micro-batches
            self.normalise = usual

    def walk(self, root: Node, x: paddle.Tensor, visit: Visit | None) -> None:
        """Call ``visit(node, logits [N, classes])`` at every node where candidates end, for images x [N, 3, S, S]."""
        self._walk(root, [x], visit)

    def _walk(self, root: Node, images: Maps, visit: Visit | None) -> None:
        stride, pool = self.stem
        with paddle.no_grad():
            maps = self._conv("blocks.0.conv", [x.astype(self.dtype) for x in images], 0, stem_width(root), stride)
            maps = [F.relu_(x) for x in self._batch_norm("blocks.0.bn", maps, root, 3)]
            if pool:
                maps = [F.max_pool2d(x, 3, 2, 1) for x in maps]
            self._descend(root, maps, visit)

    def _descend(self, node: Node, maps: Maps, visit: Visit | None) -> None:
        """Visit a node, whose output ``maps`` are, and everything below it."""
        if node.candidates and visit is not None:
            visit(node, self._logits(maps[0]))
        for group in sibling_groups(node):
            self._siblings(node, group, maps, visit)

    def _count(self, macs: int) -> None:
        self.macs += macs
        self.tell(macs)

    def _logits(self, x: paddle.Tensor) -> paddle.Tensor:
        weight = self.weights.linear(f"{self.head}.weight", x.shape[1])
        self._count(x.shape[0] * weight.size)
        return F.linear(x.astype("float32").mean([2, 3]), weight, self.weights.whole[f"{self.head}.bias"])

    def _siblings(self, parent: Node, group: Node, maps: Maps, visit: Visit | None) -> None:
        """Compute all children that are the same block of the network in different widths, and descend into each.

        ``maps`` are the parent's output, of which the block reads the leading ``c_in`` channels. A block is
        ``act(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``. What the children share is listed in ``tree.py``:
        they come by rising inner width, and to the sum over the inner channels of the narrower ones only the further are added.
        """
        index, c_in, _, _, stride = next(iter(group.children))
        name, rising = f"blocks.{index}", sorted(group.children, key=attrgetter("c_mid"))
        c_mid, c_out = rising[-1].c_mid, max(block.c_out for block in rising)
        maps = _channels(maps, 0, c_in)  # [n, c_in, H, W]; below h, w = H / stride, W / stride
        inner = self._conv(f"{name}.conv1", maps, 0, c_mid, stride)  # [n, c_mid, h, w]
        inner = [F.relu_(x) for x in self._batch_norm(f"{name}.bn1", inner, parent, c_in)]
        shortcut = maps  # [n, c_in, H, W], which with stride 1 is [n, c_out, h, w]
        if stride > 1:
            shortcut = self._conv(f"{name}.downsample.0", maps, 0, c_out, stride)
            shortcut = self._batch_norm(f"{name}.downsample.1", shortcut, parent, c_in)
        summed: Maps = []  # [n, c_out, h, w]: conv2 over the inner channels 0:done, in all output channels
        done, left = 0, len(rising)
        for mid, blocks in groupby(rising, attrgetter("c_mid")):
            summed = _added(summed, self._conv(f"{name}.conv2", _channels(inner, done, mid), done, c_out, 1))
            done = mid
            if done == c_mid:
                inner = []  # a map is large: what no later child needs is not kept during a descent
            for block in blocks:
                child, left = group.children[block], left - 1
                outs = self._output(block, summed, shortcut, child)
                if left == 0:
                    summed, shortcut = [], []
                self._descend(child, outs, visit)

    def _output(self, block: Block, summed: Maps, shortcut: Maps, node: Node) -> Maps:
        """``act(bn2(summed) + shortcut)`` in the block's output channels."""
        outs = self._batch_norm(f"blocks.{block.index}.bn2", _channels(summed, 0, block.c_out), node, block.c_mid)
        pairs = zip(outs, _channels(shortcut, 0, block.c_out), strict=True)
        return [self.blocks[str(block.index)].act(out.add_(x)) for out, x in pairs]

    def _batch_norm(self, name: str, maps: Maps, node: Node, c_in: int) -> Maps:
        """New maps by a layer's leading weights and biases; ``c_in`` is the input width of the convolution before the layer."""
        width, parts = maps[0].shape[1], ("weight", "bias", "_mean", "_variance")
        layer = Layer((name, c_in), *(self.weights.vector(f"{name}.{part}", width) for part in parts))
        return self.normalise(maps, layer, node)

    def _conv(self, name: str, maps: Maps, start: int, c_out: int, stride: int) -> Maps:
        """Convolution of ``maps``, the layer's input channels from ``start`` on, with its first ``c_out`` filters."""
        c_in = maps[0].shape[1]
        weight = self.weights.filters(f"{name}.weight", start, start + c_in, c_out)
        outs = [conv2d(x, weight, stride) for x in maps]
        self._count(sum(out.size for out in outs) * c_in * weight.shape[2] ** 2)
        return outs


class Layer(NamedTuple):
    """Leading slices of a BatchNorm layer's vectors [C], and the key of its statistics in a node."""

    key: tuple[str, int]
    weight: paddle.Tensor
    bias: paddle.Tensor
    mean: paddle.Tensor
    variance: paddle.Tensor


def _running(maps: Maps, layer: Layer, node: Node) -> Maps:
    return [F.batch_norm(x, layer.mean, layer.variance, layer.weight, layer.bias, training=False) for x in maps]


def _of_batch(maps: Maps, layer: Layer, node: Node) -> Maps:
    return _normalised_over_batch(maps, layer.weight, layer.bias)[0]


def _calibrated(maps: Maps, layer: Layer, node: Node) -> Maps:
    mean, variance = node.statistics[layer.key]
    return _running(maps, layer._replace(mean=mean, variance=variance), node)


def _calibrating(number: int, maps: Maps, layer: Layer, node: Node) -> Maps:
    """As ``batch``; stores the statistics, from the second batch on their average over the ``number`` of batches so far."""
    outs, mean, variance = _normalised_over_batch(maps, layer.weight, layer.bias)
    if number > 1:
        old_mean, old_variance = node.statistics[layer.key]
        mean, variance = old_mean.lerp(mean, 1 / number), old_variance.lerp(variance, 1 / number)
    node.statistics[layer.key] = (mean, variance)
    return outs


MODES: dict[str, Callable[[Maps, Layer, Node], Maps]] = {"running": _running, "batch": _of_batch, "calibrated": _calibrated}
"""How maps are normalised, by the value of ``bn``."""


class Slices:
    """Leading slices of a supernet's tensors, the last used cached up to SLICE_BYTES; convolutions' weights are of ``dtype``."""

    def __init__(self, whole: dict[str, paddle.Tensor], dtype: str) -> None:
        self.whole = {name: tensor.detach() for name, tensor in whole.items()}
        self.dtype = dtype
        self.cached: OrderedDict[Hashable, paddle.Tensor] = OrderedDict()
        self.bytes = 0

    def filters(self, name: str, start: int, stop: int, c_out: int) -> paddle.Tensor:
        """The first ``c_out`` filters of a convolution over its input channels ``start:stop``: [c_out, stop - start, k, k]."""
        whole = self.whole[name]
        if [start, stop, c_out] != [0, whole.shape[1], whole.shape[0]]:
            return self._cached((name, start, stop, c_out), lambda: whole[:c_out, start:stop].astype(self.dtype))
        return whole if self.dtype == "float32" else self._cached(name, lambda: whole.astype(self.dtype))

    def linear(self, name: str, c_in: int) -> paddle.Tensor:
        """The weight of the linear layer for its first inputs: [c_in, classes]."""
        whole = self.whole[name]
        return whole if c_in == whole.shape[0] else self._cached((name, c_in), lambda: whole[:c_in])

    def vector(self, name: str, width: int) -> paddle.Tensor:
        """The first ``width`` values of a BatchNorm's vector."""
        return self._cached((name, width), lambda: self.whole[name][:width].clone())

    def _cached(self, key: Hashable, cut: Callable[[], paddle.Tensor]) -> paddle.Tensor:
        if (piece := self.cached.get(key)) is not None:
            self.cached.move_to_end(key)
            return piece
        piece = cut()
        self.cached[key] = piece = piece.contiguous() if hasattr(piece, "contiguous") else piece
        self.bytes += piece.size * piece.element_size()
        while self.bytes > SLICE_BYTES:
            _, oldest = self.cached.popitem(last=False)
            self.bytes -= oldest.size * oldest.element_size()
        return piece


def _added(summed: Maps, more: Maps) -> Maps:
    """``more`` added to the sums of the narrower children in place; these are finished with them, as bn2 makes new maps."""
    return [x.add_(further) for x, further in zip(summed, more, strict=True)] if summed else more


def _channels(maps: Maps, start: int, stop: int) -> Maps:
    return maps if [start, stop] == [0, maps[0].shape[1]] else [x[:, start:stop] for x in maps]


def _normalised_over_batch(maps: Maps, weight: paddle.Tensor, bias: paddle.Tensor) -> tuple[Maps, paddle.Tensor, paddle.Tensor]:
    """BatchNorm of a batch with its own statistics, and these: mean and (biased) variance [C]."""
    if len(maps) == 1:
        # With momentum 0 the kernel writes the batch's own statistics into the running ones.
        mean, variance = paddle.zeros_like(weight), paddle.ones_like(weight)
        out = F.batch_norm(maps[0], mean, variance, weight, bias, training=True, momentum=0.0)
        return [out], mean, variance
    count, shape = sum(x.size for x in maps) / weight.size, [1, -1, 1, 1]
    mean = paddle.add_n([x.astype("float32").sum([0, 2, 3]) for x in maps]) / count
    variance = paddle.add_n([(x.astype("float32") - mean.reshape(shape)).square().sum([0, 2, 3]) for x in maps]) / count
    return [F.batch_norm(x, mean, variance, weight, bias, training=False) for x in maps], mean, variance
