"""Images named by list files: the same run as with class folders, and one line for everything that can be wrong with a list."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_CONFIG, TINY_SPACE, Tool, assert_one_line, collect, image_settings

from paddle_pgonas.data import fingerprints
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.cache import decoded
from paddle_pgonas.data.images import open_source
from paddle_pgonas.data.sources import Split
from paddle_pgonas.errors import UserError

CLASSES = ("bright", "dark")


@pytest.fixture
def folders(image_folder: Path) -> Path:
    """Class folders; the names of the validation images are unique, as ImageNet's are."""
    for name in CLASSES:
        for path in sorted((image_folder / "val" / name).iterdir()):
            path.rename(path.with_name(f"{name}_{path.name}"))
    return image_folder


def write_list(root: Path, split: Split, *, flat: bool = False) -> Path:
    """The list of a split's class folders, in random order."""
    paths = sorted((root / split).glob("*/*"))
    lines = [f"{split}/{'' if flat else path.parent.name + '/'}{path.name} {CLASSES.index(path.parent.name)}" for path in paths]
    random.Random(0).shuffle(lines)
    written = root / f"{split}_list.txt"
    written.write_text("\n".join(lines) + "\n")
    return written


def flatten(root: Path, split: Split = "val") -> None:
    """All images of a split in one folder, with a list."""
    write_list(root, split, flat=True)
    for folder in sorted((root / split).iterdir()):
        for path in folder.iterdir():
            path.rename(root / split / path.name)
        folder.rmdir()


def into_subfolder(root: Path) -> None:
    """Everything below ILSVRC2012, with paths relative to that folder."""
    for split in ("train", "val"):
        write_list(root, split)
        for path in (root / split, root / f"{split}_list.txt"):
            (root / "ILSVRC2012").mkdir(exist_ok=True)
            path.rename(root / "ILSVRC2012" / path.name)


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "lists": lambda root: [write_list(root, split) for split in ("train", "val")],
    "a train list": lambda root: write_list(root, "train"),
    "a val list": lambda root: write_list(root, "val"),
    "flat val": flatten,
    "lists and flat val": lambda root: (write_list(root, "train"), flatten(root)),
    "below ILSVRC2012": into_subfolder,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_a_list_gives_what_class_folders_give(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[[Path], object]
) -> None:
    """Images, order and fingerprints, so that caches and results stay in use; no file is read again for its digest."""
    monkeypatch.setattr(fingerprints, "SETTLED", -60 * 10**9)
    data = image_settings(folders)
    shutil.copytree(folders, tmp_path / "before")
    before = {split: open_source(image_settings(tmp_path / "before"), split, 2) for split in ("train", "val")}
    layout(folders)
    for split, wanted in before.items():
        source = open_source(data, split, 2)
        assert source.classes == wanted.classes
        assert source.labels.tolist() == wanted.labels.tolist()
        assert source.fingerprint(tmp_path / "table") == wanted.fingerprint(tmp_path / "other table")
        assert source.subset(np.arange(3)).fingerprint(tmp_path) == wanted.subset(np.arange(3)).fingerprint(tmp_path)
        pair = (decoded(one, data, tmp_path / str(number)) for number, one in enumerate((source, wanted)))
        ours, theirs = pair
        assert np.array_equal(ours.images, theirs.images) and ours.fingerprint == theirs.fingerprint


def test_moving_images_into_one_folder_reads_none_again(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "SETTLED", -60 * 10**9)
    open_source(image_settings(folders), "train", 2).fingerprint(tmp_path)
    write_list(folders, "train")
    read, original = list[bytes](), fingerprints._content
    monkeypatch.setattr(fingerprints, "_content", lambda path: read.append(path) or original(path))
    open_source(image_settings(folders), "train", 2).fingerprint(tmp_path)
    assert not read


