"""Unreadable images of every kind are named, left out and counted, without waiting or running code."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import collect, image_settings
from PIL import Image

from paddle_pgonas.data.batches import EpochBatches, calibration_images
from paddle_pgonas.data.cache import decoded
from paddle_pgonas.data.images import open_source
from paddle_pgonas.data.sources import Folder, UnreadableImage
from paddle_pgonas.errors import UserError


class Stubborn(Folder):
    """A source in which image 3 makes the decoder raise an error."""

    def __init__(self, root: Path, error: BaseException) -> None:
        super().__init__(root, "train")
        self.error = error

    def read(self, index: int) -> Image.Image:
        with pytest.MonkeyPatch.context() as patch:
            if index == 3:
                patch.setattr(Image.Image, "convert", self.fail)
            return super().read(index)

    def fail(self, *arguments: object) -> Image.Image:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a"),
        NotImplementedError(),
        subprocess.CalledProcessError(1, ["gs"]),
        struct.error("b"),
        KeyError(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_the_image_is_named_and_left_out(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    source, data = Stubborn(image_folder, error), image_settings(image_folder, max_unreadable=0.2, augment="crop_flip")
    assert len(decoded(source, data, tmp_path).labels) == 10
    assert len(calibration_images(source, data, 12)) == 10
    for _ in collect(EpochBatches(source, data, tmp_path, 4, 0), 0, 0):
        pass
    lines = [line for line in capsys.readouterr().err.splitlines() if source.name(3) in line]
    assert len(lines) == 3 and type(error).__name__ in lines[0]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.ENOMEM, "no memory"), OSError("out of memory error when reading image file")], ids=repr
)
def test_a_lack_of_memory_is_one_line_and_no_property_of_an_image(
    image_folder: Path, tmp_path: Path, error: Exception, workers: int
) -> None:
    data = image_settings(image_folder, max_unreadable=0.2, augment="crop_flip", workers=workers)
    source = Stubborn(image_folder, error)
    for job in (
        lambda: decoded(source, data, tmp_path),
        lambda: calibration_images(source, data, 12),
        lambda: collect(EpochBatches(source, data, tmp_path, 4, 0), 0, 0),
    ):
        with pytest.raises(UserError, match="memory ran out") as caught:
            job()
        assert str(caught.value).startswith(source.name(3)) and len(str(caught.value)) < 400
    assert len(decoded(Folder(image_folder, "train"), data, tmp_path).labels) == 11  # 3 among them


def test_an_image_that_fails_once_is_not_left_out_for_ever(image_folder: Path, tmp_path: Path) -> None:
    class Once(Folder):
        failed = False

        def read(self, index: int) -> Image.Image:
            if index == 3 and not self.failed:
                self.failed = True
                raise UnreadableImage("a disk that fails for a moment")
            return super().read(index)

    data = image_settings(image_folder, max_unreadable=0.2)
    with pytest.raises(UserError, match=r"3\.png: could not be read at first"):
        decoded(Once(image_folder, "train"), data, tmp_path)
    assert len(decoded(Folder(image_folder, "train"), data, tmp_path).labels) == 11


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "broken link", "link to itself", "postscript", "no pixels", "name"])
def test_what_is_no_image_file_is_left_out_without_waiting(image_folder: Path, tmp_path: Path, kind: str) -> None:
    path = image_folder / "train" / "dark" / "0.png"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "postscript":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n")
    elif kind == "no pixels":
        path.write_bytes(b"P6\n0 0\n255\n")
    else:
        Path(os.fsdecode(os.fsencode(path.with_name("0")) + b"\xff.png")).write_bytes(b"not an image")
    data = image_settings(image_folder, max_unreadable=0.2)
    found = decoded(open_source(data, "train", 2), data, tmp_path / "cache")
    assert len(found.labels) == 10


def test_a_name_that_is_not_utf_8_is_an_image_like_others(image_folder: Path, tmp_path: Path) -> None:
    folder = image_folder / "train" / "dark"
    (folder / "1.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))
    data = image_settings(image_folder)
    assert len(decoded(open_source(data, "train", 2), data, tmp_path / "cache").labels) == 11


def test_ghostscript_is_never_started(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = image_folder / "train" / "dark" / "0.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    source = Folder(image_folder, "train")
    with pytest.raises(UnreadableImage, match=r"0\.png"):
        source.read(int(np.flatnonzero(source.labels == 1)[0]))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_stop_with_their_names(
    image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    broken = [image_folder / "train" / "dark" / f"{number}.png" for number in range(4)]
    for path in broken:
        path.write_bytes(b"not an image")
    data = image_settings(image_folder, augment="crop_flip", workers=workers)
    source = open_source(data, "train", 2)
    with pytest.raises(UserError, match=r"data\.max_unreadable") as caught:
        for _ in EpochBatches(source, data, tmp_path, 2, 0).epoch_from(0, 0):
            pass
    assert str(broken[0].parent) in str(caught.value) and "\n" not in str(caught.value)
    for job in (lambda: decoded(source, data, tmp_path), lambda: calibration_images(source, data, 12)):
        with pytest.raises(UserError, match=r"2 of 12 images cannot be read .*data\.max_unreadable"):
            job()
    relaxed = image_settings(image_folder, max_unreadable=0.5)
    assert len(decoded(source, relaxed, tmp_path).labels) == 7
    with pytest.raises(UserError, match="5 of 12"):  # also where the cache is there already
        decoded(source, data, tmp_path)
    assert str(broken[3]) in capfd.readouterr().err


class Deadly(Folder):
    """A source that kills the loader process which reads it."""

    def read(self, index: int) -> Image.Image:
        if os.getpid() != MAIN:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


MAIN = os.getpid()


def test_a_loader_process_that_dies_is_one_line(image_folder: Path, tmp_path: Path) -> None:
    source = Deadly(image_folder, "train")
    batches = EpochBatches(source, image_settings(image_folder, augment="crop_flip", workers=1), tmp_path, 4, 0)
    with pytest.raises(UserError, match=r"data\.workers: a loader process died"):
        for _ in batches.epoch_from(0, 0):
            pass


def test_grey_of_16_bits_keeps_its_values(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(folder / f"x.{suffix}")
    Image.fromarray(values.astype(">u2").view(">u2")).save(folder / "y.tif")
    Image.fromarray(values.astype(np.float32)).save(folder / "z.tif")
    source = Folder(tmp_path, "train")
    for index in range(3):
        assert np.asarray(source.read(index))[0].tolist() == [[value] * 3 for value in (0, 1, 128, 255)], source.name(index)
    with pytest.raises(UnreadableImage, match="8 or 16 bits"):
        source.read(3)


def test_class_folders_that_cannot_be_listed_are_one_line(image_folder: Path) -> None:
    (image_folder / "train" / "loop").symlink_to("loop")
    assert Folder(image_folder, "train").classes == ["bright", "dark"]


def test_a_tiny_file_of_a_huge_image_is_not_decoded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "train" / name / "0.png")
    Image.new("1", (16_000, 8_000)).save(tmp_path / "train" / "a" / "0.png")  # 128 million pixels in 20 kB
    with pytest.raises(UnreadableImage, match="claims 16000 x 8000 pixels"):
        Folder(tmp_path, "train").read(0)
