"""Everything stored between runs: named arrays and a JSON record in a safetensors file with a checksum, alone or in a store.

safetensors cannot run code, but has no checksum: a flipped bit would be read as another value. So the record also holds a
SHA-256 over itself and over every array's name, dtype, shape and bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import atomic_path, remove_left_parts

Arrays = dict[str, np.ndarray]
Record = dict[str, Any]

SUFFIX = ".safetensors"
CHECKSUM = "checksum"  # the record's key for the checksum; a record that is written must not use it
MARK = "paddle_pgonas sha256 "  # begins every checksum, so that a missing checksum is detected if damage has changed its key


class DamagedFile(UserError):
    """A file that is truncated, changed, of another format or missing. The message names it."""


def value_at(record: Record, *keys: str) -> Any:
    """A value inside nested dictionaries; None if it is not there."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def write(path: str | Path, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a record (JSON values) and named arrays as one file, atomically; equal contents give equal bytes."""
    whole = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    text = json.dumps({**record, CHECKSUM: checksum(record, whole)})
    data = save(whole, metadata={"record": text})
    with atomic_path(path) as part:
        part.write_bytes(data)


def read(path: str | Path, *, checked: bool = True) -> tuple[Arrays, Record]:
    """Arrays and record of a file. Raises DamagedFile unless it is, byte for byte, what :func:`write` wrote.

    If not ``checked``, a foreign file without checksum is read too, with the record ``{}``; one that is there is always compared.
    """
    if not Path(path).is_file():
        raise DamagedFile(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
        record = json.loads(metadata.get("record", "{}"))
        if not isinstance(record, dict):
            record = {}
        expected = record.pop(CHECKSUM, None)
        actual = checksum(record, arrays)
    except TypeError as error:
        raise DamagedFile(
            f"{path}: holds a dtype that NumPy lacks, such as bfloat16; convert them to float32 ({error})"
        ) from None
    except Exception as error:  # a damaged file can raise any exception
        raise DamagedFile(f"{path}: not a complete safetensors file ({type(error).__name__}: {error})") from None
    if expected is None and (checked or MARK in "".join(metadata.values())):
        raise DamagedFile(f"{path}: the checksum is missing; the file is damaged or was written by another program")
    if expected not in (None, actual):
        raise DamagedFile(f"{path}: the contents do not match their checksum; the file is damaged")
    return arrays, record


def checksum(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """MARK and the SHA-256 of a record (JSON values) and of the names, dtypes, shapes and bytes of arrays."""
    # JSON texts hold no NUL, so it separates them; the shape tells how many bytes follow.
    digest = hashlib.sha256(json.dumps(record).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{json.dumps([name, str(array.dtype), array.shape])}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return MARK + digest.hexdigest()


class Entry(NamedTuple):
    """One stored result."""

    record: Record
    arrays: Arrays


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 (64 hexadecimal digits) of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Store:
    """Entries by name, each a file of its own (:func:`write`), so that several processes can add at once.

    The identity (a JSON object) lists what can change a result besides its name, and nothing else; images and weights by the
    digest of their contents, never by their path. Its :func:`digest` names the subfolder of ``folder`` that holds the entries. An
    entry also holds this key and its name, so that a file that was renamed or moved here is detected. Temporary files of killed
    processes in the subfolder are removed.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self.key = digest(identity)
        self.folder = Path(folder) / self.key
        remove_left_parts(self.folder)

    def path(self, name: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{name}{SUFFIX}"

    def names(self) -> list[str]:
        """The names of all entries, intact or damaged, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"[!.]*{SUFFIX}"))

    def get(self, name: str) -> Entry | None:
        """An entry; None if there is none. A damaged entry is named on stderr and treated as missing."""
        path = self.path(name)
        if not path.exists():
            return None
        try:
            arrays, record = read(path)
            if record.get("store") != self.key or record.get("name") != name:
                raise DamagedFile(f"{path}: holds another entry's result")
        except DamagedFile as error:
            print(f"not used: {error}", file=sys.stderr)
            return None
        return Entry(record["value"], arrays)

    def entries(self) -> Iterator[Entry]:
        """Every intact entry, in the order of the names."""
        return (entry for entry in map(self.get, self.names()) if entry is not None)

    def put(self, name: str, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Store an entry; replaces an older one of the same name. Raises UserError if the folder cannot be written."""
        write(self.path(name), {"store": self.key, "name": name, "value": dict(record)}, arrays)
