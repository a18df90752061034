"""Outputs of commands: only what an earlier run of the same command wrote is replaced; any other file is the user's.

A command knows its own files by their content. For each output it leaves a note in the folder ``.paddle_pgonas`` beside it: its
name, and the SHA-256 of what it wrote. A file without a note, or with another content, was made or changed by somebody else.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError

NOTES = ".paddle_pgonas"
"""The folder of the notes, in the folder of the outputs."""

_claimed: dict[str, str] = {}  # the command by the real path of each output


def claim(command: str, path: str | Path, *, beside: Iterable[str | Path] = (), inputs: Iterable[str | Path] = ()) -> None:
    """Check the output ``path`` of a command, and those ``beside`` it, before the work; then :func:`put_in_place` notes them.

    A file beside an output belongs to that one: the same command with another output does not replace it. Creates nothing.
    Raises UserError for an output that is an input, is named twice, cannot be written, or is a file of another origin.
    """
    owners = {path: command, **dict.fromkeys(beside, f"{command} {Path(path).name}")}
    refuse_overwriting([path, *beside], inputs)
    for output, owner in owners.items():
        target = regular_target(output)
        check_writable(output, target.absolute().parent)
        _own_digest(target, owner)
    _claimed.update({os.path.realpath(output): owner for output, owner in owners.items()})


def put_in_place(part: Path, target: Path) -> None:
    """Rename a complete temporary file to ``target``; an output that was claimed is checked again, and noted."""
    owner = _claimed.get(os.path.realpath(target))
    if owner is None:
        part.replace(target)
        return
    with _locked_notes(target.parent) as notes:
        # The note holds the old and the new content, so it is right whether a crash comes before or after the renaming.
        digests = [content_digest(part), *filter(None, [_own_digest(target, owner)])]
        new = notes / ".new"
        with new.open("w", encoding="utf-8") as file:
            json.dump({"command": owner, "sha256": digests}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(notes / target.name)
        part.replace(target)


def wrote(command: str, path: str | Path) -> bool:
    """Whether a run of this command has written a file of this name, whatever it holds now."""
    return _note(Path(path)).get("command") == command


def content_digest(path: str | Path) -> str | None:
    """SHA-256 of a file's content; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def refuse_overwriting(outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Raises UserError for an output that is the same file as an input of the job or as another output."""
    taken = dict.fromkeys(map(_identity, inputs), "is read and would be overwritten; give the output another name")
    for path in outputs:
        identity = _identity(path)
        if identity in taken:
            raise UserError(f"{path}: {taken[identity]}")
        taken[identity] = "is named twice to be written; give each output its own name"


def regular_target(path: str | Path) -> Path:
    """The target of ``path``, through links: a regular file, or none yet. Raises UserError for a device, a pipe or a folder."""
    try:
        with suppress(FileNotFoundError):  # also for a link to a missing file: its target will be created
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise UserError(f"{path}: cannot be written (it is not a regular file); give the name of a file")
    except (OSError, ValueError) as error:  # a link to itself, a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be written ({reason}); choose another place") from None
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def _identity(path: str | Path) -> object:
    """A value that is equal for two names of one file, whether it exists or not."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def check_writable(path: str | Path, folder: Path) -> None:
    """Raise UserError, which names ``path``, if the absolute ``folder`` cannot be made or written."""
    folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not folder.is_dir():
        reason = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    else:
        return
    raise UserError(f"{path}: cannot be written ({folder}: {os.strerror(reason)}); choose another place")


def _own_digest(target: Path, owner: str) -> str | None:
    """SHA-256 of a file that ``owner`` wrote; None if there is none, or an empty one. Raises UserError for any other file."""
    try:
        if target.stat().st_size == 0:
            return None
    except FileNotFoundError:
        return None
    digest, note = content_digest(target), _note(target)  # in this order: a writer notes the new content before it is there
    if digest not in note.get("sha256", ()):
        raise UserError(f"{target}: exists, and is not what this command wrote; move it away, or give the output another name")
    if note["command"] != owner:
        raise UserError(f"{target}: belongs to {note['command']}; move it away, or give the output another name")
    return digest


def _note(target: Path) -> dict[str, Any]:
    """The note of a file, empty if there is none or it is damaged."""
    try:
        note = json.loads((target.parent / NOTES / target.name).read_bytes())
        return note if isinstance(note["command"], str) and isinstance(note["sha256"], list) else {}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}


@contextmanager
def _locked_notes(folder: Path) -> Iterator[Path]:
    """The folder of notes, which is made, while no other process writes outputs beside it."""
    notes = folder / NOTES
    notes.mkdir(exist_ok=True)
    lock = os.open(notes, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield notes
    finally:
        os.close(lock)
