"""Progress of long jobs on stderr: tqdm's bar on a terminal, plain lines in a log file or in CI."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from tqdm import tqdm

from paddle_pgonas import processes
from paddle_pgonas.errors import printable

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
SHORT = 10.0
"""Seconds before the first line; jobs that take fewer print none."""
DELAY = 2.0
"""Seconds before a bar appears on a terminal."""
LARGE = 1_000_000
"""Totals from here on are written as 1.23M."""

T = TypeVar("T")


class Progress(AbstractContextManager["Progress"]):
    """Shows a job's finished part, rate and time left; the ``first`` units, of an earlier run, do not count in the rate."""

    def __init__(
        self, total: int, job: str, unit: str, first: int = 0, silent: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.job, self.unit, self.silent, self.clock = total, job, unit, silent, clock
        self.done = self.first = first
        self.values = ""
        self.started = self.printed = clock()
        self.bar: tqdm | None = None
        if sys.stderr.isatty() and not silent:
            look = {"unit": f" {unit}", "unit_scale": total >= LARGE, "delay": DELAY, **_screen()}
            self.bar = tqdm(total=total, initial=first, desc=job, **look)

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        """The job has ended or was aborted; an aborted one prints nothing more."""
        if self.bar is not None:
            self.bar.close()
        elif error is None and self.clock() - self.started >= SHORT:
            self._print(f"{tqdm.format_interval(self.clock() - self.started)} in all")

    def update(self, count: int = 1) -> None:
        """Count finished units."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.clock() - self.printed >= (SHORT if self.printed == self.started else EVERY) and self.done > self.first:
            missing = max(self.total - self.done, 0)  # a total may be an estimate
            left = (self.clock() - self.started) * missing / (self.done - self.first)
            self._print(f"{tqdm.format_interval(left)} left")

    def skip_to(self, done: int) -> None:
        """Set the number of finished units; the difference does not count in the rate."""
        skipped = done - self.done
        self.done, self.first = done, self.first + skipped
        if self.bar is not None and skipped:
            self.bar.n, self.bar.initial, self.bar.last_print_n = done, self.first, self.bar.last_print_n + skipped
            self.bar.refresh()

    def show(self, **values: float) -> None:
        """Show values beside the progress, such as the loss, until other values are given."""
        self.values = "".join(f", {name} {value:.4g}" for name, value in values.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.values.removeprefix(", "), refresh=False)

    def _print(self, time_text: str) -> None:
        """One line, such as "training: 300 of 900 steps (33 %), 2.5 steps/s, 04:00 left, loss 1.2"."""
        self.printed = self.clock()
        if self.silent:
            return
        rate = (self.done - self.first) / max(self.printed - self.started, 1e-9)
        fast = tqdm.format_sizeof(rate) if rate >= LARGE else f"{rate:.3g}"
        speed = f"{fast} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:.3g} s each"
        done, total = (tqdm.format_sizeof(n) if self.total >= LARGE else f"{n:,}" for n in (self.done, self.total))
        share = f"{done} of {total} {self.unit} ({100 * self.done // max(self.total, 1)} %)"
        print(f"{self.job}: {share}, {speed}, {time_text}{self.values}", file=sys.stderr, flush=True)


def _screen() -> dict[str, object]:
    """The size of the screen: that of the terminal, but 80 x 24 where it reports none (tqdm would draw nothing)."""
    with suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns == 0:
            return {"ncols": 80, "nrows": 24}
    return {"dynamic_ncols": True}


def progress(items: Sequence[T], job: str, unit: str) -> Iterator[T]:
    """Iterate over the items with a :class:`Progress` that counts the finished ones."""
    with Progress(len(items), job, unit) as bar:
        for item in items:
            yield item
            bar.update()


@functools.cache
def say_once(line: str, *, error: bool = True) -> None:
    """Print a line once in the first process, on stderr if ``error``: a job may open its images several times."""
    if processes.rank() == 0:
        print(printable(line), file=sys.stderr if error else sys.stdout)
