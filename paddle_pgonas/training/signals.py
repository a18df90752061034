"""Requests to stop a run: Ctrl-C or SIGTERM ends it after a checkpoint, not within a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from paddle_pgonas import interrupts, processes

REPEATED = 2.0
"""Seconds for each process in which a request counts once: Paddle's launcher repeats it three times for each of them in turn."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that is empty until the process is asked to stop; a later request stops it immediately.

    In another thread than the main one it stays empty, because only that one can receive signals.
    """
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def note(number: int, frame: FrameType | None) -> None:
        if not requests:
            interrupts.answer(REPEATED * processes.world())
        elif not interrupts.answered():
            raise KeyboardInterrupt
        requests.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
