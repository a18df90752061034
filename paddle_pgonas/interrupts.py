"""How a command ends when it is asked to: Ctrl-C and SIGTERM give one line and a status, at any moment.

Only command lines install this; in other programs the package changes no handler, except in a training (training/signals.py).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

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


class _PaddleFinder(MetaPathFinder):
    """Finds Paddle so that SIGTERM waits while it is imported: in the midst of that it installs a handler that prints a trace."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """As of any finder in ``sys.meta_path``."""
        if name != "paddle":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(_import_paddle, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _import_paddle(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        execute(module)
    finally:
        install()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
sys.meta_path.insert(0, _PaddleFinder())
