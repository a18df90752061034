"""A stored file is read as it was written or reported as damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from paddle_pgonas.errors import UserError, brief
from paddle_pgonas.io import records
from paddle_pgonas.io.records import DamagedFile, Store, digest

RECORD = {"acc": 0.25, "config": {"name": "é", "list": [1, None, True]}}
ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "kept": np.array([3, 5]), "none": np.zeros((0, 4), np.uint8)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "file.safetensors"
    records.write(path, RECORD, ARRAYS)
    return path.read_bytes()


def comes_back(path: Path, checked: bool = True) -> bool:
    """Whether the file reads as it was written; False if it is refused as damaged; anything else fails the test."""
    try:
        arrays, record = records.read(path, checked=checked)
    except DamagedFile as error:
        assert str(error).startswith(str(path))
        return False
    assert record == RECORD
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape and (arrays[name] == array).all()
    return True


def test_it_comes_back_and_equal_contents_are_equal_bytes(whole: bytes, tmp_path: Path) -> None:
    for number in range(5):
        records.write(tmp_path / f"{number}", RECORD, dict(reversed(ARRAYS.items())))
        assert comes_back(tmp_path / f"{number}")
        assert (tmp_path / f"{number}").read_bytes() == whole


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_no_single_flipped_bit_changes_a_value(whole: bytes, tmp_path: Path, checked: bool, every: int) -> None:
    path, seen, bits = tmp_path / "file", 0, range(0, 8 * len(whole), every)  # of each byte another one
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        seen += not comes_back(path, checked)
    assert seen >= len(bits) - 1  # \u00e9 and \u00E9 are one letter


@pytest.mark.parametrize("length", [0, 7, 8, 50, -1])
def test_a_file_that_was_cut_short_is_damaged(whole: bytes, tmp_path: Path, length: int) -> None:
    (tmp_path / "file").write_bytes(whole[:length])
    assert not comes_back(tmp_path / "file")


def test_what_is_no_file_is_damaged(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "absent", "pipe"):
        assert not comes_back(tmp_path / name)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"record": json.dumps({"step": 1})}])
def test_a_foreign_file_is_read_only_where_no_checksum_is_asked_for(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(ARRAYS, tmp_path / "file", metadata=metadata)
    arrays, record = records.read(tmp_path / "file", checked=False)
    assert (arrays["w"] == ARRAYS["w"]).all()
    assert record == ({"step": 1} if metadata and "record" in metadata else {})
    with pytest.raises(DamagedFile, match="checksum is missing"):
        records.read(tmp_path / "file")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_store_gives_what_was_put_or_names_the_file(
    data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path, {"weights": "abc"})
    store.put("chunk", RECORD, ARRAYS)
    path = store.path("chunk")
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4), "changes")):
        damaged[data.draw(st.integers(0, len(damaged) - 1), "place")] = data.draw(st.integers(0, 255), "byte")
    del damaged[data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))), "length") :]
    path.write_bytes(damaged)
    entry, message = store.get("chunk"), capsys.readouterr().err
    if entry is None:
        assert message.startswith(f"not used: {brief(str(path))}") and message.count("\n") == 1
    else:
        assert unchanged(entry.record, entry.arrays) and not message


def unchanged(record: records.Record, arrays: records.Arrays) -> bool:
    return record == RECORD and all((arrays[name] == array).all() for name, array in ARRAYS.items())


def test_a_store_is_named_after_its_identity_in_full(tmp_path: Path) -> None:
    store = Store(tmp_path, {"a": 1, "b": [2]})
    assert store.folder == tmp_path / digest({"b": [2], "a": 1})
    assert len(store.folder.name) == 64
    assert store.get("x") is None and store.names() == []
    store.put("x", {"acc": 1.0})
    store.put("x", {"acc": 2.0})
    assert [entry.record["acc"] for entry in store.entries()] == [2.0]
    assert Store(tmp_path, {"a": 1, "b": [3]}).get("x") is None


def test_an_entry_under_another_name_or_of_another_store_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = Store(tmp_path, {"a": 1}), Store(tmp_path, {"a": 2})
    ours.put("x", {})
    theirs.put("x", {})
    ours.path("x").rename(ours.path("y"))
    assert ours.get("y") is None
    theirs.path("x").rename(ours.path("x"))
    assert ours.get("x") is None
    assert capsys.readouterr().err.count("another entry's result") == 2


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "file", {}).put("x", {})
