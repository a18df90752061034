"""Computes the logits of every candidate in a prefix tree, each shared activation once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_pgonas.nn.functional import conv2d
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.scoring.tree import Node, sibling_groups, stem_width

SLICE_BYTES = 2**28
"""Largest size of the cached slices: enough for the layers of neighbouring paths, independent of the number of candidates."""

Visit = Callable[[Node, paddle.Tensor], None]
Maps = list[paddle.Tensor]
"""Feature maps [n, C, H, W] of one batch: a single tensor when scoring, one per micro-batch when calibrating."""


class Walker:
    """Walks trees with a supernet's weights. Logits equal those of the active subnet in evaluation mode.

    Args:
        net: only its weights and outer activations are used, never changed.
        bn: ``running`` uses leading slices of the supernet's statistics, ``batch`` those of each batch of images,
            ``calibrated`` each prefix's own, which :meth:`calibrate` has stored in the tree.
        dtype: of feature maps and of convolutions' weights; statistics and logits are float32 in any case.

    Slices of weights are cached, up to SLICE_BYTES.
    """

    def __init__(self, net: Supernet, bn: str, dtype: str = "float32") -> None:
        self.weights = net.weights()
        self.blocks = net.model.blocks
        self.head = net.space.first_blocks[-1]
        self.stem = (net.space.stem_stride, net.space.stem_pool)
        self.bn, self.dtype = bn, dtype
        self.macs = 0
        """Multiply-accumulates of all convolutions and linear layers so far."""
        self._calibrating, self._batches_seen = False, 0
        self._slices = _SliceCache()

    def calibrate(self, root: Node, batches: Iterable[Sequence[paddle.Tensor]]) -> None:
        """Store in every node the statistics of its BatchNorm layers on these images.

        Several batches give the average of their statistics, where each batch is normalised with its own (a cumulative moving
        average). Within a batch the statistics are exact, independent of the micro-batches.

        Args:
            batches: each one a sequence of micro-batches of normalised images [n, 3, S, S].
        """
        self._calibrating = True
        for number, micro_batches in enumerate(batches, start=1):
            self._batches_seen = number
            self._walk(root, list(micro_batches), None)
        self._calibrating = False

    def walk(self, root: Node, x: paddle.Tensor, visit: Visit | None) -> None:
        """Call ``visit(node, logits [N, classes])`` at every node where candidates end, for images x [N, 3, S, S]."""
        self._walk(root, [x], visit)

    def _walk(self, root: Node, maps: Maps, visit: Visit | None) -> None:
        width, (stride, pool) = stem_width(root), self.stem
        with paddle.no_grad():
            maps = [x.astype(self.dtype) for x in maps]
            maps = self._conv("blocks.0.conv", maps, 0, width, stride)
            maps = [F.relu_(x) for x in self._batch_norm("blocks.0.bn", maps, root, 3)]
            if pool:
                maps = [F.max_pool2d(x, 3, 2, 1) for x in maps]
            self._descend(root, maps, visit)

    def _descend(self, node: Node, maps: Maps, visit: Visit | None) -> None:
        if node.candidates and visit is not None:
            visit(node, self._logits(maps[0]))
        for group in sibling_groups(node):
            self._siblings(node, group, maps, visit)

    def _logits(self, x: paddle.Tensor) -> paddle.Tensor:
        width = x.shape[1]
        weight = self._slice(f"blocks.{self.head}.fc.weight", 0, width, None)
        self.macs += x.shape[0] * width * weight.shape[1]
        return F.linear(x.astype("float32").mean([2, 3]), weight, self.weights[f"blocks.{self.head}.fc.bias"])

    def _siblings(self, parent: Node, group: Node, maps: Maps, visit: Visit | None) -> None:
        """All children that are the same block of the network in different widths."""
        index, c_in, _, _, stride = next(iter(group.children))
        name = f"blocks.{index}"
        maps = _channels(maps, 0, c_in)
        mids = group.by_mid_width()
        c_out = max(block.c_out for block in group.children)
        inner = self._conv(f"{name}.conv1", maps, 0, mids[-1][0], stride)
        inner = [F.relu_(x) for x in self._batch_norm(f"{name}.bn1", inner, parent, c_in)]
        shortcut = maps
        if stride > 1:
            shortcut = self._conv(f"{name}.downsample.0", maps, 0, c_out, stride)
            shortcut = self._batch_norm(f"{name}.downsample.1", shortcut, parent, c_in)
        total: Maps = []
        done = 0
        for mid, children in mids:
            added = self._conv(f"{name}.conv2", _channels(inner, done, mid), done, c_out, 1)
            total = [x.add_(more) for x, more in zip(total, added, strict=True)] if total else added
            done = mid
            for child in children:
                assert child.block is not None
                width = child.block.c_out
                outs = self._batch_norm(f"{name}.bn2", _channels(total, 0, width), child, mid)
                sums = zip(outs, _channels(shortcut, 0, width), strict=True)
                self._descend(child, [self._activate(index, out.add_(x)) for out, x in sums], visit)

    def _activate(self, index: int, x: paddle.Tensor) -> paddle.Tensor:
        """The activation after a block's sum; PReLU needs its slope in the dtype of the feature maps."""
        act = self.blocks[str(index)].act
        if isinstance(act, nn.PReLU) and self.dtype != "float32":
            return F.prelu(x, act._weight.detach().astype(self.dtype))
        return act(x)

    def _conv(self, name: str, maps: Maps, start: int, c_out: int, stride: int) -> Maps:
        """Convolution of the input channels from ``start`` on with the first ``c_out`` filters."""
        c_in = maps[0].shape[1]
        weight = self._slice(f"{name}.weight", start, start + c_in, c_out)
        outs = [conv2d(x, weight, stride) for x in maps]
        self.macs += sum(out.size for out in outs) * c_in * weight.shape[2] ** 2
        return outs

    def _slice(self, name: str, start: int, stop: int, c_out: int | None) -> paddle.Tensor:
        """Input channels ``start:stop`` of a weight; [out, in, kh, kw] with ``c_out``, [in, out] without."""
        whole, dtype = self.weights[name].detach(), "float32" if c_out is None else self.dtype
        parts = (slice(start, stop),) if c_out is None else (slice(c_out), slice(start, stop))
        if all(part.start in (0, None) and part.stop == size for part, size in zip(parts, whole.shape, strict=False)):
            return whole if dtype == "float32" else self._slices.get((name, None), lambda: whole.astype(dtype))
        return self._slices.get((name, start, stop, c_out), lambda: whole[parts].astype(dtype))

    def _batch_norm(self, name: str, maps: Maps, node: Node, c_in: int) -> Maps:
        """BatchNorm over leading channels with the statistics of this walker's mode.

        ``node`` stores calibrated statistics; ``c_in``, the input width of the preceding convolution, distinguishes its groups.
        """
        width, key = maps[0].shape[1], (name, c_in)
        parts = [self._vector(f"{name}.{part}", width) for part in ("_mean", "_variance", "weight", "bias")]
        if self.bn == "batch" or self._calibrating:
            outs, mean, variance = _normalised_over_batch(maps, *parts[2:])
            if self._calibrating:
                average, share = node.statistics.get(key), 1 / self._batches_seen
                if average is not None and self._batches_seen > 1:
                    mean, variance = average[0].lerp(mean, share), average[1].lerp(variance, share)
                node.statistics[key] = (mean, variance)
            return outs
        if self.bn == "calibrated":
            parts[:2] = node.statistics[key]
        return [F.batch_norm(x, *parts, training=False) for x in maps]

    def _vector(self, name: str, width: int) -> paddle.Tensor:
        return self._slices.get((name, width), lambda: self.weights[name].detach()[:width].clone())


class _SliceCache:
    """A least-recently-used cache of slices, up to SLICE_BYTES."""

    def __init__(self) -> None:
        self.slices: OrderedDict[Hashable, paddle.Tensor] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, cut: Callable[[], paddle.Tensor]) -> paddle.Tensor:
        """The slice of this key; computed by ``cut`` if it is not cached."""
        piece = self.slices.get(key)
        if piece is not None:
            self.slices.move_to_end(key)
            return piece
        piece = cut()
        self.slices[key] = piece = piece.contiguous() if hasattr(piece, "contiguous") else piece
        self.bytes += piece.size * piece.element_size()
        while self.bytes > SLICE_BYTES:
            _, oldest = self.slices.popitem(last=False)
            self.bytes -= oldest.size * oldest.element_size()
        return piece


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
