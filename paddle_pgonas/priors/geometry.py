"""The weight layers of an architecture with their shapes at an image size; costs, Zen-score and memory are sums over them.

The layers of a block depend on few numbers, so the same blocks occur in most architectures of a space. Each distinct block is
described once per process and cached, so listing an architecture's layers takes only some microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from paddle_pgonas.space.arch import Arch, Block, SearchSpace

TRUNK = ("conv", "conv1", "conv2")
"""Parts on the main path from the image to the head: all convolutions except those of the shortcuts."""


@dataclass(frozen=True)
class Layer:
    """A convolution with its BatchNorm, or the head's linear layer (``part`` "fc", kernel and sides 1, with a bias)."""

    index: int
    """Of the block in the network's ``blocks``: 0 is the stem, the last one the head."""
    part: str
    """Name within the block: ``conv`` (stem), ``conv1``, ``conv2``, ``downsample.0`` (the shortcut) or ``fc``."""
    c_in: int
    c_out: int
    kernel: int
    stride: int
    side_in: int
    """Side of the feature map that the layer reads."""
    side: int
    """Side of the feature map that it writes."""

    @property
    def name(self) -> str:
        """Name in the network, as in ``blocks.6.conv1``."""
        return f"blocks.{self.index}.{self.part}"

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.c_in * self.c_out * self.kernel**2 * self.side**2

    @cached_property
    def params(self) -> int:
        """Trainable values: the weight, and weight and bias of the BatchNorm, or the linear layer's bias."""
        return self.c_in * self.c_out * self.kernel**2 + (1 if self.part == "fc" else 2) * self.c_out


def halved(side: int) -> int:
    """Side of a feature map after a convolution or a pool of stride 2, both padded by half their kernel."""
    return -(-side // 2)


@cache
def stem_layer(space: SearchSpace, width: int, image_size: int) -> Layer:
    """The stem's convolution with ``width`` channels."""
    side = -(-image_size // space.stem_stride)
    return Layer(0, "conv", 3, width, space.stem_kernel, space.stem_stride, image_size, side)


def body_side(space: SearchSpace, image_size: int) -> int:
    """Side of the feature map that the first block reads: after the stem's pool, if the space has one."""
    side = -(-image_size // space.stem_stride)
    return halved(side) if space.stem_pool else side


@cache
def block_layers(block: Block, side: int) -> tuple[Layer, ...]:
    """conv1, conv2 and, in a block of stride 2, the shortcut's convolution, for an input of this side."""
    index, c_in, c_mid, c_out, stride = block
    out = halved(side) if stride == 2 else side
    convolutions = (Layer(index, "conv1", c_in, c_mid, 3, stride, side, out), Layer(index, "conv2", c_mid, c_out, 3, 1, out, out))
    return (*convolutions, Layer(index, "downsample.0", c_in, c_out, 1, stride, side, out)) if stride == 2 else convolutions


@cache
def head_layer(space: SearchSpace, width: int, num_classes: int) -> Layer:
    """The linear layer after the global average of ``width`` channels."""
    return Layer(space.first_blocks[-1], "fc", width, num_classes, 1, 1, 1, 1)


def convolutions(arch: Arch, image_size: int) -> list[Layer]:
    """All convolutions in the order of computation, for images of this side."""
    listed, side = [stem_layer(arch.space, arch.stem_width, image_size)], body_side(arch.space, image_size)
    for block in arch.blocks:
        inside = block_layers(block, side)
        side = inside[0].side
        listed += inside
    return listed


def layers(arch: Arch, image_size: int, num_classes: int) -> list[Layer]:
    """All convolutions and the linear layer in the order of computation."""
    return [*convolutions(arch, image_size), head_layer(arch.space, arch.out_width, num_classes)]
