"""Decoded images on disk: built once, memory-mapped by every process that needs them, never half-written."""

from __future__ import annotations

import hashlib
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from paddle_pgonas.config import Config
from paddle_pgonas.data.sources import ImageSource, UnreadableImage, open_source
from paddle_pgonas.data.transforms import center_crop
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import atomic_path, read_json, write_json


class DecodedImages(NamedTuple):
    """Images as the network's crop, with their labels."""

    images: np.ndarray
    """uint8 [N, S, S, 3], memory-mapped."""
    labels: np.ndarray
    """int64 [N]."""
    fingerprint: str
    """Changes when any image, label or the crop does."""


def cache_folder(config: Config) -> Path:
    """Where a run's decoded images are kept."""
    return Path(config.data.cache_dir or Path(config.output_dir) / "cache")


def validation_images(config: Config) -> DecodedImages:
    """The configured validation images, decoded."""
    source = open_source(config.data, "val", config.model.num_classes)
    return decoded(source, config.data.resize, config.data.image_size, cache_folder(config))


def decoded(source: ImageSource, resize: int, size: int, folder: str | Path) -> DecodedImages:
    """The evaluation crop of every readable image, from the cache in ``folder`` or built there now.

    The cache's name is a hash of the source and the crop, so a changed folder or option makes a new cache. Unreadable files
    are left out and named. A cache whose bytes changed on disk is rebuilt.
    """
    key = hashlib.sha256(f"{source.fingerprint()} {resize} {size} v2".encode()).hexdigest()[:16]
    path = Path(folder) / f"decoded-{key}.npy"
    record_path = path.with_suffix(".json")
    record = _read_record(record_path) if path.exists() else None
    if record is None or _checksum(path) != record["crc32"]:
        record = _build(source, resize, size, path)
        write_json(record_path, record)
    images = np.load(path, mmap_mode="r")[: len(record["kept"])]  # unreadable files left room at the end
    return DecodedImages(images, source.labels[record["kept"]], key)


def _read_record(path: Path) -> dict[str, Any] | None:
    """The cache's record; None if it is missing or damaged, as the cache can be built again."""
    try:
        record = read_json(path, "cache record") if path.exists() else None
    except UserError:
        return None
    return record if isinstance(record, dict) and {"crc32", "kept"} <= set(record) else None


def _build(source: ImageSource, resize: int, size: int, path: Path) -> dict[str, Any]:
    count = len(source.labels)
    kept: list[int] = []
    unreadable: list[str] = []
    with atomic_path(path) as part:
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        for index in tqdm(range(count), desc="decoding images", unit="image", mininterval=1, delay=2):
            try:
                images[len(kept)] = center_crop(source.read(index), resize, size)
                kept.append(index)
            except UnreadableImage as error:
                unreadable.append(str(error))
        if not kept:
            raise UserError(f"no image could be read; the first problem was {unreadable[0]}")
        images.flush()
        checksum = _checksum(part)
    for message in unreadable:
        print(f"left out: {message}", file=sys.stderr)
    return {"crc32": checksum, "kept": kept, "unreadable": unreadable}


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
