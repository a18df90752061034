"""The challenge's ResNet for any architecture: the full network, from which the supernet is made, and stand-alone subnets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_pgonas.space.arch import Arch, Block


class PReLU(nn.PReLU):
    """Paddle's PReLU, with its slope in the type of the maps: a float32 slope would make mixed precision return float32 maps."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Maps of the same shape and type."""
        slope = self._weight
        return F.prelu(x, slope if slope.dtype == x.dtype else slope.astype(x.dtype))


# Outer activations by configuration name (``model.activation``); PReLU learns one slope per block.
ACTIVATIONS: dict[str, Callable[[], nn.Layer]] = {
    "relu": nn.ReLU,
    "prelu": PReLU,
    "swish": nn.Swish,
    "mish": nn.Mish,
    "selu": nn.SELU,
}


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2D:
    return nn.Conv2D(c_in, c_out, kernel, stride, padding=kernel // 2, bias_attr=False)


class Stem(nn.Layer):
    """Convolution, BatchNorm, ReLU and, for large images, a 3x3 max-pool of stride 2."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.conv = _conv(3, arch.stem_width, arch.space.stem_kernel, arch.space.stem_stride)
        self.bn = nn.BatchNorm2D(arch.stem_width)
        self.pool = arch.space.stem_pool

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features after the stem, of images [N, 3, S, S]."""
        x = F.relu(self.bn(self.conv(x)))
        return F.max_pool2d(x, 3, 2, 1) if self.pool else x


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions with a shortcut. Only the outer activation is configurable: others did not converge (PGONAS paper)."""

    def __init__(self, block: Block, activation: str) -> None:
        super().__init__()
        _, c_in, c_mid, c_out, stride = block
        self.conv1 = _conv(c_in, c_mid, 3, stride)
        self.bn1 = nn.BatchNorm2D(c_mid)
        self.conv2 = _conv(c_mid, c_out, 3, 1)
        self.bn2 = nn.BatchNorm2D(c_out)
        self.downsample = nn.Sequential(_conv(c_in, c_out, 1, stride), nn.BatchNorm2D(c_out)) if stride > 1 else None
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features after the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(x)) + shortcut)


class Head(nn.Layer):
    """Global average and the linear layer."""

    def __init__(self, arch: Arch, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(arch.out_width, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits [N, classes]."""
        return self.fc(x.mean([2, 3]))


class ResNet(nn.Layer):
    """A ResNet of the given architecture.

    ``blocks`` maps the challenge's indices to layers: "0" the stem, the active residual blocks, the last index the head. So the
    parameter names of a stand-alone subnet are a subset of those of the full network.
    """

    def __init__(self, arch: Arch, num_classes: int, activation: str) -> None:
        super().__init__()
        self.arch = arch
        layers: dict[str, nn.Layer] = {"0": Stem(arch)}
        for block in arch.blocks:
            layers[str(block.index)] = BasicBlock(block, activation)
        layers[str(arch.space.first_blocks[-1])] = Head(arch, num_classes)
        self.blocks = nn.LayerDict(layers)

    def forward(self, x: paddle.Tensor, depth: Iterable[str] | None = None) -> paddle.Tensor:
        """Logits [N, classes] of normalised images [N, 3, S, S]; PaddleSlim passes the keys of the blocks to run as ``depth``."""
        for key in self.blocks.keys() if depth is None else depth:
            x = self.blocks[key](x)
        return x
