"""What a search has measured, on disk as it goes: a killed search repeats nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json_lines


class Store:
    """Numbers per code in a JSON-lines file, one line per batch that was measured together.

    A batch is there whole or not at all, so a resumed search measures the same subnets together as an undisturbed one. The
    file is named after everything that the numbers depend on; searches with the same weights and images share it.
    """

    def __init__(self, folder: str | Path, kind: str, identity: Mapping[str, object]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{kind}-{digest}.jsonl"
        self.values: dict[str, list[float]] = {}
        """Measured numbers by code."""
        for batch in read_json_lines(self.path):
            self.values.update(batch)

    def add(self, codes: Sequence[str], values: Sequence[Sequence[float]]) -> None:
        """Keep a batch, in memory and on disk."""
        batch = {code: [float(value) for value in row] for code, row in zip(codes, values, strict=True)}
        self.values.update(batch)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # The newline in front ends a line that a crash cut short; the empty lines that it makes are passed over.
                file.write("\n" + json.dumps(batch) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another output_dir") from None
