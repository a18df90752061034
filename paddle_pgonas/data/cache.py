"""A cache of decoded images on disk: built once, written atomically, memory-mapped by every process."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_pgonas.config.loading import Data
from paddle_pgonas.data.sources import ImageSource, UnreadableImage
from paddle_pgonas.data.transforms import center_crop
from paddle_pgonas.data.unreadable import Unreadable
from paddle_pgonas.errors import UserError, brief
from paddle_pgonas.io.files import atomic_path
from paddle_pgonas.io.locks import turn
from paddle_pgonas.io.records import Entry, Store
from paddle_pgonas.progress import Progress, progress

PIXELS, RECORD = "pixels.npy", "images"  # file of the pixels, and the entry with the list of images and the checksum

DECODER = 3  # version of the decoding: raise it when the same files give other pixels, so that older caches are not used

AGAIN = "give the command again"


class DecodedImages(NamedTuple):
    """Images as the network's crop, with their labels."""

    images: np.ndarray  # uint8 [N, S, S, 3], memory-mapped
    labels: np.ndarray  # int64 [N]
    fingerprint: str  # changes when any image, label or the crop does
    kept: np.ndarray  # position of each image among the requested ones, ascending; missing ones could not be read
    asked: int  # number of requested images
    calibration: np.ndarray | None = None  # training images for BatchNorm, uint8 [n, S, S, 3]; None if the mode needs none
    prefix_fingerprint: Callable[[int], str] | None = None  # of the first so many of the requested images, if it is known


def decoded(source: ImageSource, data: Data, folder: str | Path) -> DecodedImages:
    """The evaluation crop of every readable image, from the cache in ``folder`` or built there now.

    Of several processes one builds it while the others wait. Unreadable files are left out and named. A cache whose pixels or
    record changed on disk is named and built again. Raises UserError if no image can be read, or more than
    ``data.max_unreadable`` of them cannot, if memory is short, or if files change meanwhile.
    """
    store = _store(source, data, Path(folder))
    unreadable = Unreadable(source, data.max_unreadable)
    kept = _entry(source, data, store, unreadable).arrays["kept"]
    unreadable.add_all(np.setdiff1d(np.arange(len(source.labels)), kept))
    unreadable.check()
    images = np.load(store.folder / PIXELS, mmap_mode="r")[: len(kept)]  # unreadable files left room at the end

    def prefix_fingerprint(count: int) -> str:
        return _store(source.subset(np.arange(count)), data, Path(folder)).key

    return DecodedImages(images, source.labels[kept], store.key, kept, len(source.labels), None, prefix_fingerprint)


def _store(source: ImageSource, data: Data, folder: Path) -> Store:
    crop = {"resize": data.resize, "size": data.image_size, "decoder": DECODER}
    return Store(folder, {"kept": "decoded images", "images": source.fingerprint(folder), **crop})


def _whole(store: Store) -> Entry | None:
    """The cache's record, if its pixels exist and are unchanged."""
    entry, path = store.get(RECORD), store.folder / PIXELS
    if entry is None or (path.is_file() and _checksum(path) == entry.record["crc32"]):
        return entry
    print(brief(f"not used: {path}: the pixels do not match their checksum; the file is damaged"), file=sys.stderr)
    return None


def _entry(source: ImageSource, data: Data, store: Store, unreadable: Unreadable) -> Entry:
    """The record of a whole cache, which is built if there is none."""
    before = _stamp(store)
    entry = _whole(store)
    if entry is None:
        with turn(store.folder, "decoding"):
            if _stamp(store) != before:  # another process has built it meanwhile
                entry = _whole(store)
            entry = entry or _build(source, data, store, unreadable)
    return entry


def _stamp(store: Store) -> int | None:
    path = store.path(RECORD)
    return path.stat().st_mtime_ns if path.exists() else None


def _build(source: ImageSource, data: Data, store: Store, unreadable: Unreadable) -> Entry:
    count, size = len(source.labels), data.image_size
    kept, stamps = [], source.stamps()
    # Written in order, not through a memory map: a full disk would end the process at a mapped page.
    with atomic_path(store.folder / PIXELS) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)})
        start = file.tell()
        for index, crop in readable_crops(source, data, unreadable, progress(range(count), "decoding images", "images")):
            file.write(crop.tobytes())
            kept.append(index)
        if not kept:
            raise UserError(f"no image could be read; the first is {source.name(0)}")
        file.truncate(start + count * size * size * 3)
        file.flush()
        checksum = _checksum(part)
        _refuse_changed(source, data, store, stamps)
        _refuse_readable(source, data, unreadable, np.setdiff1d(np.arange(count), kept))
    if unreadable:
        print(f"left out in total: {len(unreadable):,} of {count:,} images", file=sys.stderr)
    entry = Entry({"crc32": checksum}, {"kept": np.array(kept)})
    store.put(RECORD, *entry)
    return entry


def _refuse_changed(source: ImageSource, data: Data, store: Store, stamps: list[bytes]) -> None:
    """Raise UserError if files were written since ``stamps`` or the fingerprint: the pixels may be of others."""
    for index, (before, now) in enumerate(zip(stamps, source.stamps(), strict=True)):
        if before != now:
            raise UserError(f"{source.name(index)}: was changed while the images were decoded; {AGAIN}")
    if _store(source, data, store.folder.parent).key != store.key:
        raise UserError(f"{source.where}: images were changed while they were decoded; {AGAIN}")


def _refuse_readable(source: ImageSource, data: Data, unreadable: Unreadable, left_out: np.ndarray) -> None:
    """Raise UserError if an image can be read that could not before: not the image failed, and it would be left out for ever."""
    for index, _ in readable_crops(source, data, unreadable, left_out.tolist()):
        raise UserError(f"{source.name(index)}: could not be read at first, and can be now, as if the disk failed; {AGAIN}")


def readable_crops(
    source: ImageSource, data: Data, unreadable: Unreadable, indices: Iterable[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and evaluation crop, uint8 [S, S, 3], of every readable image. UserError: too many are not, or memory is short."""
    for index in indices:
        try:
            yield index, center_crop(source.read(index), data.resize, data.image_size)
            continue
        except UnreadableImage as error:
            unreadable.add(index, error)
        except MemoryError:
            unreadable.out_of_memory(index)
        unreadable.check()


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file, Progress(path.stat().st_size, "checking decoded images", "bytes") as bar:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
            bar.update(len(block))
    return value
