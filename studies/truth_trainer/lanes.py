"""Trainings on a processor (lanes.cpp); the recipe is the project's."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from layout import BN_MOMENTUM, PROCESSOR, Batches, CompilerError, Layout, build, pointer

from paddle_pgonas.config.loading import Config, Data
from paddle_pgonas.data.batches import AUGMENT, SHUFFLE
from paddle_pgonas.errors import UserError
from paddle_pgonas.space.arch import Arch

SOURCE = Path(__file__).with_name("lanes.cpp")
COMMAND = ["g++", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-std=c++17", "-shared", "-fPIC"]

PARTS = 16
"""A batch is a multiple of it, because that is the number of parts that some processors compute side by side; others have 8."""


@cache
def library() -> ctypes.CDLL:
    """The compiled trainer.

    Raises:
        UserError: g++ is missing or does not compile it.
    """
    try:
        loaded = build(SOURCE, COMMAND, PROCESSOR)
    except CompilerError as error:
        raise UserError(str(error)) from error
    loaded.lanes_create.restype = ctypes.c_void_p
    loaded.lanes_array.restype = ctypes.POINTER(ctypes.c_float)
    return loaded


def layout(arch: Arch, image_size: int, num_classes: int) -> Layout:
    """A subnet as the trainers take it.

    Raises:
        UserError: it has parts that they do not know.
    """
    space = arch.space
    if (space.stem_kernel, space.stem_stride, space.stem_pool) != (3, 1, False):
        raise UserError(f"space {space.name}: the stem must be 3x3, of stride 1, without a pool")
    if image_size % 2 ** sum(block.stride > 1 for block in arch.blocks):
        raise UserError(f"data.image_size {image_size}: every stride of 2 must halve it without a rest")
    blocks = tuple((block.c_in, block.c_mid, block.c_out, block.stride) for block in arch.blocks)
    return Layout(image_size, num_classes, arch.stem_width, blocks)


def batches(count: int, config: Config, seeds: list[int]) -> Batches:
    """The batches of a configuration's training on ``count`` images.

    Raises:
        UserError: the augmentation is not known.
    """
    data = config.data
    if data.augment not in ("none", "shift", "shift_flip"):
        raise UserError(f"data.augment {data.augment}: this trainer knows none, shift and shift_flip")
    pad = 0 if data.augment == "none" else max(1, data.image_size // 8)
    return Batches(count, config.train.batch_size, pad, data.augment == "shift_flip", tuple(seeds), (SHUFFLE, AUGMENT))


def normalisation(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Factors and summands that normalise the pixels 0 to 255 of each colour."""
    scale = np.array([1 / (255 * std) for std in data.std], dtype=np.float32)
    return scale, np.array([-mean / std for mean, std in zip(data.mean, data.std, strict=True)], dtype=np.float32)


class LaneNet:
    """A network in training. ``params``, ``grads`` and ``statistics`` are [values] float32 views.

    Raises:
        UserError: batches of this size cannot be divided, or the subnet has parts that the trainer does not know.
    """

    def __init__(self, arch: Arch, image_size: int, num_classes: int, batch_size: int) -> None:
        if batch_size % PARTS:
            raise UserError(f"train.batch_size {batch_size}: must be a multiple of {PARTS}")
        self.arch, self.batch_size, self.layout = arch, batch_size, layout(arch, image_size, num_classes)
        self.lanes = library().lanes_count()
        self._net = ctypes.c_void_p(library().lanes_create(pointer(self.layout.spec(batch_size // self.lanes))))
        self.params, self.grads, self.statistics = (self._view(which) for which in range(3))
        self.layout.constants(self.params, self.statistics)

    def __del__(self) -> None:
        if hasattr(self, "_net"):  # not if the arguments were refused
            library().lanes_destroy(self._net)

    def _view(self, which: int) -> np.ndarray:
        count = ctypes.c_int64()
        data = library().lanes_array(self._net, which, ctypes.byref(count))
        return np.ctypeslib.as_array(data, (count.value,))

    def convolutions(self) -> list[tuple[str, tuple[int, int, int, int], tuple[int, int, int]]]:
        """Each convolution: its name and its BatchNorm's, then shape and places as of :class:`~layout.Layout`."""
        names = ["0.conv|0.bn"]
        for block in self.arch.blocks:
            name = str(block.index)
            shortcut = [f"{name}.downsample.0|{name}.downsample.1"] if block.stride > 1 else []
            names += [f"{name}.conv1|{name}.bn1", f"{name}.conv2|{name}.bn2", *shortcut]
        return [(name, *described) for name, described in zip(names, self.layout.convolutions(), strict=True)]

    def close_branches(self) -> None:
        """Set the scale of each residual branch's last BatchNorm to 0, so that every block begins as its shortcut."""
        for name, (_, _, _, c_out), (_, affine, _) in self.convolutions():
            if name.endswith("bn2"):
                self.params[affine : affine + c_out] = 0

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the first weights."""
        self.layout.draw(self.params, rng)

    def put(self, images: np.ndarray, pad: int, data: Data, chosen: np.ndarray, moves: np.ndarray | None = None) -> None:
        """Put a batch into the input: ``chosen`` [images], ``moves`` (top, left, flip) [images, 3].

        ``images`` are uint8 [all, S + 2 pad, S + 2 pad, 3].
        """
        moves = np.zeros((*chosen.shape, 3), dtype=np.int64) if moves is None else moves
        scale, shift = normalisation(data)
        assert len(chosen) <= self.batch_size and len(chosen) % self.lanes == 0
        parts = [np.ascontiguousarray(part, dtype=np.int64) for part in (chosen, *moves.T)]
        places = [pointer(part) for part in parts]
        library().lanes_images(
            self._net, pointer(images), pad, len(chosen) // self.lanes, *places, pointer(scale), pointer(shift)
        )

    def step(self, labels: np.ndarray, rate: float, momentum: float, decay: float, smoothing: float = 0.0) -> tuple[float, int]:
        """One step of SGD on the batch put in: its mean loss (before the step, without smoothing) and right answers.

        Args:
            labels: int64 [images].
            rate: of learning.
            momentum: of SGD.
            decay: of all parameters.
            smoothing: share of a label that all classes have alike.
        """
        loss, right = ctypes.c_double(), ctypes.c_int64()
        count, numbers = len(labels), [ctypes.c_float(number) for number in (rate, momentum, decay, BN_MOMENTUM, smoothing)]
        library().lanes_step(self._net, count // self.lanes, pointer(labels), *numbers, ctypes.byref(loss), ctypes.byref(right))
        return loss.value / count, right.value

    def evaluate(self, images: np.ndarray, labels: np.ndarray, data: Data) -> tuple[float, float]:
        """Top-1 and mean cross-entropy on uint8 [N, S, S, 3]."""
        loss, right = ctypes.c_double(), ctypes.c_int64()
        for start in range(0, len(labels), self.batch_size):
            chosen = np.arange(start, min(start + self.batch_size, len(labels)))
            part = np.append(labels[chosen], np.full(-len(chosen) % self.lanes, -1))  # -1: no image
            self.put(images, 0, data, np.append(chosen, np.full(-len(chosen) % self.lanes, start)))
            library().lanes_evaluate(self._net, len(part) // self.lanes, pointer(part), ctypes.byref(loss), ctypes.byref(right))
        return right.value / len(labels), loss.value / len(labels)
