"""Atomic file I/O, and the reading of text and JSON with errors that name the file."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.outputs import put_in_place, regular_target

PART = ".part"  # ends the names of temporary files
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system for a full disk."""


def expanded(path: str) -> str:
    """The path with a leading ``~`` or ``~name`` replaced by that home folder; UserError if there is none."""
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise UserError(f"{path}: there is no such home folder; write ./{path} for a name that begins with ~")
    return whole


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block succeeds, remove it otherwise.

    The contents are flushed to the disk before the file is renamed, so a crash at any moment leaves the old file, the new one,
    or none. A symbolic link is kept, and its target is replaced; a replaced file's mode stays. Temporary files of killed
    processes are removed. Raises UserError if the folder cannot be made or written, or ``path`` is a device, a pipe or a folder.
    """
    target = regular_target(path)
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_left_parts(target.parent, target.name)
        part, lock = _locked_part(target)
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.chmod(_mode_of(target))  # mkstemp made it private
            put_in_place(part, target)
        finally:
            part.unlink(missing_ok=True)
            os.close(lock)


def _mode_of(target: Path) -> int:
    """The permissions of an existing file, otherwise those that ``open`` would give."""
    with suppress(OSError):
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def writing(path: str | Path, then: str = " or choose another place") -> Iterator[None]:
    """Turn an error of the system in the block into a UserError: ``path`` cannot be written; what to mend, and what ``then``.

    A file elsewhere that is the cause, as one of Paddle's in the home folder, is named.
    """
    try:
        yield
    except OSError as error:
        at = os.path.realpath(error.filename if isinstance(error.filename, str) else path)
        here = Path(at).is_relative_to(os.path.dirname(os.path.realpath(path)))
        cause = error.strerror if here else f"{at}: {error.strerror}"
        remedy = "free some space" if error.errno in NO_SPACE else "mend that"
        raise UserError(f"{path}: cannot be written ({cause}); {remedy}{then}") from error


def _locked_part(target: Path) -> tuple[Path, int]:
    """A new temporary file beside ``target``, and its descriptor; the file is locked until the descriptor is closed."""
    while True:
        lock, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PART, dir=target.parent)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return Path(name), lock
        os.close(lock)  # another process removed it as a left-over before it was locked


def remove_left_parts(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes, which no process has locked; only those of ``name`` among foreign files."""
    for part in folder.glob(f".{'*' if name is None else glob.escape(name)}.????????{PART}"):
        with suppress(OSError), part.open("r+b") as file:  # NFS refuses an exclusive lock on a file that is only read
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may not be valid UTF-8


def write_json(path: str | Path, value: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def check_readable(path: str | Path, *, regular: bool = False) -> None:
    """Raise UserError for no file, a folder, or one that cannot be read; if ``regular``, for a pipe or a device too."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a link to itself, a part of the path that is a file, a name with a zero byte
        raise UserError(f"{path}: cannot be read ({error.strerror if isinstance(error, OSError) else error})") from None
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read ({os.strerror(errno.EACCES)})")
    if stat.S_ISDIR(mode) or (regular and not stat.S_ISREG(mode)):
        raise UserError(f"{path}: cannot be read (it is not a regular file); give the name of a file")


def read_text(path: str | Path, what: str, *, regular: bool = False, errors: str = "strict") -> str:
    """The text of a UTF-8 file, without a byte order mark; ``what`` names it in messages, ``errors`` as in :func:`open`.

    Raises UserError for a file that cannot be read or decoded; if ``regular``, for a pipe or a device, which could block, too.
    """
    try:
        if regular and not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path}: cannot read the {what} (it is not a regular file)")
        return Path(path).read_text(encoding="utf-8-sig", errors=errors)
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the {what} is not a UTF-8 text file") from None
    except ValueError as error:  # a name with a zero byte
        raise UserError(f"{str(path)!a:.60}: cannot read the {what} ({error})") from None


def read_json(path: str | Path, what: str, repeated: list[str] | None = None) -> Any:
    """The value of a JSON file; ``what`` names it in messages.

    Raises UserError for a file that cannot be read, is not JSON, or repeats a key in an object. With a list ``repeated``, it
    receives such keys instead, and the last value is used.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
            if repeated is None:
                raise UserError(f"{path}: the {what} has the key {twice[0]!r} twice; every name may occur only once")
            repeated.extend(twice)
        return members

    try:
        return json.loads(read_text(path, what), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: the {what} is not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with thousands of digits
        raise UserError(f"{path}: the {what} cannot be read as JSON ({error})") from None


def is_own_file(path: str | Path) -> bool:
    """Whether a folder that somebody else may have made holds this file. Raises UserError for a link, a device or a pipe.

    A link would show, or change, a file elsewhere; a pipe would block.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not stat.S_ISREG(mode):
        kind = "link" if stat.S_ISLNK(mode) else "device, pipe or folder"
        raise UserError(f"{path}: is a {kind}, which is not followed; remove it")
    return True


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines log, none if there is no file. Raises UserError for one that
    cannot be read, or is no file (:func:`is_own_file`).

    A line that is not a JSON object (truncated by a crash, or damaged on disk) is named on stderr and left out.
    """
    objects = []
    try:
        lines = Path(path).read_bytes().split(b"\n") if is_own_file(path) else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):  # also bytes that are not UTF-8, and numbers of thousands of digits
            value = None
        if not isinstance(value, dict):
            print(printable(f"left out: {path}, line {number}: not a JSON object"), file=sys.stderr)
        elif value:
            objects.append(value)
    return objects
