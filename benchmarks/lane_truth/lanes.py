"""16 seeds of one architecture trained side by side on a processor (lanes.cpp); the recipe is the project's."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np

from paddle_pgonas.arch import Arch
from paddle_pgonas.config import Config, Data
from paddle_pgonas.data.batches import AUGMENT, SHUFFLE
from paddle_pgonas.data.transforms import draw_shifts
from paddle_pgonas.errors import UserError

LANES = 16
BN_MOMENTUM = 0.9
"""Share of the running statistics that a training step keeps, as in Paddle."""
SOURCE = Path(__file__).with_name("lanes.cpp")
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-std=c++17", "-shared", "-fPIC"]


@cache
def library() -> ctypes.CDLL:
    """The compiled trainer; built once per source and processor, in the user's cache.

    Raises:
        UserError: g++ is missing or does not compile it.
    """
    try:
        target = subprocess.run(["g++", "-march=native", "-Q", "--help=target"], capture_output=True, check=True).stdout
        digest = hashlib.sha256(SOURCE.read_bytes() + repr(FLAGS).encode() + target).hexdigest()
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lane_truth"
        path = folder / f"{digest}.so"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(part)], check=True)
            part.replace(path)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"g++ with C++17 is needed to compile {SOURCE.name}: {error}") from error
    loaded = ctypes.CDLL(str(path))
    loaded.lanes_create.restype = ctypes.c_void_p
    loaded.lanes_array.restype = ctypes.POINTER(ctypes.c_float)
    return loaded


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array, which the caller must keep."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


class LaneNet:
    """16 networks of one architecture. ``params``, ``grads`` and ``statistics`` are [values, 16] float32 views."""

    def __init__(self, arch: Arch, image_size: int, num_classes: int, batch_size: int) -> None:
        space = arch.space
        if (space.stem_kernel, space.stem_stride, space.stem_pool) != (3, 1, False):
            raise UserError(f"space {space.name}: the stem must be 3x3, of stride 1, without a pool")
        if image_size % 2 ** sum(block.stride > 1 for block in arch.blocks):
            raise UserError(f"data.image_size {image_size}: every stride of 2 must halve it without a rest")
        shapes = [number for block in arch.blocks for number in (block.c_in, block.c_mid, block.c_out, block.stride)]
        spec = np.array([image_size, batch_size, num_classes, arch.stem_width, len(arch.blocks), *shapes], dtype=np.int32)
        self.arch, self.image_size, self.classes, self.batch_size = arch, image_size, num_classes, batch_size
        self._net = ctypes.c_void_p(library().lanes_create(_pointer(spec)))
        self.params, self.grads, self.statistics = (self._view(which) for which in range(3))
        for _, shape, place in self.convolutions():
            self.statistics[place[2] + shape[3] : place[2] + 2 * shape[3]] = 1  # running variances
            self.params[place[1] : place[1] + shape[3]] = 1  # BatchNorm's weights

    def __del__(self) -> None:
        if hasattr(self, "_net"):  # not if the arguments were refused
            library().lanes_destroy(self._net)

    def _view(self, which: int) -> np.ndarray:
        count = ctypes.c_int64()
        data = library().lanes_array(self._net, which, ctypes.byref(count))
        return np.ctypeslib.as_array(data, (count.value, LANES))

    def convolutions(self) -> list[tuple[str, tuple[int, int, int, int], tuple[int, int, int]]]:
        """Each convolution: name, shape (rows, columns, in, out), places of weight, BatchNorm and running statistics."""
        listed: list[tuple[str, int, int, int]] = [("0.conv|0.bn", 3, 3, self.arch.stem_width)]
        for block in self.arch.blocks:
            name = str(block.index)
            listed.append((f"{name}.conv1|{name}.bn1", 3, block.c_in, block.c_mid))
            listed.append((f"{name}.conv2|{name}.bn2", 3, block.c_mid, block.c_out))
            if block.stride > 1:
                listed.append((f"{name}.downsample.0|{name}.downsample.1", 1, block.c_in, block.c_out))
        described, place, running = [], 0, 0
        for name, kernel, c_in, c_out in listed:
            size = kernel * kernel * c_in * c_out
            described.append((name, (kernel, kernel, c_in, c_out), (place, place + size, running)))
            place, running = place + size + 2 * c_out, running + 2 * c_out
        return described

    @property
    def fc(self) -> tuple[slice, slice]:
        """Places of the linear layer's weight (in, out) and bias."""
        weights = self.arch.out_width * self.classes
        first = len(self.params) - weights - self.classes
        return slice(first, first + weights), slice(first + weights, None)

    def draw(self, lane: int, rng: np.random.Generator) -> None:
        """Draw first weights, distributed as Paddle's: normal for convolutions, Xavier's uniform for the linear layer."""
        for _, (rows, columns, c_in, c_out), (place, _, _) in self.convolutions():
            size = rows * columns * c_in * c_out
            self.params[place : place + size, lane] = rng.normal(0, math.sqrt(2 / (rows * columns * c_in)), size)
        weight, bias = self.fc
        limit = math.sqrt(6 / (self.arch.out_width + self.classes))
        self.params[weight, lane] = rng.uniform(-limit, limit, weight.stop - weight.start)
        self.params[bias, lane] = 0

    def put(self, images: np.ndarray, pad: int, data: Data, chosen: np.ndarray, moves: np.ndarray | None = None) -> None:
        """Put images into the input: ``chosen`` int64 [lanes, images], ``moves`` (tops, lefts, flips) each of that shape.

        ``lanes`` is 16, or 1 for the same images in every lane. ``images`` are uint8 [all, S + 2 pad, S + 2 pad, 3].
        """
        moves = np.stack([np.zeros_like(chosen)] * 3) if moves is None else moves
        scale = np.array([1 / (255 * std) for std in data.std], dtype=np.float32)
        shift = np.array([-mean / std for mean, std in zip(data.mean, data.std, strict=True)], dtype=np.float32)
        count = chosen.shape[1]
        assert count <= self.batch_size and chosen.dtype == moves.dtype == np.int64
        parts = [np.ascontiguousarray(part) for part in (chosen, *moves)]
        places = [_pointer(part) for part in parts]
        library().lanes_images(self._net, _pointer(images), pad, len(chosen), count, *places, _pointer(scale), _pointer(shift))

    def step(self, labels: np.ndarray, rate: float | np.ndarray, momentum: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
        """One step of SGD on the images put in: loss of each lane (before the step) and right answers.

        Args:
            labels: int64 [16, images].
            rate: for all lanes, or [16].
        """
        loss, right = np.zeros(LANES), np.zeros(LANES, dtype=np.int64)
        rates = np.full(LANES, rate, dtype=np.float32)
        others = [ctypes.c_float(number) for number in (momentum, decay, BN_MOMENTUM)]
        library().lanes_step(
            self._net, labels.shape[1], _pointer(labels), _pointer(rates), *others, _pointer(loss), _pointer(right)
        )
        return loss / labels.shape[1], right

    def evaluate(self, images: np.ndarray, labels: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 and mean cross-entropy of each lane on uint8 [N, S, S, 3]."""
        loss, right = np.zeros(LANES), np.zeros(LANES, dtype=np.int64)
        for start in range(0, len(labels), self.batch_size):
            chosen = np.arange(start, min(start + self.batch_size, len(labels)), dtype=np.int64)
            self.put(images, 0, data, chosen[None])
            part = labels[chosen]
            library().lanes_evaluate(self._net, len(chosen), _pointer(part), _pointer(loss), _pointer(right))
        return right / len(labels), loss / len(labels)


class Batches:
    """Which images, shifts and flips each lane sees in a step: those of the project's trainer with the lane's seed."""

    def __init__(self, count: int, config: Config, seeds: list[int]) -> None:
        self.data, self.size, self.count, self.seeds = config.data, config.train.batch_size, count, seeds
        if self.data.augment not in ("none", "shift", "shift_flip"):
            raise UserError(f"data.augment {self.data.augment}: this trainer knows none, shift and shift_flip")
        self.pad = 0 if self.data.augment == "none" else max(1, self.data.image_size // 8)
        self.steps = count // self.size
        self._orders: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Indices [16, batch] and moves [3, 16, batch]."""
        if self._orders[0] != epoch:
            orders = [np.random.default_rng((seed, SHUFFLE, epoch)).permutation(self.count) for seed in self.seeds]
            self._orders = epoch, orders
        chosen = np.stack([order[step * self.size : (step + 1) * self.size] for order in self._orders[1]])
        if not self.pad:
            return chosen, None
        rngs = [np.random.default_rng((seed, AUGMENT, epoch, step)) for seed in self.seeds]
        moves = np.stack([np.asarray(draw_shifts(rng, self.size, self.data.image_size)) for rng in rngs], axis=1)
        if self.data.augment == "shift":
            moves[2] = 0
        return chosen, moves.astype(np.int64)
