"""Atomic file I/O: a file is complete or missing, and errors of reading and writing are one line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REPOSITORY

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import (
    atomic_path,
    check_readable,
    read_json,
    read_json_lines,
    remove_left_parts,
    write_json,
    write_text,
    writing,
)
from paddle_pgonas.io.outputs import refuse_overwriting
from paddle_pgonas.io.records import Store
from paddle_pgonas.training.checkpoints import load_latest


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_ends_well_puts_the_new_file_in_place(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(target) as part:
        part.write_text("new")
        assert part.parent == target.parent  # so that the move stays within one file system
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=["error", "interrupt"])
@pytest.mark.parametrize("old", ["old", None], ids=["over an old file", "no old file"])
def test_a_block_that_raises_leaves_things_as_they_were(tmp_path: Path, old: str | None, error: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    if old is not None:
        target.write_text(old)
    with pytest.raises(error), atomic_path(target) as part:
        part.write_text("half")
        raise error
    assert names(tmp_path) == ([] if old is None else ["file.txt"])
    assert old is None or target.read_text() == old


def test_a_full_disk_is_a_one_line_error_that_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(UserError, match=r"file\.txt: cannot be written \(No space left"), atomic_path(target):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["file.txt"]
    assert target.read_text() == "old"


def nfs_flock(descriptor: object, operation: int) -> None:
    """As NFS has it: an exclusive lock needs a file that is open for writing."""
    if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # type: ignore[call-overload]
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    FLOCK(descriptor, operation)  # type: ignore[arg-type]


FLOCK = fcntl.flock


def test_left_overs_are_removed_on_nfs_too_but_not_a_file_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs_flock)
    with atomic_path(tmp_path / "a.txt") as part:
        part.write_text("half")
        left = tmp_path / ".b.txt.12345678.part"
        left.touch()
        remove_left_parts(tmp_path)
        assert names(tmp_path) == [part.name]
    assert names(tmp_path) == ["a.txt"]


WRITE = """
import sys, time
from paddle_pgonas.io.files import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_only_that(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    command = [sys.executable, "-c", WRITE, str(target)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        write_text(target, "meanwhile")
        assert len(names(tmp_path)) == 2  # the other process is alive
        writer.kill()
    write_text(tmp_path / "other.txt", "others' files are left alone")
    assert len(names(tmp_path)) == 3
    write_text(target, "after")
    assert names(tmp_path) == ["file.txt", "other.txt"]


def test_a_store_and_a_folder_of_checkpoints_are_cleared_of_what_killed_runs_left(tmp_path: Path) -> None:
    def resume(folder: Path) -> None:
        assert load_latest(folder, None, None, lambda record: None) is None  # type: ignore[arg-type]

    for folder, again in (
        (Store(tmp_path, {}).folder, lambda: Store(tmp_path, {})),
        (tmp_path / "checkpoints", lambda: resume(tmp_path / "checkpoints")),
    ):
        folder.mkdir()
        for name in (".chunk-00003.safetensors.ab_de0gh.part", ".step-00000041.safetensors.ab_de0gh.part", ".notes.part"):
            (folder / name).write_text("half")
        again()
        assert names(folder) == [".notes.part"]


def test_many_writers_of_one_file_do_not_take_each_others_parts(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda number: write_text(tmp_path / "file.txt", f"{number}" * 9), range(400)):
            pass
    assert names(tmp_path) == ["file.txt"]
    assert len((tmp_path / "file.txt").read_text()) in (9, 18, 27)


@pytest.mark.parametrize("name", ["a_folder", "a_file/file.txt"])
def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / name, "text")
    assert names(tmp_path) == ["a_file", "a_folder"]


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "text")
    finally:
        os.umask(mask)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


