"""How a command ends when it is asked to: Ctrl-C and SIGTERM give one line and a status, at any moment.

Only command lines install this; in other programs the package changes no handler, except in a training (training/signals.py).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""The exit statuses of shells for programs that a signal ended."""

_installed: list[int] = []  # the process that did; its children, such as loader processes, end as other programs do

_answered_until = 0.0


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it."""


def install() -> None:
    """Raise KeyboardInterrupt for Ctrl-C and :class:`Terminated` for SIGTERM in the main thread, from now on."""
    if threading.current_thread() is threading.main_thread():
        _installed[:] = [os.getpid()]
        for number in STATUS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells' background jobs ask
                signal.signal(number, _end)


def renew() -> None:
    """Install again what was installed before: Paddle replaces the handlers when it is imported."""
    if _installed:
        install()


def answer(seconds: float) -> None:
    """A request was heard, and repetitions within these seconds belong to it."""
    global _answered_until
    _answered_until = time.monotonic() + seconds


def answered() -> bool:
    """Whether a request now is a repetition."""
    return time.monotonic() < _answered_until


def line_of(error: KeyboardInterrupt) -> tuple[int, str]:
    """The exit status of an interrupted command, and what to say."""
    return (STATUS[signal.SIGTERM], "terminated") if isinstance(error, Terminated) else (STATUS[signal.SIGINT], "interrupted")


def _end(number: int, frame: FrameType | None) -> None:
    if _installed != [os.getpid()]:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    if answered():
        return
    error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            # Modules of other packages turn an exception in the midst of their import into others, with traces.
            status, text = line_of(error)
            os.write(2, f"{os.path.basename(sys.argv[0])}: {text}\n".encode(errors="replace"))
            os._exit(status)
        frame = frame.f_back
    raise error


install()  # when this is imported, first of all, so that it holds while the other imports run
