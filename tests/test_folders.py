"""Class folders as users have them: what is no class or image is left out and counted, and labels mean what the user thinks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import TINY_CONFIG, Tool, assert_one_line, image_settings
from PIL import Image

from paddle_pgonas.data.images import open_source
from paddle_pgonas.data.sources import Folder
from paddle_pgonas.errors import UserError
from paddle_pgonas.progress import say_once


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    say_once.cache_clear()


def copies(folder: Path, name: str) -> None:
    shutil.copytree(folder / "bright", folder / name)


@pytest.mark.parametrize("split", ["train", "val"])
def test_hidden_and_system_entries_are_left_out_and_counted(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    folder = image_folder / split
    clean = Folder(image_folder, split)
    wanted = clean.classes, clean.items.tolist(), clean.fingerprint(tmp_path)
    capsys.readouterr()
    for name in (".ipynb_checkpoints", "__MACOSX", "lost+found", "@eaDir"):
        copies(folder, name)
    for name in ("._1.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / "dark" / name).write_bytes(b"x")
    for name in ("bright/boxes.txt", "bright/1.xml", "dark/1.xml", "notes\x1b.md"):
        (folder / name).write_bytes(b"x")
    source = Folder(image_folder, split)
    assert (source.classes, source.items.tolist(), source.fingerprint(tmp_path)) == wanted
    Folder(image_folder, split)
    [line] = capsys.readouterr().err.splitlines()
    assert str(folder) in line and line.isprintable()
    assert "8 hidden" in line and "4 neither" in line and "bright/1.xml" in line


def test_a_clean_folder_says_nothing(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        open_source(image_settings(image_folder), split, 2)
    assert capsys.readouterr() == ("", "")


def test_classes_that_are_numbers_sorted_as_text_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for name in ("1", "2", "9", "10"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    for split in ("train", "val"):
        assert open_source(image_settings(tmp_path), split, 4).classes == ["1", "10", "2", "9"]
    [line] = capsys.readouterr().err.splitlines()
    assert "label 1 is class '10', not '2'" in line
    say_once.cache_clear()
    for split in ("train", "val"):
        (tmp_path / split / "10").rename(tmp_path / split / "3")
        open_source(image_settings(tmp_path), split, 4)
    assert not capsys.readouterr().err


def one_level_deeper(folder: Path) -> None:
    for name in ("bright", "dark"):
        (folder / name).rename(folder / "moved")
        (folder / name).mkdir()
        (folder / "moved").rename(folder / name / "images")
        (folder / name / "boxes.txt").write_text("x")


def all_in_one(folder: Path) -> None:
    """As Tiny-ImageNet's validation images."""
    (folder / "bright").rename(folder / "images")
    shutil.rmtree(folder / "dark")
    (folder / "val_annotations.txt").write_text("0.png\tbright\t0\t0\t1\t1\n")


@pytest.mark.parametrize(
    ("change", "split", "names"),
    [
        (one_level_deeper, "train", ["one level deeper", "train/bright/images", "train_list.txt"]),
        (all_in_one, "val", ["val/images", "val_annotations.txt", "val_list.txt", "val/images/<image> <label>"]),
    ],
)
def test_layouts_of_tiny_imagenet_are_named(image_folder: Path, change, split: str, names: list[str]) -> None:
    change(image_folder / split)
    with pytest.raises(UserError) as caught:
        open_source(image_settings(image_folder), split, 2)
    assert all(name in str(caught.value) for name in names), caught.value
    assert "\n" not in str(caught.value)


def train(tool: Tool, root: Path, run: Path, *more: str) -> tuple[int, str, str]:
    options = ["device=cpu", "data.source=folder", f"data.root={root}", "data.workers=0", "data.image_size=8", "data.resize=8"]
    options += ["data.augment=crop_flip", "data.max_unreadable=0.2", "model.num_classes=3", "method.label_epochs=0"]
    options += ["train.batch_size=4", "train.epochs=1", "train.watch_images=0", "train.watch_subnets=0", "train.max_steps=1"]
    return tool("train_supernet", "-c", TINY_CONFIG, "-o", *options, f"output_dir={run}", *more)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_training_whose_classes_are_not_those_of_val_is_refused(
    tool: Tool, image_folder: Path, tmp_path: Path, split: str
) -> None:
    """As after an interrupted unpacking."""
    copies(image_folder / ({"train", "val"} - {split}).pop(), "a_class")
    status, _, error = train(tool, image_folder, tmp_path / "run")
    assert_one_line(status, error, "class a_class is in only one of")
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_training_says_what_it_trains_on_and_what_it_cannot_compare(tool: Tool, image_folder: Path, tmp_path: Path) -> None:
    status, out, error = train(tool, image_folder, tmp_path / "run", "data.train_limit=10")
    assert status == 0, error
    assert out.splitlines()[0] == f"training on 10 images of 2 classes from {image_folder / 'train'}"
    assert str(image_folder) not in "".join(line for line in error.splitlines() if not line.startswith("left out: "))
    shutil.rmtree(image_folder / "val")
    status, _, error = train(tool, image_folder, tmp_path / "other")
    assert status == 0, error
    assert f"{image_folder}: there are no validation images" in error