def test_json_reads_back_as_written_in_the_same_order(tmp_path: Path) -> None:
    value = {"z": [1, 2.5, None, True], "a": {"é": "text"}}
    write_json(tmp_path / "file.json", value)
    found = read_json(tmp_path / "file.json", "test file")
    assert found == value
    assert list(found) == ["z", "a"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read the test file"),
        (b"\xff\xfe", "not a UTF-8 text file"),
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON .line 1"),
        (b'{\n"a": 1,\n}', "is not JSON .line"),
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "key 'c' twice"),
        (b"[" * 100_000, "test file"),
    ],
    ids=["absent", "binary", "empty", "cut short", "bad comma", "repeated key", "bottomless nesting"],
)
def test_json_that_cannot_be_read_is_a_one_line_user_error(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        read_json(path, "test file")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_log_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(3)) + '{"step": 3, "lo')
    assert read_json_lines(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_a_damaged_log_line_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 0}\n\xff\xfe\x00\n[1, 2]\nnull\n{"step": 1}\n' + b"[" * 100_000 + b'\n{"a": ' + b"9" * 5000 + b"}\n"
    )
    assert read_json_lines(path) == [{"step": 0}, {"step": 1}]
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{path}, line {n}" for n in (2, 3, 4, 6, 7)
    ]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, target = tmp_path / "link.txt", tmp_path / "kept" / "file.txt"
    link.symlink_to("kept/file.txt")
    for text in ("made", "replaced"):  # the target is not there at first
        write_text(link, text)
        assert link.is_symlink() and target.read_text() == text and not target.is_symlink()
    assert names(tmp_path / "kept") == ["file.txt"]


def special(folder: Path, kind: str) -> Path:
    path = folder / "special"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to(os.devnull)
    elif kind == "link to itself":
        path.symlink_to(path)
    return Path(os.devnull) if kind == "device" else path if kind != "zero byte" else folder / "a\0b"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a device", "link to itself", "zero byte"])
def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = special(tmp_path, kind)
    before = None if kind == "zero byte" else path.lstat()
    with pytest.raises(UserError, match="cannot be written"):
        write_text(path, "text")
    if before is not None:
        assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert len(names(tmp_path)) == (kind not in ("device", "zero byte"))


@pytest.mark.parametrize("kind", ["folder", "link to itself", "zero byte", "below a file", "absent"])
def test_what_cannot_be_read_is_a_mistake_of_the_user(tmp_path: Path, kind: str) -> None:
    path = (
        tmp_path / "absent" if kind == "absent" else Path(__file__) / "x" if kind == "below a file" else special(tmp_path, kind)
    )
    with pytest.raises(UserError, match=r"no such file|cannot be read \("):
        check_readable(path)


@pytest.mark.parametrize("name", ["in.json", "./sub/../in.json", "link.json", "hard.json"])
def test_an_output_that_is_an_input_is_refused_under_any_name(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.json"
    source.write_text("kept")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.json").symlink_to(source)
    os.link(source, tmp_path / "hard.json")
    with pytest.raises(UserError, match="would be overwritten"):
        refuse_overwriting([tmp_path / "out.json", tmp_path / name], [source])
    refuse_overwriting([tmp_path / "out.json", tmp_path / "other.json"], [source, tmp_path / "absent.json"])
    with pytest.raises(UserError, match="twice"):
        refuse_overwriting([tmp_path / "out.json", tmp_path / "sub" / ".." / "out.json"], [])


def test_text_that_is_no_utf_8_is_written_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "name \udcff")
    assert (tmp_path / "file.txt").read_text() == r"name \udcff"


def test_a_file_elsewhere_is_named_as_the_cause(tmp_path: Path) -> None:
    """As Paddle's in the home folder, while a model is exported."""
    for name, cause in ((str(tmp_path / "out" / ".new.part"), ""), ("/home/.cache", "/home/.cache: "), (3, ""), (None, "")):
        with pytest.raises(UserError) as refused, writing(tmp_path / "out" / "model"):
            raise OSError(errno.EACCES, "Permission denied", name)
        assert f"/out/model: cannot be written ({cause}Permission denied); mend that" in str(refused.value)
