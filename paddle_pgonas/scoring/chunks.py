"""Finished chunks of a scoring run on disk: what makes it resumable and lets several processes share it.

A chunk is a fixed range of the sorted candidates, so its result does not depend on who computes it or when. Each is one file,
written atomically, in a folder named after everything that the scores depend on; another weight file, data set or option is
another folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle_pgonas.arch import Arch
from paddle_pgonas.files import atomic_path


class ChunkFiles:
    """The chunk files of one run.

    Args:
        folder: where runs keep their chunks; each gets a folder of its own inside.
        identity: everything that the scores depend on beside the candidates, as JSON values.
    """

    def __init__(self, folder: Path, archs: Sequence[Arch], identity: dict[str, object]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for arch in archs:
            digest.update(arch.code.encode())
        self.folder = folder / digest.hexdigest()[:16]

    def path(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"chunk-{chunk:05d}.npz"

    def count(self) -> int:
        """How many chunks are there."""
        return sum(1 for _ in self.folder.glob("chunk-*.npz"))

    def load(self, chunk: int, rows: int, columns: int) -> np.ndarray | None:
        """A chunk's float64 [rows, columns]; None if it is missing or damaged (NumPy's archive carries checksums)."""
        path = self.path(chunk)
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                sums = file["sums"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"computed again: {path} is damaged ({error})", file=sys.stderr)
            return None
        return sums if sums.shape == (rows, columns) and np.isfinite(sums).all() else None

    def save(self, chunk: int, sums: np.ndarray) -> None:
        """Write a chunk atomically."""
        archive = io.BytesIO()  # NumPy's own writer complains once more behind a full disk
        np.savez(archive, sums=sums)
        with atomic_path(self.path(chunk)) as part:
            part.write_bytes(archive.getvalue())
