"""Images that cannot be read are named, left out and counted: a few do not stop a long job, many do."""

from __future__ import annotations

import math
import mmap
import sys

import numpy as np

from paddle_pgonas.data.sources import ImageSource, UnreadableImage
from paddle_pgonas.errors import UserError, printable

NAMED = 5  # images that an error names; each image was also named when it was read
UNREADABLE, OUT_OF_MEMORY = 1, 2


class Unreadable:
    """The unreadable images of a source, of which ``share`` (rounded up) may be. Forked loader processes share the list."""

    def __init__(self, source: ImageSource, share: float) -> None:
        self.source, self.share = source, share
        self._met = np.frombuffer(mmap.mmap(-1, len(source.labels)), np.uint8)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._met))

    def add(self, index: int, error: UnreadableImage) -> None:
        """Note an image, and name it on stderr the first time."""
        if not self._met[index]:
            self._met[index] = UNREADABLE
            print(printable(f"left out: {error}"), file=sys.stderr)

    def add_all(self, indices: np.ndarray) -> None:
        """Note images that were named when the cache was built."""
        self._met[indices] = UNREADABLE

    def out_of_memory(self, index: int) -> None:
        """Note that memory ran out at this image, which says nothing about the image."""
        self._met[index] = OUT_OF_MEMORY

    def check(self) -> None:
        """Raises UserError if memory ran out, or more images than allowed are unreadable: how many, and the first names."""
        count = len(self)
        for index in np.flatnonzero(self._met == OUT_OF_MEMORY)[:1] if count else ():
            raise UserError(
                f"{self.source.name(int(index))}: memory ran out while it was decoded; free some, or run fewer jobs or loader "
                "processes (data.workers) at once"
            )
        if count > math.ceil(self.share * len(self._met)):
            names = ", ".join(self.source.name(int(index)) for index in np.flatnonzero(self._met)[:NAMED])
            raise UserError(
                f"data.root: {count:,} of {len(self._met):,} images cannot be read ({names}{', ...' if count > NAMED else ''}); "
                f"replace them, or raise data.max_unreadable, the share that may be left out (now {self.share:g})"
            )
