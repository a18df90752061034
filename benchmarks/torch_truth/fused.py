"""BatchNorm with the sum and the ReLU behind it as one operation on a processor (fused.cpp), in few passes over memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("fused.cpp")
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-std=c++17", "-shared", "-fPIC"]
TYPES = (torch.float32, torch.bfloat16)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled operations; None where there is no compiler. Built once per source and machine, in the user's cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_truth"
    processor = (
        subprocess.run(["g++", "-march=native", "-Q", "--help=target"], capture_output=True).stdout if _compiler() else b""
    )
    path = folder / f"fused-{hashlib.sha256(SOURCE.read_bytes() + repr(FLAGS).encode() + processor).hexdigest()[:16]}.so"
    if not path.exists():
        if not _compiler():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(part)], check=True)
        part.replace(path)
    return ctypes.CDLL(str(path))


@cache
def _compiler() -> bool:
    try:
        return subprocess.run(["g++", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def usable(x: Tensor) -> bool:
    """Whether :func:`batch_norm` can take these features."""
    return x.device.type == "cpu" and x.dtype in TYPES and library() is not None


def batch_norm(
    x: Tensor,
    shortcut: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor],
    keep: float,
    eps: float,
    relu: bool,
) -> Tensor:
    """``relu(batch_norm(x) + shortcut)`` in training; shortcut and ReLU may be missing, the shortcut not alone.

    Args:
        x: [N, C, H, W], channels last in memory, as is the shortcut.
        running: mean and biased variance, which keep the share ``keep`` of themselves.
    """
    return _BatchNorm.apply(x, shortcut, weight, bias, *running, keep, eps, relu)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, shortcut, weight, bias, running_mean, running_variance, keep, eps, relu = arguments
        x = x.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.to(x.dtype).contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        mean, inverse = torch.empty_like(weight), torch.empty_like(weight)
        pointers = [_pointer(one) for one in (weight, bias, running_mean, running_variance)]
        size = ctypes.c_long(x.numel()), x.shape[1]
        rates = ctypes.c_float(keep), ctypes.c_float(eps)
        features = _pointer(x), _pointer(shortcut), _pointer(y)
        half = int(x.dtype == torch.bfloat16)
        library().bn_forward(half, *features, *size, *pointers, *rates, _pointer(mean), _pointer(inverse), int(relu))
        ctx.save_for_backward(x, y if relu else None, weight, mean, inverse)
        ctx.relu, ctx.sum = relu, shortcut is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, y, weight, mean, inverse = ctx.saved_tensors
        gy = gradients[0].contiguous(memory_format=torch.channels_last)
        masked = torch.empty_like(x) if ctx.relu else None
        gx, g_weight, g_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        features = _pointer(x), _pointer(y), _pointer(gy), _pointer(masked), _pointer(gx)
        pointers = [_pointer(one) for one in (weight, mean, inverse, g_weight, g_bias)]
        size = ctypes.c_long(x.numel()), x.shape[1]
        library().bn_backward(int(x.dtype == torch.bfloat16), *features, *size, *pointers, int(ctx.relu))
        return gx, masked if ctx.sum else None, g_weight, g_bias, None, None, None, None, None
