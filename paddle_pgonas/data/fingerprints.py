"""Fingerprints of image files, computed from their contents: a moved folder keeps its fingerprint, a changed pixel changes it.

Every file is read once and its digest stored in a table; after that only its size and times are compared (``stat``). A file
is read again when its name, its size, or its time of modification or of change (``ctime``, which no program can set) differs.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from paddle_pgonas.io import records
from paddle_pgonas.io.files import remove_left_parts
from paddle_pgonas.io.records import DamagedFile
from paddle_pgonas.progress import progress

TABLE = "file-digests.safetensors"
READERS = 8
SETTLED = 2 * 10**9  # nanoseconds until a further change to a file surely changes its times; younger files are not stored
UNREADABLE = bytes(32)  # stands for the digest of a file that cannot be read


def fingerprint_files(
    folder: Path, names: Sequence[bytes], labels: Iterable[int], cache: Path, paths: Sequence[bytes] | None = None
) -> str:
    """SHA-256 over each file's name, label and content, in this order; an unreadable file has none.

    The files lie at ``paths`` below ``folder``; without them, at their names.
    Runs that share ``cache``, the folder of the table, read no file twice. Raises UserError if the table cannot be written.
    """
    remove_left_parts(cache, TABLE)
    known, root = _read_table(cache / TABLE), os.fsencode(folder)
    places = [os.path.join(root, path) for path in paths or names]
    stamps, settled = _stamps(places, names, time.time_ns())
    unknown = [index for index, stamp in enumerate(stamps) if stamp not in known]
    with ThreadPoolExecutor(READERS) as readers:
        contents = readers.map(_content, (places[index] for index in unknown))
        shown = progress(unknown, "reading images once", "images")
        read = {stamps[index]: content for index, content in zip(shown, contents, strict=True)}
    if remembered := {stamp: content for stamp, content in read.items() if stamp in settled and content != UNREADABLE}:
        _write_table(cache / TABLE, known | remembered)
    digest = hashlib.sha256()
    for name, label, stamp in zip(names, labels, stamps, strict=True):
        digest.update(b"%b\0%d\0%b" % (name, label, read.get(stamp) or known[stamp]))
    return digest.hexdigest()


def stamps_of(folder: Path, paths: Sequence[bytes]) -> list[bytes]:
    """A digest of each file's name, size and times; it differs once the file has been written again."""
    root = os.fsencode(folder)
    return _stamps([os.path.join(root, path) for path in paths], paths, 0)[0]


def _stamps(places: Sequence[bytes], names: Sequence[bytes], now: int) -> tuple[list[bytes], set[bytes]]:
    """Stamps of files (a digest of name, size and times), and which of them are old enough to be stored."""
    stamps, settled = [], set()
    for place, name in zip(progress(places, "looking at images", "files"), names, strict=True):
        try:
            status = os.stat(place)
        except (OSError, ValueError):
            stamps.append(hashlib.sha256(b"%b\0" % name).digest())
            continue
        times = status.st_mtime_ns, status.st_ctime_ns
        stamps.append(hashlib.sha256(b"%b\0%d %d %d" % (name, status.st_size, *times)).digest())
        if max(times) + SETTLED < now:
            settled.add(stamps[-1])
    return stamps, settled


def _content(path: bytes) -> bytes:
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block
            return UNREADABLE
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError):
        return UNREADABLE
    return digest.digest()


def _read_table(path: Path) -> dict[bytes, bytes]:
    """Content digests by stamp; none if there is no table or it is damaged."""
    try:
        arrays, _ = records.read(path)
    except DamagedFile:
        return {}
    return {bytes(stamp): bytes(content) for stamp, content in zip(arrays["stamps"], arrays["contents"], strict=True)}


def _write_table(path: Path, table: dict[bytes, bytes]) -> None:
    stamps, contents = (np.frombuffer(b"".join(digests), np.uint8).reshape(len(table), -1) for digests in (table, table.values()))
    records.write(path, {}, {"stamps": stamps, "contents": contents})
