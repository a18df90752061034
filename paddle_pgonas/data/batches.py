"""Training batches as a pure function of (seed, epoch, step): the same after a resume, with any number of workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import paddle

from paddle_pgonas.config.loading import Data
from paddle_pgonas.data.cache import decoded, readable_crops
from paddle_pgonas.data.sources import ImageSource, UnreadableImage, evenly
from paddle_pgonas.data.transforms import random_resized_crop, random_shifts, shift
from paddle_pgonas.data.unreadable import Unreadable
from paddle_pgonas.errors import UserError
from paddle_pgonas.progress import progress

SHARED = "/dev/shm"
"""Where loader processes hand over their batches."""
SHUFFLE, AUGMENT = 1, 2  # purposes: they separate the random streams of one seed


class EpochBatches(paddle.io.Dataset):
    """The batches of one epoch from step ``start`` on; item i is a whole batch, so that workers decode in parallel.

    Items are (images uint8 [B, S, S, 3], labels int64 [B]). With several processes a step has ``world * batch_size`` images,
    augmented as in a single process, and each process takes its part.
    """

    def __init__(
        self, source: ImageSource, data: Data, cache: Path, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__()
        self.source, self.data, self.cache, self.batch_size, self.seed = source, data, cache, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch, self.start = 0, 0
        # Small images are decoded once; a random resized crop needs the original each time.
        self.images = None if data.augment == "crop_flip" else decoded(source, data, cache)
        self.unreadable = Unreadable(source, data.max_unreadable)
        self.labels = source.labels if self.images is None else self.images.labels
        self.steps_per_epoch = len(self.labels) // (batch_size * world)
        if self.steps_per_epoch < 1:
            times = f" times {world} processes" if world > 1 else ""
            raise UserError(f"train.batch_size {batch_size}{times} is larger than the training set of {len(self.labels)} images")

    def __len__(self) -> int:
        return self.steps_per_epoch - self.start

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        step, total = self.start + item, self.batch_size * self.world
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        chosen = _permutation(len(self.labels), self.seed, self.epoch)[step * total : (step + 1) * total]
        rng = np.random.default_rng((self.seed, AUGMENT, self.epoch, step))
        if self.images is None:
            streams = rng.spawn(total)[mine]  # a crop uses a varying number of random numbers
            crops, labels = zip(*(self._crop(*pair) for pair in zip(chosen[mine], streams, strict=True)), strict=True)
            return np.stack(crops), np.asarray(labels, dtype=np.int64)
        part = chosen[mine]
        images = np.asarray(self.images.images[np.sort(part)])[np.argsort(np.argsort(part))]
        if self.data.augment != "none":
            moves = random_shifts(rng, total, self.data.image_size)[:, mine]
            images = shift(images, moves, flip=self.data.augment == "shift_flip")
        return images, self.labels[part]

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """A training crop; an unreadable image is replaced by the next readable one."""
        for candidate in range(index, index + len(self.labels)):
            candidate %= len(self.labels)
            try:
                return random_resized_crop(self.source.read(candidate), self.data.image_size, rng), self.labels[candidate]
            except UnreadableImage as error:
                self.unreadable.add(candidate, error)
            except MemoryError:  # noted, so that the batch will not be used
                self.unreadable.out_of_memory(candidate)
                return np.zeros((self.data.image_size, self.data.image_size, 3), np.uint8), self.labels[candidate]
        self.unreadable.check()
        raise UserError("data.root: none of the training images can be read")

    def epoch_from(self, epoch: int, start: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """Batches of ``epoch`` beginning with step ``start``, as tensors, prefetched by ``data.workers`` processes."""
        self.epoch, self.start = epoch, start
        if self.data.workers == 0 or self.images is not None:  # slicing an array is faster than the queue of a process
            for item in range(len(self)):
                images, labels = self[item]
                self.unreadable.check()
                yield paddle.to_tensor(images), paddle.to_tensor(labels)
            return
        workers = min(self.data.workers, len(self))
        _check_shared_memory(workers, workers * self.batch_size * (3 * self.data.image_size**2 + 8))
        try:
            for batch in paddle.io.DataLoader(self, batch_size=None, shuffle=False, num_workers=workers):
                self.unreadable.check()  # here, as Paddle adds a traceback to an error of a loader process
                yield batch
        except (RuntimeError, SystemError, OSError) as error:
            raise UserError(
                f"data.workers: a loader process died; it was killed, or {SHARED} is too small for the batches of "
                f"{workers} processes: give fewer (0 loads in the training process), then continue (a supernet with resume=True)"
            ) from error


def _check_shared_memory(workers: int, size: int) -> None:
    """Raise UserError unless loader processes can hand over batches of ``size`` bytes in all."""
    remedy = f"mount it so, or set data.workers=0 (now {workers}), which loads in the training process"
    if not os.access(SHARED, os.W_OK):
        raise UserError(f"data.workers: {SHARED} cannot be written, which loader processes need; {remedy}")
    status = os.statvfs(SHARED)
    if status.f_blocks and (free := status.f_bavail * status.f_frsize) < size:
        wanted = f"{size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free"
        raise UserError(f"data.workers: the batches of {workers} loader processes need {wanted} in {SHARED}; {remedy}")


def calibration_images(source: ImageSource, data: Data, count: int) -> np.ndarray:
    """Evaluation crops of ``count`` training images taken evenly: uint8 [N, S, S, 3]. Raises UserError if too few can be read."""
    images, _ = labelled_images(source, data, count)
    if not len(images):
        raise UserError("data.root: none of the calibration images can be read")
    return images


def labelled_images(source: ImageSource, data: Data, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The readable of ``count`` training images taken evenly: evaluation crops, uint8 [N, S, S, 3], and labels, int64 [N]."""
    chosen = source.subset(evenly(len(source.labels), count))
    unreadable = Unreadable(chosen, data.max_unreadable)
    shown = progress(range(len(chosen.labels)), "reading training images", "images")
    crops = dict(readable_crops(chosen, data, unreadable, shown))
    images = np.array(list(crops.values()), np.uint8).reshape(-1, data.image_size, data.image_size, 3)
    return images, chosen.labels[list(crops)]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, SHUFFLE, epoch)).permutation(count)
