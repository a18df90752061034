"""Requests to stop a run: Ctrl-C or SIGTERM ends it after a checkpoint, not within a step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from paddle_pgonas import processes

REPEATED = 2.0
"""Seconds for each process in which a request counts once: Paddle's launcher repeats it three times for each of them in turn."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that is empty until the process is asked to stop; a later request stops it immediately.

    In another thread than the main one it stays empty, because only that one can receive signals.
    """
    requests: list[int] = []
    until = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal until
        if not requests:
            until = time.monotonic() + REPEATED * processes.world()
        elif time.monotonic() > until:
            raise KeyboardInterrupt
        requests.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
