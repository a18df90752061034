"""Results stored between runs, in folders named after everything that they depend on.

The rule is the same for scores, stand-alone results, decoded images and measurements: an identity (a JSON object) lists what can
change a result, with images and weights by the digest of their contents, never by their path. Options that cannot change a result
are not part of it. An equal identity gives the stored result; any difference gives another folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddle_pgonas.io import container
from paddle_pgonas.io.container import Arrays, DamagedFile, Record
from paddle_pgonas.io.files import remove_left_parts

SUFFIX = ".safetensors"


class Entry(NamedTuple):
    """One stored result."""

    record: Record
    arrays: Arrays


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 (64 hexadecimal digits) of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Store:
    """Entries by name, each a file of its own (:mod:`~paddle_pgonas.io.container`), so that several processes can add at once.

    Temporary files of killed processes in the store's folder are removed.

    An entry also holds its name and the identity's digest: a file that was renamed or moved here is detected.

    Args:
        folder: the parent folder of all stores; this store creates a subfolder.
        identity: everything that the entries depend on in addition to their names, as JSON values.
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
            arrays, record = container.read(path)
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
        """Store an entry; replaces an older one of the same name.

        Raises:
            UserError: the folder cannot be written.
        """
        container.write(self.path(name), {"store": self.key, "name": name, "value": dict(record)}, arrays)