@pytest.mark.slow
def test_four_layouts_give_one_submission_or_one_line(tool: Tool, folders: Path, tmp_path: Path) -> None:
    """Two steps and five scores, as a user gets them; a training that began with folders goes on with lists."""
    candidates, submissions = tmp_path / "candidates.json", []
    assert tool("sample_candidates", "--space", TINY_SPACE, "--count", 5, "--output", candidates)[0] == 0
    options = ["-c", TINY_CONFIG, "-o", "device=cpu", "data.source=folder", f"data.root={folders}", "data.workers=0"]
    options += ["data.image_size=8", "data.resize=8", "data.augment=crop_flip", "data.max_unreadable=0.2", "model.num_classes=2"]
    options += ["method.label_epochs=0", "train.batch_size=4", "train.epochs=1", "train.watch_images=0", "train.watch_subnets=0"]

    def score(run: Path, output: Path) -> tuple[int, str, str]:
        files = ["--weights", run / "supernet.safetensors", "--candidates", candidates, "--output", output]
        return tool("write_submission", *options, f"output_dir={run}", *files)

    for number, layout in enumerate((lambda root: None, LAYOUTS["lists"], LAYOUTS["lists and flat val"])):
        layout(folders)
        run, output = tmp_path / f"run{number}", tmp_path / f"submission{number}.json"
        for status, _, error in (
            tool("train_supernet", *options, "train.max_steps=2", f"output_dir={run}"),
            score(run, output),
        ):
            assert status == 0, error
        submissions.append(output.read_bytes())
    assert len(submissions) == 3 and len(set(submissions)) == 1
    assert tool("train_supernet", *options, "train.max_steps=3", f"output_dir={tmp_path / 'run0'}", "--resume")[0] == 0

    (folders / "val_list.txt").unlink()
    status, _, error = score(run, tmp_path / "none.json")
    assert_one_line(status, error, "val_list.txt")
    assert not (tmp_path / "none.json").exists()


