"""Data fingerprints depend on the contents of the images: moving a folder keeps them, changing an image changes them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from paddle_pgonas.config.loading import Config, Data, load_config
from paddle_pgonas.data import fingerprints
from paddle_pgonas.data.images import open_images, open_source
from paddle_pgonas.data.sources import Folder
from paddle_pgonas.training import standalone


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once, as if they were older than the test."""
    monkeypatch.setattr(fingerprints, "SETTLED", -60 * 10**9)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    read, original = list[Path](), fingerprints._content
    monkeypatch.setattr(fingerprints, "_content", lambda path: read.append(Path(os.fsdecode(path))) or original(path))
    return read


def config(root: Path, folder: Path, **changes: object) -> Config:
    base = load_config(REPOSITORY / "configs" / "mini" / "standalone_digits.yaml")
    data = Data(root=str(root), image_size=16, resize=18, workers=0, augment="shift")
    return base.changed(output_dir=str(folder), data=data, **changes)


def test_a_moved_or_copied_folder_is_the_same_and_is_not_read_again(
    image_folder: Path, tmp_path: Path, settled: None, reads: list[Path]
) -> None:
    first = Folder(image_folder, "train").fingerprint(tmp_path)
    assert len(reads) == 12
    image_folder.rename(tmp_path / "moved")
    assert Folder(tmp_path / "moved", "train").fingerprint(tmp_path) == first
    assert len(reads) == 12
    shutil.copytree(tmp_path / "moved", tmp_path / "copied", copy_function=shutil.copyfile)
    assert Folder(tmp_path / "copied", "train").fingerprint(tmp_path) == first
    assert len(reads) == 24  # other times: they had to be looked at
    assert Folder(tmp_path / "copied", "train").fingerprint(tmp_path / "elsewhere") == first


def test_an_image_changed_in_place_is_noticed_though_size_and_time_stay(image_folder: Path, tmp_path: Path) -> None:
    path = image_folder / "train" / "dark" / "3.png"
    before, times = Folder(image_folder, "train").fingerprint(tmp_path), path.stat()
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Folder(image_folder, "train").fingerprint(tmp_path) != before


def test_a_remembered_file_is_read_again_once_its_times_differ(
    image_folder: Path, tmp_path: Path, settled: None, reads: list[Path]
) -> None:
    before = Folder(image_folder, "train").fingerprint(tmp_path)
    path = image_folder / "train" / "dark" / "3.png"
    time.sleep(0.02)  # the clock of file times ticks every few milliseconds
    path.write_bytes(path.read_bytes())
    reads.clear()
    assert Folder(image_folder, "train").fingerprint(tmp_path) == before
    assert reads == [path]


def test_names_labels_and_the_choice_count(image_folder: Path, tmp_path: Path) -> None:
    def now(limit: int | None = None) -> str:
        return open_source(Data(root=str(image_folder), train_limit=limit), "train", 3).fingerprint(tmp_path)

    found = [now(), now(6), now(5)]
    path = image_folder / "train" / "dark" / "5.png"
    path.rename(path.with_name("6.png"))
    found.append(now())
    (image_folder / "train" / "a_class_in_front").mkdir()
    path.with_name("6.png").rename(image_folder / "train" / "a_class_in_front" / "5.png")
    found.append(now())
    assert len(set(found)) == 5


def test_only_the_chosen_images_are_read(image_folder: Path, tmp_path: Path, reads: list[Path]) -> None:
    open_source(Data(root=str(image_folder), train_limit=3), "train", 2).fingerprint(tmp_path)
    assert len(reads) == 3


def test_files_that_cannot_be_read_count_without_contents_and_are_tried_again(
    image_folder: Path, tmp_path: Path, settled: None, reads: list[Path]
) -> None:
    folder = image_folder / "train" / "dark"
    os.mkfifo(folder / "7.png")
    (folder / "8.png").symlink_to("8.png")
    (folder / "9.png").symlink_to("nowhere")
    first = Folder(image_folder, "train").fingerprint(tmp_path)
    reads.clear()
    assert Folder(image_folder, "train").fingerprint(tmp_path) == first
    assert {path.name for path in reads} == {"7.png", "8.png", "9.png"}


def test_a_damaged_table_is_made_again(image_folder: Path, tmp_path: Path, settled: None, reads: list[Path]) -> None:
    first = Folder(image_folder, "train").fingerprint(tmp_path)
    table = tmp_path / fingerprints.TABLE
    for damage in (b"", table.read_bytes()[:-1]):
        table.write_bytes(damage)
        reads.clear()
        assert Folder(image_folder, "train").fingerprint(tmp_path) == first
        assert len(reads) == 12


def test_a_moved_data_set_is_decoded_scored_and_trained_no_second_time(image_folder: Path, tmp_path: Path) -> None:
    here = config(image_folder, tmp_path / "run")
    before = open_images(here).validation.fingerprint, standalone.identity(here)
    image_folder.rename(tmp_path / "moved")
    there = config(tmp_path / "moved", tmp_path / "run")
    assert before == (open_images(there).validation.fingerprint, standalone.identity(there))
    assert len(list((tmp_path / "run" / "cache").glob("*/pixels.npy"))) == 1


@pytest.mark.parametrize(
    ("section", "name", "value", "same"),
    [
        ("train", "log_every", 3, True),
        ("train", "keep_checkpoints", 3, True),
        ("train", "watch_images", 50, True),
        ("score", "batch_size", 3, True),
        ("data", "workers", 2, True),
        ("train", "epochs", 3, False),
        ("data", "augment", "none", False),
        ("data", "val_limit", 3, False),
        ("model", "activation", "mish", False),
    ],
)
def test_a_stand_alone_result_is_kept_by_what_can_change_it(
    image_folder: Path, tmp_path: Path, section: str, name: str, value: object, same: bool
) -> None:
    base = config(image_folder, tmp_path)
    changed = base.changed(**{section: {name: value}})
    assert (standalone.identity(base) == standalone.identity(changed)) == same


def test_a_table_that_a_killed_process_left_half_written_is_removed(image_folder: Path, tmp_path: Path, settled: None) -> None:
    source = Folder(image_folder, "train")
    source.fingerprint(tmp_path)
    left = tmp_path / f".{fingerprints.TABLE}.a1b2c3d4.part"
    left.write_bytes(b"half")
    source.fingerprint(tmp_path)  # nothing new is read, so no table is written
    assert not left.exists()
