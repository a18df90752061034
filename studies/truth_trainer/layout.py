"""What the trainers on a processor and on a GPU share, for machines without the project: places and first values of parameters,
compilation, and which images every lane sees. Needs numpy only."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LANES = 16
BN_MOMENTUM = 0.9
"""Share of the running statistics that a training step keeps, as in Paddle."""
PROCESSOR = ["g++", "-march=native", "-Q", "--help=target"]
"""Describes this processor to :func:`build`."""


class CompilerError(Exception):
    """A compiler is missing or does not compile a source."""


def build(source: Path, command: list[str], describe: list[str]) -> ctypes.CDLL:
    """A source file as a loaded library; compiled once per source, command and machine, in the user's cache.

    Args:
        describe: a command whose output tells the machines apart for which the compiler makes different code.

    Raises:
        CompilerError: one of the commands is missing or fails.
    """
    try:
        target = subprocess.run(describe, capture_output=True, check=True).stdout
        digest = hashlib.sha256(source.read_bytes() + repr(command).encode() + target).hexdigest()
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "truth_trainer"
        path = folder / f"{digest}.so"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            subprocess.run([*command, str(source), "-o", str(part)], check=True)
            part.replace(path)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompilerError(f"compiling {source.name} needs {command[0]} with C++17 and {describe[0]}: {error}") from error
    return ctypes.CDLL(str(path))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array, which the caller must keep."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


@dataclass(frozen=True)
class Layout:
    """Where the values of a network lie in its parameters and running statistics."""

    side: int
    """Of the images."""
    classes: int
    stem: int
    """Width of the stem."""
    blocks: tuple[tuple[int, int, int, int], ...]
    """c_in, c_mid, c_out and stride of each."""

    def spec(self, batch_size: int) -> np.ndarray:
        """The same as the compiled trainers take it."""
        first = [self.side, batch_size, self.classes, self.stem, len(self.blocks)]
        return np.array([*first, *(number for block in self.blocks for number in block)], dtype=np.int32)

    def convolutions(self) -> list[tuple[tuple[int, int, int, int], tuple[int, int, int]]]:
        """Each convolution: shape (rows, columns, in, out), and places of weight, BatchNorm and running statistics."""
        listed = [(3, 3, self.stem)]
        for c_in, c_mid, c_out, stride in self.blocks:
            listed += [(3, c_in, c_mid), (3, c_mid, c_out), *([(1, c_in, c_out)] if stride > 1 else [])]
        described, place, running = [], 0, 0
        for kernel, c_in, c_out in listed:
            size = kernel * kernel * c_in * c_out
            described.append(((kernel, kernel, c_in, c_out), (place, place + size, running)))
            place, running = place + size + 2 * c_out, running + 2 * c_out
        return described

    @property
    def fc(self) -> tuple[slice, slice]:
        """Places of the linear layer's weight (in, out) and bias, the last parameters."""
        (_, _, _, c_out), (_, affine, _) = self.convolutions()[-1]
        first, width = affine + 2 * c_out, self.blocks[-1][2]
        middle = first + width * self.classes
        return slice(first, middle), slice(middle, middle + self.classes)

    def constants(self, params: np.ndarray, statistics: np.ndarray) -> None:
        """Set what a new network does not draw: BatchNorm's weights and running variances to 1. [values] or [values, 16]."""
        for (_, _, _, c_out), (_, affine, running) in self.convolutions():
            statistics[running + c_out : running + 2 * c_out] = 1
            params[affine : affine + c_out] = 1

    def draw(self, params: np.ndarray, rng: np.random.Generator) -> None:
        """Draw first weights [values] as Paddle's: normal for convolutions, Xavier's uniform for the linear layer."""
        for (rows, columns, c_in, c_out), (place, affine, _) in self.convolutions():
            params[place:affine] = rng.normal(0, math.sqrt(2 / (rows * columns * c_in)), rows * columns * c_in * c_out)
        weight, bias = self.fc
        limit = math.sqrt(6 / (self.blocks[-1][2] + self.classes))
        params[weight] = rng.uniform(-limit, limit, weight.stop - weight.start)
        params[bias] = 0

    def first_values(self, seeds: Sequence[int | tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Parameters and running statistics, each [values, 16], of new networks, a seed for each."""
        (_, _, _, c_out), (_, _, running) = self.convolutions()[-1]
        params = np.zeros((self.fc[1].stop, LANES), dtype=np.float32)
        statistics = np.zeros((running + 2 * c_out, LANES), dtype=np.float32)
        self.constants(params, statistics)
        for lane, seed in enumerate(seeds):
            self.draw(params[:, lane], np.random.default_rng(seed))
        return params, statistics


@dataclass(frozen=True)
class Batches:
    """Which images, shifts and flips each lane sees in a step: those of the project's trainer with the lane's seed.

    ``streams`` are the project's constants SHUFFLE and AUGMENT (paddle_pgonas/data/batches.py), which separate the random
    streams of a seed; the draws repeat those of its modules.
    """

    count: int
    """Of training images."""
    size: int
    """Of a batch."""
    pad: int
    """Shifts go so far; 0 for no augmentation."""
    flip: bool
    seeds: tuple[int, ...]
    streams: tuple[int, int]

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.count // self.size

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices int32 [steps, lanes, batch], and uint8 [steps, lanes, batch, 3]: top, left, flip."""
        shuffle, augment = self.streams
        whole = self.steps * self.size
        orders = [np.random.default_rng((seed, shuffle, epoch)).permutation(self.count)[:whole] for seed in self.seeds]
        chosen = np.stack([order.reshape(self.steps, self.size) for order in orders], axis=1).astype(np.int32)
        moves = np.zeros((*chosen.shape, 3), dtype=np.uint8)
        for step in range(self.steps if self.pad else 0):
            for lane, seed in enumerate(self.seeds):
                rng = np.random.default_rng((seed, augment, epoch, step))
                moves[step, lane, :, :2] = rng.integers(0, 2 * self.pad + 1, (2, self.size)).T
                moves[step, lane, :, 2] = rng.integers(0, 2, (1, self.size)) * self.flip
        return chosen, moves
