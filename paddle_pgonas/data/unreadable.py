"""Images that cannot be read are named, left out and counted: a few do not stop a long job, many do."""

from __future__ import annotations

import math
import mmap
import sys

import numpy as np

from paddle_pgonas.data.sources import ImageSource, UnreadableImage
from paddle_pgonas.errors import UserError, printable

NAMED = 5  # images that an error names; each image was also named when it was read


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
            self._met[index] = 1
            print(printable(f"left out: {error}"), file=sys.stderr)

    def add_all(self, indices: np.ndarray) -> None:
        """Note images that were named when the cache was built."""
        self._met[indices] = 1

    def check(self) -> None:
        """Raises UserError if more images than allowed are unreadable; it says how many, and names the first."""
        count = len(self)
        if count > math.ceil(self.share * len(self._met)):
            names = ", ".join(self.source.name(int(index)) for index in np.flatnonzero(self._met)[:NAMED])
            raise UserError(
                f"data.root: {count:,} of {len(self._met):,} images cannot be read ({names}{', ...' if count > NAMED else ''}); "
                f"replace them, or raise data.max_unreadable, the share that may be left out (now {self.share:g})"
            )
