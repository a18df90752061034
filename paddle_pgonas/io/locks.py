"""One job of a kind at a time in a folder, by a lock that the system releases when the process ends, even if it is killed.

The locks are POSIX record locks, which forked loader processes do not inherit: one that outlives a killed training does not keep
the folder locked. A lock file left by a killed process does no harm.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from paddle_pgonas import processes
from paddle_pgonas.errors import UserError, brief
from paddle_pgonas.io.files import writing


@contextmanager
def exclusive(folder: str | Path, job: str) -> Iterator[Callable[[], None]]:
    """Refuse other runs of the same ``job`` (one word) in ``folder`` while the block runs. A folder that is created for it is
    removed if it stays empty.

    Gives a function to call before files are written: it raises UserError if the folder was removed meanwhile, whether or not
    another run has begun there. The processes of one launch are one owner: each locks its own rank. Raises UserError if the lock
    is held or the folder cannot be written.
    """
    with _holding(Path(folder) / f".{job}-{processes.rank()}.lock", job, waits=False) as check:
        yield check


@contextmanager
def turn(folder: str | Path, job: str) -> Iterator[None]:
    """Wait until no other process, of the same launch or not, is at this ``job`` (one word) in ``folder``, then run the block.

    Without locks in the file system nobody waits. Raises UserError if the folder cannot be written.
    """
    with _holding(Path(folder) / f".{job}.lock", job, waits=True):
        yield


@contextmanager
def _holding(path: Path, job: str, waits: bool) -> Iterator[Callable[[], None]]:
    made = [parent for parent in path.parents if not parent.exists()]
    while not _is_at(file := _locked(path, job, waits), path):
        file.close()  # the last owner removed the file between opening and locking
    with file:
        with suppress(OSError):  # a full disk: the lock is effective without the text
            file.truncate(0)
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            os.write(file.fileno(), owner.encode())  # a buffered write would fail again later

        def check() -> None:
            if not _is_at(file, path):
                raise UserError(f"{path.parent}: was removed while this {job} was using it; nothing more is written there")

        try:
            yield check
        finally:
            if _is_at(file, path):  # else it is another run's
                path.unlink(missing_ok=True)
            with suppress(OSError):  # nothing is left of a job that was refused
                for parent in made:
                    parent.rmdir()


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:  # it was removed, perhaps by another machine from a network file system
        return False


def _locked(path: Path, job: str, waits: bool) -> TextIO:
    folder = path.parent
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8", errors="replace")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            if not waits:
                print(
                    brief(f"{folder}: its file system has no locks ({error.strerror}); start no second {job} there"),
                    file=sys.stderr,
                )
            return file
        file.seek(0)
        owner = file.read(200) or "another process"
        if not waits:
            file.close()
            raise UserError(f"{folder} is in use by another {job} ({owner}); wait for it or choose another folder") from None
        print(brief(f"{folder}: waiting for the {job} by {owner}"), file=sys.stderr)
        fcntl.lockf(file, fcntl.LOCK_EX)
    return file
