"""Seeds of one architecture trained side by side on a processor (lanes.cpp); the recipe is the project's."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from layout import BN_MOMENTUM, LANES, PROCESSOR, Batches, CompilerError, Layout, build, pointer

from paddle_pgonas.config.loading import Config, Data
from paddle_pgonas.data.batches import AUGMENT, SHUFFLE
from paddle_pgonas.errors import UserError
from paddle_pgonas.space.arch import Arch

SOURCE = Path(__file__).with_name("lanes.cpp")
COMMAND = ["g++", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-std=c++17", "-shared", "-fPIC"]

COUNTS = (2, 4, 8, LANES)
"""Numbers of networks that can be trained side by side."""


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
    """Networks of one architecture, a number of :data:`COUNTS`.

    Each has ``parts`` of the 16 lanes, which share its batches; network n has those from n times ``parts``. ``params``, ``grads``
    and ``statistics`` are [values, 16] float32 views, with equal values in a network's lanes.

    Raises:
        UserError: the batches cannot be shared.
    """

    def __init__(self, arch: Arch, image_size: int, num_classes: int, batch_size: int, networks: int = LANES) -> None:
        assert networks in COUNTS
        self.networks, self.parts = networks, LANES // networks
        if batch_size % self.parts:
            raise UserError(f"train.batch_size {batch_size}: {networks} seeds need a multiple of {self.parts}")
        self.arch, self.batch_size, self.layout = arch, batch_size // self.parts, layout(arch, image_size, num_classes)
        self._net = ctypes.c_void_p(library().lanes_create(pointer(self.layout.spec(self.batch_size)), self.parts))
        self.params, self.grads, self.statistics = (self._view(which) for which in range(3))
        self.layout.constants(self.params, self.statistics)

    def __del__(self) -> None:
        if hasattr(self, "_net"):  # not if the arguments were refused
            library().lanes_destroy(self._net)

    def _view(self, which: int) -> np.ndarray:
        count = ctypes.c_int64()
        data = library().lanes_array(self._net, which, ctypes.byref(count))
        return np.ctypeslib.as_array(data, (count.value, LANES))

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

    def draw(self, network: int, rng: np.random.Generator) -> None:
        """Draw a network's first weights."""
        first = network * self.parts
        self.layout.draw(self.params, first, rng)
        self.params[:, first : first + self.parts] = self.params[:, [first]]

    def put(self, images: np.ndarray, pad: int, data: Data, chosen: np.ndarray, moves: np.ndarray | None = None) -> None:
        """Put a batch into the input: ``chosen`` [networks, images], ``moves`` (top, left, flip) [networks, images, 3].

        ``chosen`` [1, images] puts the same images into every lane. ``images`` are uint8 [all, S + 2 pad, S + 2 pad, 3].
        """
        moves = np.zeros((*chosen.shape, 3), dtype=np.int64) if moves is None else moves
        if len(chosen) == self.networks:
            chosen, moves = chosen.reshape(LANES, -1), moves.reshape(LANES, -1, 3)
        scale, shift = normalisation(data)
        count = chosen.shape[1]
        assert count <= self.batch_size
        parts = [np.ascontiguousarray(part, dtype=np.int64) for part in (chosen, *np.moveaxis(moves, 2, 0))]
        places = [pointer(part) for part in parts]
        library().lanes_images(self._net, pointer(images), pad, len(chosen), count, *places, pointer(scale), pointer(shift))

    def step(
        self, labels: np.ndarray, rate: float | np.ndarray, momentum: float, decay: float, smoothing: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step of SGD on the batch put in: loss of each network (before the step, without smoothing) and right answers.

        Args:
            labels: int64 [networks, images].
            rate: for all lanes, or [16].
            momentum: of SGD.
            decay: of all parameters.
            smoothing: share of a label that all classes have alike.
        """
        loss, right = np.zeros(LANES), np.zeros(LANES, dtype=np.int64)
        count = labels.shape[1]
        rates = np.full(LANES, rate, dtype=np.float32)
        others = [ctypes.c_float(number) for number in (momentum, decay, BN_MOMENTUM, smoothing)]
        library().lanes_step(
            self._net, count // self.parts, pointer(labels), pointer(rates), *others, pointer(loss), pointer(right)
        )
        return loss.reshape(self.networks, -1).sum(1) / count, right.reshape(self.networks, -1).sum(1)

    def evaluate(self, images: np.ndarray, labels: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 and mean cross-entropy of each network on uint8 [N, S, S, 3]."""
        loss, right = np.zeros(LANES), np.zeros(LANES, dtype=np.int64)
        for start in range(0, len(labels), self.batch_size):
            chosen = np.arange(start, min(start + self.batch_size, len(labels)), dtype=np.int64)
            self.put(images, 0, data, chosen[None])
            part = labels[chosen]
            library().lanes_evaluate(self._net, len(chosen), pointer(part), pointer(loss), pointer(right))
        return right[:: self.parts] / len(labels), loss[:: self.parts] / len(labels)
