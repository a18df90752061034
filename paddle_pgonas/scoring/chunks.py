"""Finished chunks of a scoring job on disk, per number of images, so that scoring can be extended to more images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.errors import brief
from paddle_pgonas.io.records import Store
from paddle_pgonas.space.arch import Arch

METRICS = ("top1", "top5", "probability", "loss")
"""The metrics of a scoring pass: two accuracies, the mean probability of the true class, the mean cross-entropy."""


class ChunkStore:
    """Sums of the metrics per chunk and number of images. ``identity`` is all that they depend on besides the candidates.

    Each chunk is a fixed range of the sorted candidates, so its result does not depend on the process that computes it;
    processes that compute the same chunk write the same bytes, so they need no lock. A smaller number of validation images is a
    prefix of a larger one (:func:`~paddle_pgonas.data.sources.spread_order`): a chunk's sums over the first images are stored,
    and only the others are computed when ``data.val_limit`` is raised. With ``score.bn: batch`` the result depends on the images
    of each batch, so it cannot be extended.
    """

    def __init__(self, folder: Path, archs: Sequence[Arch], data: DecodedImages, identity: Mapping[str, Any]) -> None:
        self.data, self.extensible = data, identity["bn"] != "batch"
        others = {name: value for name, value in identity.items() if name != "images"}
        self.store = Store(folder, {"kept": "scores", "candidates": [arch.code for arch in archs], **others})
        self._prefix = cache(self._prefix_fingerprint)

    def summary(self, chunks: int) -> str:
        """The number of existing chunks, as text."""
        counts = [count for _, count in self._entries()]
        whole, others = counts.count(self.data.asked), sorted(set(counts) - {self.data.asked})
        more = f", and some over {', '.join(map(str, others))} images" if others else ""
        where = brief(str(self.store.folder))
        return f"{whole} of {chunks} chunks of these weights, images and options are already in {where}{more}"

    def images(self, chunks: int) -> np.ndarray:
        """The number of images in the stored sums of each chunk, as far as the names of the files tell: int64 [chunks]."""
        stored = np.zeros(chunks, np.int64)
        for chunk, count in self._entries():
            if chunk < chunks and (count == self.data.asked or (count < self.data.asked and self.extensible)):
                stored[chunk] = max(stored[chunk], np.searchsorted(self.data.kept, count))
        return stored

    def get(self, number: int, size: int) -> tuple[int, np.ndarray]:
        """The number of images in the stored sums of a chunk of ``size`` candidates, and the sums: float64 [size, 4]."""
        for count in sorted((count for chunk, count in self._entries() if chunk == number), reverse=True):
            if count == self.data.asked or (count < self.data.asked and self.extensible):
                entry = self.store.get(_name(number, count))
                if entry is not None and entry.record["images"] == self._prefix(count):
                    return int(np.searchsorted(self.data.kept, count)), entry.arrays["sums"]
        return 0, np.zeros((size, len(METRICS)))

    def put(self, number: int, sums: np.ndarray) -> None:
        """Store a chunk's sums over all images."""
        self.store.put(_name(number, self.data.asked), {"images": self.data.fingerprint}, {"sums": sums})

    def _entries(self) -> list[tuple[int, int]]:
        """Number of the chunk and of the images of every entry."""
        return [(int(match[1]), int(match[2])) for name in self.store.names() if (match := _NAME.fullmatch(name))]

    def _prefix_fingerprint(self, count: int) -> str | None:
        if count == self.data.asked:
            return self.data.fingerprint
        return self.data.prefix_fingerprint and self.data.prefix_fingerprint(count)


_NAME = re.compile(r"chunk-(\d+)-of-(\d+)-images")


def _name(number: int, images: int) -> str:
    return f"chunk-{number:05d}-of-{images}-images"
