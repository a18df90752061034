"""Scores all candidates on all images: by chunks of candidates, batches of images, and prefix trees."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import paddle

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Data, Score
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.data.sources import evenly
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.records import checksum
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.progress import Progress
from paddle_pgonas.runtime import DEVICE_ERRORS, compute_dtype, device_memory, out_of_memory, tf32
from paddle_pgonas.scoring.chunks import METRICS, ChunkStore
from paddle_pgonas.scoring.tree import Node, build_tree, scoring_order, walk_cost
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import Arch

T = TypeVar("T")

COUNTED = 16
"""So many chunks are counted exactly for the forecast, which takes a tenth of a second each."""
CHUNK = 256
"""Most candidates per chunk: a kill loses at most one chunk, and chunking costs 0.4 % of the sharing for the 45,000."""


def calibration_batches(images: np.ndarray, data: Data, batch: int | None, micro_batch: int) -> Iterator[list[paddle.Tensor]]:
    """Images uint8 [n, S, S, 3], normalised, in batches of this size (None: one of all), each in micro-batches of that size."""
    size = batch or len(images)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        micro_batches = (part[first : first + micro_batch] for first in range(0, len(part), micro_batch))
        yield [to_network(pixels, data) for pixels in micro_batches]


def score(
    net: Supernet, archs: Sequence[Arch], images: DecodedImages, data: Data, settings: Score, folder: Path | None = None
) -> np.ndarray:
    """Measure :data:`METRICS` of every architecture with the supernet's weights: float64 [len(archs), 4], in their order.

    ``images`` are those of :meth:`~paddle_pgonas.data.images.JobImages.for_scoring`, normalised as ``data`` says. Finished chunks
    are kept in ``folder``, so that an interrupted run continues and several processes share the work; None stores nothing. Raises
    UserError for logits that are not finite, or a folder that cannot be written.
    """
    positions = chunked(scoring_order(archs))
    chunks = [[archs[position] for position in chunk] for chunk in positions]
    store = None if folder is None else ChunkStore(folder, archs, images, identity(net, images, data, settings))
    if store is not None:
        print(store.summary(len(chunks)))
    scorer = _Scorer(net, images, data, settings)
    sums, count = np.empty((len(archs), len(METRICS))), len(images.labels)
    left = np.full(len(chunks), count) if store is None else count - store.images(len(chunks))
    calibrating = 0 if scorer.calibration is None else len(scorer.calibration)
    work = _macs_of(chunks, left, calibrating, net, images.images.shape[1])

    def sums_of(number: int, bar: Progress, done: int) -> np.ndarray:
        chunk = chunks[number]
        first, start = (0, np.zeros((len(chunk), len(METRICS)))) if store is None else store.get(number, len(chunk))
        if first < count:
            start = start + scorer.chunk(chunk, first, bar, done)
            if store is not None:
                store.put(number, start)
        return start

    own, others = _my_order(len(chunks))
    for job, numbers in (("scoring", own), ("scoring what other processes left", others)):
        done = 0
        with Progress(sum(work[number] for number in numbers), job, "MACs") as bar:
            for number in numbers:
                sums[positions[number]] = sums_of(number, bar, done)
                done += work[number]
                bar.skip_to(done)  # what another process has stored counts too
    return sums / count


def _macs_of(chunks: Sequence[Sequence[Arch]], left: np.ndarray, calibrating: int, net: Supernet, side: int) -> list[int]:
    """The work on each chunk with images ``left``. Of many such, whose costs change slowly, all but some are interpolated."""
    missing = np.flatnonzero(left)
    if not len(missing):
        return [0] * len(chunks)
    counted = missing[evenly(len(missing), COUNTED)]
    costs = [walk_cost(build_tree(chunks[number]), chunks[number][0], side, net.num_classes).macs for number in counted]
    images = np.where(left, calibrating + left, 0)
    return (np.interp(np.arange(len(chunks)), counted, costs) * images).astype(np.int64).tolist()


def chunked(order: Sequence[T]) -> list[Sequence[T]]:
    """The sorted candidates in chunks; smaller ones than CHUNK for short lists, so that several processes can share the work."""
    size = min(CHUNK, max(16, len(order) // 4))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _my_order(chunks: int) -> tuple[list[int], list[int]]:
    """This process's share of the chunks, then those of the others from their ends, to be scored if still missing."""
    rank, world = processes.rank(), processes.world()
    shares = [range(chunks * r // world, chunks * (r + 1) // world) for r in range(world)]
    others = shares[rank + 1 :] + shares[:rank]
    return list(shares[rank]), list(chain.from_iterable(map(reversed, others)))


def identity(net: Supernet, images: DecodedImages, data: Data, settings: Score) -> dict[str, object]:
    """Everything that the scores depend on in addition to the candidates."""
    return {
        "weights": checksum({}, {name: tensor.numpy() for name, tensor in net.weights().items()}),
        "activation": net.activation,
        "images": images.fingerprint,
        "normalisation": [data.mean, data.std],
        "bn": settings.bn,
        "calibration": None if images.calibration is None else checksum({}, {"images": images.calibration}),
        "calibration_batch": settings.calibration_batch if settings.bn == "calibrated" else None,
        "batch_size": settings.batch_size if settings.bn == "batch" else None,
        "amp": settings.amp,
        "chunk": CHUNK,  # the start of a walk influences the rounding of sums
        "metrics": METRICS,
    }


class _Scorer:
    """Scores chunks on the images. Memory depends on the batch and the depth of the network only."""

    def __init__(self, net: Supernet, images: DecodedImages, data: Data, settings: Score) -> None:
        net.eval()
        self.walker = Walker(net, settings.bn, compute_dtype(settings.amp, "score.amp"))
        self.images, self.data, self.settings = images, data, settings
        self.calibration = images.calibration if settings.bn == "calibrated" else None
        self.batch_size = settings.batch_size
        self.on_device: paddle.Tensor | None = None
        if paddle.get_device() != "cpu" and images.images.nbytes < device_memory() / 4:
            self.on_device = paddle.to_tensor(np.ascontiguousarray(images.images))

    def chunk(self, archs: Sequence[Arch], first: int, bar: Progress, done: int) -> np.ndarray:
        """Sums of the metrics over the images from the ``first`` on: float64 [len(archs), 4]. Out of memory halves the batch.

        The multiply-accumulates count in the progress, of which ``done`` were there before.
        """
        self.walker.tell = bar.update
        while True:
            bar.skip_to(done)  # work that is repeated counts once
            try:
                with tf32(self.settings.amp):
                    return self._walk_images(archs, first)
            except DEVICE_ERRORS as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise UserError("out of memory with one image at a time; lower score.calibration_batch") from None
                if self.settings.bn == "batch":
                    raise UserError(
                        "out of memory; with score.bn=batch the batch is part of the result: lower score.batch_size"
                    ) from None
                self.batch_size //= 2
                print(f"out of memory: score.batch_size is now {self.batch_size}", file=sys.stderr)

    def _walk_images(self, archs: Sequence[Arch], first: int) -> np.ndarray:
        root = build_tree(archs)
        if self.calibration is not None:
            # On out-of-memory the micro-batches are halved too.
            size = self.settings.calibration_batch
            self.walker.calibrate(root, calibration_batches(self.calibration, self.data, size, self.batch_size))
        sums = np.zeros((len(archs), len(METRICS)))
        for start in range(first, len(self.images.labels), self.batch_size):
            batch = slice(start, start + self.batch_size)
            pixels = (self.images.images if self.on_device is None else self.on_device)[batch]
            measured: dict[int, paddle.Tensor] = {}
            visit = partial(_visit, paddle.to_tensor(self.images.labels[batch]), measured)
            self.walker.walk(root, to_network(pixels, self.data), visit)
            sums[list(measured)] += paddle.stack(list(measured.values())).numpy()  # one synchronization with the device per batch
        bad = np.flatnonzero(~np.isfinite(sums).all(axis=1))
        if len(bad):
            raise UserError(
                f"the weights give logits that are not numbers (first for {archs[bad[0]]}); these weights cannot be used"
            )
        return sums


def _visit(labels: paddle.Tensor, measured: dict[int, paddle.Tensor], node: Node, logits: paddle.Tensor) -> None:
    measured.update(dict.fromkeys(node.candidates, _measure(logits, labels)))


def _measure(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Sums over the batch, in the order of METRICS. Ties count for the lower class, as in argmax."""
    logits, column = logits.astype("float32"), labels.unsqueeze(-1)
    true = paddle.take_along_axis(logits, column, axis=-1)
    classes = paddle.arange(logits.shape[-1]).unsqueeze(0)
    ahead = (logits > true) | ((logits == true) & (classes < column))
    rank = ahead.astype("int32").sum(-1)
    hits = [(rank < k).astype("float32").sum() for k in (1, 5)]
    loss = paddle.logsumexp(logits, axis=-1) - true.squeeze(-1)  # Paddle's log-softmax is clipped at -64 on CPUs
    return paddle.stack([*hits, (-loss).exp().sum(), loss.sum()])