def only(root: Path, text: str | bytes, split: Split = "val") -> None:
    (root / f"{split}_list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


BAD_LISTS: dict[str, tuple[str | bytes, str]] = {
    "no label": ("val/bright/bright_1.png 0\nval/bright/bright_2.png\n", "line 2 .*label"),
    "no label, and a space": ("val/bright/my picture.png", "line 1 .*label"),
    "a name as label": ("val/bright/bright_1.png bright", "line 1 .*label"),
    "a negative label": ("val/bright/bright_1.png -1", "line 1 .*label"),
    "a fraction": ("val/bright/bright_1.png 0.5", "line 1 .*label"),
    "label beyond the network": ("\nval/bright/bright_1.png 2", r"line 2 .*model\.num_classes"),
    "a label of thousands of digits": ("val/bright/bright_1.png " + "1" * 9999, r"line 1 .*model\.num_classes"),
    "an absolute path": ("/val/bright/bright_1.png 0", r"line 1 .*absolute"),
    "a path that leads out": ("val/../../images/val/bright/bright_1.png 0", r"line 1 .*out of"),
    "a huge line": ("x" * 99999 + " 0", r"line 1 .*99,999"),
    "an image twice": ("val/bright/bright_1.png 0\nval/dark/dark_1.png 1\nval//bright/./bright_1.png 1", "line 3 .*line 1"),
    "no line": ("\r\n\n", "no images"),
    "UTF-16": ("val/bright/bright_1.png 0".encode("utf-16"), "UTF-8"),
    "random bytes": (random.Random(0).randbytes(999), "val_list"),
    "files that are elsewhere": ("valid/bright/bright_1.png 0\nvalid/dark/dark_1.png 1", r"line 1.*data\.root"),
    "another class than in train/": ("val/dark/dark_1.png 0\nval/bright/bright_1.png 1", "label 0 .*'dark'.* 'bright'"),
}


@pytest.mark.parametrize(("text", "message"), BAD_LISTS.values(), ids=list(BAD_LISTS))
def test_a_bad_list_is_one_line(folders: Path, text: str | bytes, message: str) -> None:
    only(folders, text)
    with pytest.raises(UserError, match=message) as caught:
        open_source(image_settings(folders), "val", 2)
    assert "val_list.txt" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_windows_lines_a_byte_order_mark_and_spaces_are_read(folders: Path) -> None:
    (folders / "val" / "dark" / "dark_1.png").rename(folders / "val" / "dark" / "a  b 7.png")
    only(folders, b"\xef\xbb\xbfval/bright/bright_1.png\t0 \r\n\r\n  ./val/dark/a  b 7.png   1\r\n")
    source = open_source(image_settings(folders), "val", 2)
    assert source.labels.tolist() == [0, 1]
    assert [source.read(index).mode for index in range(2)] == ["RGB", "RGB"]


def test_a_missing_file_is_left_out_and_named_with_its_line(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = write_list(folders, "train")
    (folders / "train" / "dark" / "2.png").unlink()
    line = 1 + [line.startswith("train/dark/2.png") for line in listed.read_text().splitlines()].index(True)
    data = image_settings(folders, max_unreadable=0.1, augment="crop_flip")
    source = open_source(data, "train", 2)
    batches = EpochBatches(source, data, tmp_path, 2, 0)
    collect(batches, 0, 0)
    assert f"2.png (line {line} of {listed})" in capsys.readouterr().err
    (folders / "train" / "dark" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3 of 12 images cannot be read .*data\.max_unreadable"):
        decoded(source, data, tmp_path)


def test_a_list_of_another_name_is_named_by_its_key(folders: Path, tmp_path: Path) -> None:
    write_list(folders, "val").rename(tmp_path / "few.txt")
    few = (tmp_path / "few.txt").read_text().splitlines()[:3]
    (tmp_path / "few.txt").write_text("\n".join(few))
    assert len(open_source(image_settings(folders, val_list=str(tmp_path / "few.txt")), "val", 2).labels) == 3
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        open_source(image_settings(folders, val_list="nowhere.txt"), "val", 2)


@pytest.mark.parametrize(("place", "start"), [("", "val/"), ("", ""), ("val", "")], ids=["root", "split", "list"])
def test_paths_start_at_the_root_in_the_split_or_at_the_list(folders: Path, tmp_path: Path, place: str, start: str) -> None:
    listed = folders / place / "mine.txt"
    listed.write_text(f"{start}dark/dark_1.png 1\n{start}bright/bright_1.png 0\n")
    root = tmp_path if place else folders
    assert open_source(image_settings(root, val_list=str(listed)), "val", 2).read(0).mode == "RGB"


def swapped(root: Path, split: Split) -> None:
    """A list with the labels of the two classes exchanged."""
    path = write_list(root, split)
    path.write_text("".join(f"{line[:-1]}{1 - int(line[-1])}\n" for line in path.read_text().splitlines()))


def test_labels_out_of_sorted_order_are_said_once(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped(folders, "train")
    swapped(folders, "val")
    sources = [open_source(image_settings(folders), split, 2) for split in ("train", "val", "train")]
    assert all(source.classes == ["dark", "bright"] for source in sources)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "train_list.txt" in lines[0] and "val_list.txt" in lines[1]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda root: swapped(root, "train"),
        lambda root: (write_list(root, "train"), swapped(root, "val")),
        lambda root: swapped(root, "val"),
        lambda root: only(root, "train/dark/1.png 0\ntrain/dark/2.png 1\ntrain/bright/1.png 0", "train"),
        lambda root: (only(root, "train/bright/1.png 0", "train"), write_list(root, "val")),
    ],
    ids=["list against folders", "list against list", "folders against list", "mixed folders", "fewer classes"],
)
def test_labels_that_mean_two_things_are_refused(folders: Path, prepare: Callable[[Path], object]) -> None:
    prepare(folders)
    with pytest.raises(UserError, match=r"_list\.txt: .*label") as caught:
        open_source(image_settings(folders), "val", 2)
    assert "\n" not in str(caught.value)


def test_images_without_class_folders_are_numbered(folders: Path) -> None:
    """Where neither split has class folders, and where labels are missing."""
    flatten(folders)
    shutil.rmtree(folders / "train")
    assert open_source(image_settings(folders), "val", 2).classes == ["0", "1"]
    only(folders, "val/dark_1.png 3")
    assert open_source(image_settings(folders), "val", 5).classes == ["0", "1", "2", "3"]


def test_a_label_keeps_its_meaning_when_classes_are_missing(folders: Path) -> None:
    """Some of ImageNet's classes with ImageNet's labels, for a network pretrained on all."""
    only(folders, "train/dark/1.png 7\ntrain/bright/1.png 3", "train")
    source = open_source(image_settings(folders), "train", 10)
    assert source.labels.tolist() == [3, 7]
    assert [source.classes[label] for label in (3, 7)] == ["bright", "dark"]


def test_files_of_one_name_in_two_folders_of_a_class_are_two_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if their sizes and times are the same, as of small files that are unpacked together."""

    def fingerprint(colours: str) -> str:
        for folder, colour in zip("ab", colours, strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "1.bmp").write_text(colour)
        only(tmp_path, "a/1.bmp 0\nb/1.bmp 0", "train")
        source, stat = open_source(image_settings(tmp_path), "train", 2), os.stat
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "stat", lambda path, **how: os.stat_result(stat(path, **how)[:10], {"st_mtime_ns": 0, "st_ctime_ns": 0})
            )
            return source.fingerprint(tmp_path / colours)

    assert len({fingerprint(colours) for colours in ("xx", "xy", "yx")}) == 3
