"""One part in its own process: reads ``job.json`` in a folder, runs the function that it names, writes ``answer.json`` there."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError
from paddle_pgonas.import_paths import import_callable
from paddle_pgonas.io.files import read_json, write_json
from paddle_pgonas.runtime import prepare_process


@dataclass(frozen=True)
class Job:
    """What a part is given in addition to its sizes."""

    device: str
    """``cpu``, ``gpu`` or, before it is known, ``auto``."""
    amp: str
    folder: Path
    """An empty folder, removed after the part."""
    earlier: Mapping[str, Mapping[str, Any]]
    """Details of the parts that passed before, by name."""


class Failed(UserError):
    """A part's result is wrong. It may come with details for the report."""

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


def answer(folder: Path) -> dict[str, Any]:
    """Run the job of a folder: its status (passed or failed), line and details. Whatever it raises is its failure."""
    job = read_json(folder / "job.json", "job")
    try:
        prepare_process()
        function = import_callable(job["function"], "part")
        line, details = function(Job(job["device"], job["amp"], folder, job["earlier"]), **job["sizes"])
    except UserError as error:
        traceback.print_exc()
        return {"status": "failed", "line": str(error), "details": getattr(error, "details", {})}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "line": " ".join(f"{type(error).__name__}: {error}".split())[:500], "details": {}}
    return {"status": "passed", "line": line, "details": details}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plain = json.loads(json.dumps(answer(folder)), parse_constant=str)  # JSON has no infinity, so it becomes a word
    write_json(folder / "answer.json", plain)
