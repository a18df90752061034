"""The log of a run: progress output, ``metrics.jsonl``, and VisualDL scalars."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import printable
from paddle_pgonas.io.files import is_own_file, read_json_lines, write_text, writing
from paddle_pgonas.progress import Progress

THEN = ", then continue (a supernet with resume=True)"


class RunLog(AbstractContextManager["RunLog"]):
    """A context manager; ``advance`` counts a step, ``log_step`` logs its scalars, ``log`` other measurements.

    ``name`` is shown with the progress; a ``silent`` log, of all processes except the first, writes and shows nothing. Raises
    UserError if the log cannot be written.
    """

    def __init__(self, folder: Path, total_steps: int, first_step: int, name: str = "training", silent: bool = False) -> None:
        self.silent = silent
        self.path = Path(os.devnull) if silent else folder / "metrics.jsonl"
        with writing(self.path, THEN):
            if not silent:
                _forget_from(self.path, first_step)
            self.writer = None if silent else _open_visualdl(folder / "visualdl")
            self.lines = self.path.open("ab", buffering=0)  # a buffer would be written again, and fail again, when closed
        self.bar = Progress(total_steps, name, "steps", first_step, silent)
        self.restart_clock()

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        self.bar.__exit__(error)
        if self.writer is not None:
            self.writer.close()
        self.lines.close()

    def restart_clock(self) -> None:
        """Count images per second from here."""
        self.started, self.images = time.perf_counter(), 0

    def advance(self, images: int) -> None:
        """Count a finished step and its images."""
        self.images += images
        self.bar.update()

    def log_step(self, step: int, scalars: dict[str, float]) -> None:
        """Log the scalars of a step and the speed since the last ones, and show the main ones beside the progress."""
        seconds = time.perf_counter() - self.started
        self.log(step, {**scalars, "images_per_second": round(self.images / seconds, 1), "seconds": round(seconds, 3)})
        kinds = ("loss/largest", "loss/random", *(name for name in scalars if name.startswith("loss/")))
        shown = {"loss": next((kind for kind in kinds if kind in scalars), ""), "acc": "accuracy", "lr": "lr"}
        self.bar.show(**{short: scalars[name] for short, name in shown.items() if name in scalars})
        self.restart_clock()

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Write one line and the scalars."""
        if self.silent:
            return
        line = json.dumps({"step": step, **scalars}).encode() + b"\n"
        with writing(self.path, THEN):
            while line := line[self.lines.write(line) :]:  # the rest of a line that a full disk has truncated
                pass
            if self.writer is not None:
                for name, value in scalars.items():
                    self.writer.add_scalar(name, value, step)


def _open_visualdl(folder: Path) -> Any:
    """VisualDL's writer; None, said in one line, if it cannot be imported, as it writes to the home folder then."""
    try:
        from visualdl import LogWriter
    except (ImportError, OSError) as error:
        print(printable(f"without VisualDL: {' '.join(str(error).split())}"), file=sys.stderr)
        return None
    return LogWriter(logdir=str(folder))


def _forget_from(path: Path, step: int) -> None:
    """Remove the lines of steps that a resumed run will repeat."""
    if is_own_file(path):
        kept = [line for line in read_json_lines(path) if isinstance(line.get("step"), int) and line["step"] < step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
