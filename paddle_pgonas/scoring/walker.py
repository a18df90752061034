"""Computes the logits of every candidate in a prefix tree, each shared activation once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import paddle
import paddle.nn.functional as F

from paddle_pgonas.nn.functional import conv2d
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.scoring.tree import Node, sibling_groups, stem_width

SLICE_BYTES = 2**28
"""Bound of the slices kept: enough for the layers of neighbouring paths, whatever the number of candidates."""

Visit = Callable[[Node, paddle.Tensor], None]


class Walker:
    """Walks trees with a supernet's weights. Logits equal those of the active subnet in evaluation mode.

    Args:
        net: only its weights and outer activations are used, never changed.
        bn: ``running`` uses leading slices of the supernet's statistics, ``batch`` those of each batch of images,
            ``calibrated`` each prefix's own, which :meth:`calibrate` leaves in the tree beforehand.

    Slices of weights are kept while they are in use, at most SLICE_BYTES of them.
    """

    def __init__(self, net: Supernet, bn: str) -> None:
        self.weights = net.weights()
        self.blocks = net.model.blocks
        self.head = net.space.first_blocks[-1]
        self.stem = (net.space.stem_stride, net.space.stem_pool)
        self.bn = bn
        self.macs = 0
        """Multiply-accumulates of all convolutions and linear layers so far."""
        self._calibrating = False
        self._slices = _SliceCache()

    def calibrate(self, root: Node, x: paddle.Tensor) -> None:
        """Leave in every node the statistics that its BatchNorm layers see on these images, taken as one batch.

        Args:
            x: normalised images [N, 3, S, S].
        """
        self._calibrating = True
        self.walk(root, x, None)
        self._calibrating = False

    def walk(self, root: Node, x: paddle.Tensor, visit: Visit | None) -> None:
        """Call ``visit(node, logits [N, classes])`` at every node where candidates end."""
        width, (stride, pool) = stem_width(root), self.stem
        with paddle.no_grad():
            x = self._conv("blocks.0.conv", x, 0, width, stride)
            x = F.relu_(self._batch_norm("blocks.0.bn", x, root, 3))
            if pool:
                x = F.max_pool2d(x, 3, 2, 1)
            self._descend(root, x, visit)

    def _descend(self, node: Node, x: paddle.Tensor, visit: Visit | None) -> None:
        if node.candidates and visit is not None:
            visit(node, self._logits(x))
        for group in sibling_groups(node):
            self._siblings(node, group, x, visit)

    def _logits(self, x: paddle.Tensor) -> paddle.Tensor:
        width = x.shape[1]
        weight = self._slice(f"blocks.{self.head}.fc.weight", 0, width, None)
        self.macs += x.shape[0] * width * weight.shape[1]
        return F.linear(x.mean([2, 3]), weight, self.weights[f"blocks.{self.head}.fc.bias"])

    def _siblings(self, parent: Node, group: Node, x: paddle.Tensor, visit: Visit | None) -> None:
        """All children that are the same block of the network in different widths."""
        index, c_in, _, _, stride = next(iter(group.children))
        name = f"blocks.{index}"
        x = _leading(x, c_in)
        mids = group.by_mid_width()
        c_out = max(block.c_out for block in group.children)
        inner = self._conv(f"{name}.conv1", x, 0, mids[-1][0], stride)
        inner = F.relu_(self._batch_norm(f"{name}.bn1", inner, parent, c_in))
        shortcut = x
        if stride > 1:
            shortcut = self._conv(f"{name}.downsample.0", x, 0, c_out, stride)
            shortcut = self._batch_norm(f"{name}.downsample.1", shortcut, parent, c_in)
        total, done = None, 0
        for mid, children in mids:
            part = inner if mid == inner.shape[1] and not done else inner[:, done:mid]
            added = self._conv(f"{name}.conv2", part, done, c_out, 1)
            total, done = added if total is None else total.add_(added), mid
            for child in children:
                assert child.block is not None
                out = self._batch_norm(f"{name}.bn2", _leading(total, child.block.c_out), child, mid)
                out = self.blocks[str(index)].act(out.add_(_leading(shortcut, child.block.c_out)))
                self._descend(child, out, visit)

    def _conv(self, name: str, x: paddle.Tensor, start: int, c_out: int, stride: int) -> paddle.Tensor:
        """Convolution of the input channels from ``start`` on with the first ``c_out`` filters."""
        weight = self._slice(f"{name}.weight", start, start + x.shape[1], c_out)
        out = conv2d(x, weight, stride)
        self.macs += out.size * x.shape[1] * weight.shape[2] ** 2
        return out

    def _slice(self, name: str, start: int, stop: int, c_out: int | None) -> paddle.Tensor:
        """Input channels ``start:stop`` of a weight; [out, in, kh, kw] with ``c_out``, [in, out] without."""
        whole = self.weights[name].detach()
        parts = (slice(start, stop),) if c_out is None else (slice(c_out), slice(start, stop))
        if all(part.start in (0, None) and part.stop == size for part, size in zip(parts, whole.shape, strict=False)):
            return whole
        return self._slices.get((name, start, stop, c_out), lambda: whole[parts])

    def _batch_norm(self, name: str, x: paddle.Tensor, node: Node, c_in: int) -> paddle.Tensor:
        """BatchNorm over leading channels with the statistics of this walker's mode.

        ``node`` keeps calibrated statistics; ``c_in``, the width that the convolution before read, tells its groups apart.
        """
        width = x.shape[1]
        parts = [self._vector(f"{name}.{part}", width) for part in ("_mean", "_variance", "weight", "bias")]
        if self.bn == "batch" or self._calibrating:
            # Momentum 0 makes the kernel put the batch's own statistics where the running ones would go.
            mean, variance = parts[0].clone(), parts[1].clone()
            out = F.batch_norm(x, mean, variance, *parts[2:], training=True, momentum=0.0)
            if self._calibrating:
                node.statistics[name, c_in] = (mean, variance)
            return out
        if self.bn == "calibrated":
            parts[:2] = node.statistics[name, c_in]
        return F.batch_norm(x, *parts, training=False)

    def _vector(self, name: str, width: int) -> paddle.Tensor:
        return self._slices.get((name, width), lambda: self.weights[name].detach()[:width].clone())


class _SliceCache:
    """The slices used last, up to SLICE_BYTES of them."""

    def __init__(self) -> None:
        self.slices: OrderedDict[Hashable, paddle.Tensor] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, cut: Callable[[], paddle.Tensor]) -> paddle.Tensor:
        """The slice of this key, cut now if it is not there."""
        found = self.slices.get(key)
        if found is not None:
            self.slices.move_to_end(key)
            return found
        found = cut()
        self.slices[key] = found = found.contiguous() if hasattr(found, "contiguous") else found
        self.bytes += found.size * 4
        while self.bytes > SLICE_BYTES:
            _, oldest = self.slices.popitem(last=False)
            self.bytes -= oldest.size * 4
        return found


def _leading(x: paddle.Tensor, width: int) -> paddle.Tensor:
    return x if x.shape[1] == width else x[:, :width]
