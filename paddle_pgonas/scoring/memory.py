"""An upper bound of the memory that scoring takes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import paddle

from paddle_pgonas.config.loading import Config
from paddle_pgonas.nn.elastic import SMALL
from paddle_pgonas.priors.geometry import Layer, block_layers, body_side, convolutions, layers, stem_layer
from paddle_pgonas.runtime import PRECISIONS, convolution_workspace
from paddle_pgonas.scoring.tree import Node, sibling_groups, stem_width
from paddle_pgonas.scoring.walker import SLICE_BYTES
from paddle_pgonas.space.arch import SearchSpace

FLOAT = 4
"""Bytes of a float32."""


class Batch(NamedTuple):
    """The images whose maps are in memory together."""

    images: int
    micro_batch: int
    """Images per call of an operator; BatchNorm over several micro-batches computes in float32."""
    width: int = FLOAT
    """Bytes of a value of a map."""

    def maps(self, channels: int, side: int) -> int:
        """Bytes of a layer's maps."""
        return self.images * channels * side**2 * self.width

    def statistics(self, channels: int, side: int) -> int:
        """Bytes for the statistics of a layer's maps: three copies of a micro-batch in float32, unless one call computes them."""
        return 3 * FLOAT * self.micro_batch * channels * side**2 if self.images > self.micro_batch else 0

    def columns(self, layer: Layer) -> int:
        """Bytes of the matrices that a CPU multiplies for a convolution: those of an image, or of all if they are small."""
        matrix = layer.c_in * layer.kernel**2 * layer.side**2
        together = 2 * self.micro_batch if layer.side**2 <= SMALL else 1  # and their transposition
        return together * (matrix + layer.c_out * layer.side**2) * self.width


class ScoringMemory(NamedTuple):
    """Bytes that scoring takes at most, by what they hold."""

    maps: int
    weights: int
    """The supernet's, slices of them, and the BatchNorm statistics of a chunk's prefixes."""
    images: int
    """The validation images, where they are kept on the device."""
    workspace: int
    """Of cuDNN's convolutions."""

    @property
    def total(self) -> int:
        """Bytes of all."""
        return sum(self)


def scoring_memory(config: Config, trees: Iterable[Node], images: int) -> ScoringMemory:
    """What scoring chunks of candidates, given as prefix trees, takes at most on the current device; of ``images`` images."""
    space, side, classes, score = config.search_space, config.data.image_size, config.model.num_classes, config.score
    width = PRECISIONS[score.amp].value_bytes
    batches = [Batch(score.batch_size, score.batch_size, width)]
    if score.bn == "calibrated":
        together = min(score.calibration_batch or score.calibration_images, score.calibration_images)
        batches.append(Batch(together, min(together, score.batch_size), width))
    maps, statistics = 0, 0
    for root in trees:
        maps = max(maps, *(walk_bytes(root, space, side, classes, batch) for batch in batches))
        statistics = max(statistics, statistics_bytes(root) if score.bn == "calibrated" else 0)
    parameters = sum(layer.params + 2 * layer.c_out for layer in layers(space.largest, side, classes))
    return ScoringMemory(
        maps=maps,
        weights=FLOAT * parameters + SLICE_BYTES + statistics,
        images=0 if paddle.get_device() == "cpu" else images * 3 * side**2,
        workspace=convolution_workspace(),
    )


def statistics_bytes(root: Node) -> int:
    """Upper bound of the BatchNorm statistics that a tree keeps: mean and variance of three layers per block."""
    pending, values = [root], root.block is None and 2 * stem_width(root)
    while pending:
        for block, child in pending.pop().children.items():
            values += 2 * (block.c_mid + 2 * block.c_out)
            pending.append(child)
    return FLOAT * values


def walk_bytes(root: Node, space: SearchSpace, side: int, classes: int, batch: Batch) -> int:
    """Upper bound of a walk's maps and images: the largest sum along the walk of what is kept and what is computed."""
    stem = stem_layer(space, stem_width(root), side)
    pixels = FLOAT * batch.images * 3 * side**2
    maps, body = batch.maps(stem.c_out, stem.side), body_side(space, side)
    kept = pixels + batch.maps(stem.c_out, body)
    starting = 3 * pixels + 2 * maps + max(batch.columns(stem), batch.statistics(stem.c_out, stem.side))
    last = convolutions(space.largest, side)[-1]
    measuring = FLOAT * batch.images * (last.c_out * last.side**2 + 8 * classes)  # the head's input as float32, and its logits
    return max(starting, pixels + maps + batch.maps(stem.c_out, body), _descent(root, body, batch, kept) + measuring)


def _descent(node: Node, side: int, batch: Batch, kept: int) -> int:
    """The largest sum below a node, whose output is among the ``kept`` bytes."""
    return max((_siblings(group, side, batch, kept) for group in sibling_groups(node)), default=kept)


def _siblings(group: Node, side: int, batch: Batch, kept: int) -> int:
    """The largest sum while the children of a group are computed and walked through, in the order of ``Walker._siblings``."""
    rising = sorted(group.children, key=attrgetter("c_mid"))
    widest = rising[-1]._replace(c_out=max(block.c_out for block in rising))
    conv1, conv2, *shortcuts = block_layers(widest, side)
    out = conv1.side
    inner, summed = batch.maps(conv1.c_out, out), batch.maps(conv2.c_out, out)
    shortcut = summed if shortcuts else 0
    if group.block is None:
        kept += batch.maps(widest.c_in, side)  # of a stem that is wider
    columns = max(batch.columns(layer) for layer in (conv1, conv2, *shortcuts))
    working = max(columns, batch.statistics(max(conv1.c_out, conv2.c_out), out))
    most = kept + max(2 * inner, inner + 2 * shortcut) + working
    left = len(rising)
    done = 0
    for mid, blocks in groupby(rising, attrgetter("c_mid")):
        part = batch.maps(mid - done, out) if mid - done < conv1.c_out else 0
        most = max(most, kept + inner + shortcut + part + (2 if done else 1) * summed + columns)
        done = mid
        if mid == conv1.c_out:
            inner = 0
        for block in blocks:
            left -= 1
            output = batch.maps(block.c_out, out)
            copies = 2 * output if block.c_out < conv2.c_out else 0  # of the sum and of the shortcut
            most = max(most, kept + inner + shortcut + summed + copies + 2 * output + working)
            if left == 0:
                summed = shortcut = 0
            most = max(most, _descent(group.children[block], out, batch, kept + inner + shortcut + summed + output))
    return most
