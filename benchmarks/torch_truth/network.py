"""The project's stand-alone network in PyTorch: same layers, same names, same first weights in distribution."""

from __future__ import annotations

import math

import fused
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle_pgonas.arch import Arch, Block

MOMENTUM = 0.9
"""Share of the running statistics that a training step keeps (Paddle's convention; PyTorch names the other share)."""


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm whose running variance is Paddle's: the mean of the batches' biased variances (PyTorch takes unbiased ones).

    The fused operation does so by itself; PyTorch's is corrected for all steps at once, before evaluation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5, momentum=1 - MOMENTUM, track_running_stats=True)
        self.steps, self.values = 0, 0

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalised features, plus the shortcut, behind a ReLU; batch statistics in training, running ones in evaluation."""
        running, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        if self.training and fused.usable(x):
            return fused.batch_norm(x, shortcut, *affine, running, MOMENTUM, self.eps, relu)
        if self.training:
            self.steps += 1
            self.values = x.numel() // x.shape[1]
        x = F.batch_norm(x, *running, *affine, self.training, self.momentum, self.eps)
        x = x if shortcut is None else x.add_(shortcut)
        return F.relu(x, inplace=True) if relu else x

    @torch.no_grad()
    def correct_variance(self, first: Tensor | float = 1.0) -> None:
        """Turn the running variance into Paddle's, before evaluation; all batches must have been of one size.

        Args:
            first: the running variance before the first step; that of a new layer by default.
        """
        if self.steps:
            left = first * MOMENTUM**self.steps
            self.running_var.sub_(left).mul_((self.values - 1) / self.values).add_(left)
            self.steps = 0


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / (c_in * kernel * kernel)))  # Paddle's default for convolutions
    return conv


class Stem(nn.Module):
    """Convolution, BatchNorm, ReLU and, for large images, a 3x3 max-pool of stride 2."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.conv = _conv(3, arch.stem_width, arch.space.stem_kernel, arch.space.stem_stride)
        self.bn = BatchNorm(arch.stem_width)
        self.pool = arch.space.stem_pool

    def forward(self, x: Tensor) -> Tensor:
        """Features behind the stem, of images [N, 3, S, S]."""
        x = self.bn(self.conv(x), relu=True)
        return F.max_pool2d(x, 3, 2, 1) if self.pool else x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, ReLU inside and behind the sum."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        _, c_in, c_mid, c_out, stride = block
        self.conv1 = _conv(c_in, c_mid, 3, stride)
        self.bn1 = BatchNorm(c_mid)
        self.conv2 = _conv(c_mid, c_out, 3, 1)
        self.bn2 = BatchNorm(c_out)
        self.downsample = nn.Sequential(_conv(c_in, c_out, 1, stride), BatchNorm(c_out)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Features behind the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x), relu=True)
        return self.bn2(self.conv2(x), shortcut, relu=True)


class Head(nn.Module):
    """Global average and the linear layer."""

    def __init__(self, arch: Arch, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(arch.out_width, num_classes)
        nn.init.xavier_uniform_(self.fc.weight)  # Paddle's default for linear layers
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.fc(x.mean((2, 3)))


class ResNet(nn.Module):
    """A stand-alone subnet. ``blocks`` has the project's keys: "0" the stem, the active blocks, the last index the head."""

    def __init__(self, arch: Arch, num_classes: int) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {"0": Stem(arch)}
        layers.update({str(block.index): BasicBlock(block) for block in arch.blocks})
        layers[str(arch.space.first_blocks[-1])] = Head(arch, num_classes)
        self.blocks = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of normalised images [N, 3, S, S]."""
        for block in self.blocks.values():
            x = block(x)
        return x

    def correct_variances(self, first: dict[str, Tensor] | None = None) -> None:
        """Make every BatchNorm's running variance Paddle's, after the training and before the evaluation.

        Args:
            first: the running variances before the first step by name; those of a new network by default.
        """
        for name, module in self.named_modules():
            if isinstance(module, BatchNorm):
                module.correct_variance(1.0 if first is None else first[f"{name}.running_var"])

    @torch.no_grad()
    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the weights that the project's ``save_weights`` wrote (Paddle's names; linear weights are [in, out] there)."""
        own = self.state_dict()
        for name, array in arrays.items():
            here = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
            value = torch.from_numpy(array.T.copy() if name.endswith("fc.weight") else array)
            own.pop(here).copy_(value)
        if left := [name for name in own if not name.endswith("num_batches_tracked")]:
            raise ValueError(f"the file lacks {', '.join(left)}")
