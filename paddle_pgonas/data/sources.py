"""Labelled images of one split: class folders as ImageNet's, or the digits that come with scikit-learn."""

from __future__ import annotations

import copy
import hashlib
import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from paddle_pgonas.data.fingerprints import fingerprint_files
from paddle_pgonas.errors import UserError

Split = Literal["train", "val"]
EXTENSIONS = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}

LARGE, MOST_PER_BYTE = 25_000_000, 2000  # an image of more pixels, both in all and per byte of its file, is no photograph

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # chosen by content; other decoders (EPS) start programs


class UnreadableImage(Exception):
    """A file that cannot be read as an image; the message names it."""


class ImageSource(ABC):
    """Labelled images that can be read one by one."""

    items: np.ndarray  # one per image, from which the image is read: the name of a file, or pixels
    labels: np.ndarray  # int64, one per image
    classes: list[str]  # their names; a label is an index into this list

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The image as RGB, in its own size. Raises UnreadableImage."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name for messages."""

    @abstractmethod
    def fingerprint(self, cache: Path) -> str:
        """A digest of the images' contents and labels, the same wherever they lie; ``cache`` remembers digests of files."""

    def subset(self, chosen: np.ndarray) -> ImageSource:
        """The images at the ``chosen`` indices, in that order; the others are not read, not even for the fingerprint."""
        part = copy.copy(self)
        part.items, part.labels = self.items[chosen], self.labels[chosen]
        return part


class ImageFiles(ImageSource):
    """Images in files; ``items`` are their paths below ``folder``, bytes in one array: 1,281,167 objects would be copied into
    every loader process."""

    folder: Path

    def path(self, index: int) -> str:
        """Where the image lies."""
        return os.path.join(self.folder, os.fsdecode(self.items[index]))

    def name(self, index: int) -> str:
        """Its path."""
        return self.path(index)

    def read(self, index: int) -> Image.Image:
        """The image as RGB, whatever its mode."""
        path = self.path(index)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
                raise UnreadableImage("no regular file")
            with Image.open(path, formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > LARGE and pixels > MOST_PER_BYTE * status.st_size:
                    raise UnreadableImage(f"claims {image.width} x {image.height} pixels in {status.st_size} bytes")
                return _rgb(image)
        except Exception as error:  # a damaged image can raise any exception in a decoder
            what = str(error) if isinstance(error, (OSError, UnreadableImage)) else f"{type(error).__name__}: {error}"
            raise UnreadableImage(f"{self.name(index)}: {' '.join(what.split())[:300]}") from None


class Folder(ImageFiles):
    """``root/<split>/<class>/<image>``; a class's label is the position of its name in sorted order."""

    def __init__(self, root: str | Path, split: Split) -> None:
        self.folder = Path(root) / split
        if not self.folder.is_dir():
            raise UserError(
                f"data.root: {self.folder} is not a folder; expected {root}/train/<class>/* and {root}/val/<class>/*, "
                f"or {root}/train_list.txt and {root}/val_list.txt"
            )
        self.classes = class_names(self.folder)
        if not self.classes:
            raise UserError(f"data.root: {self.folder} holds no class folders; {_remedy(self.folder)}")
        files = [_images(self.folder, name) for name in self.classes]
        self.items = np.concatenate(files)
        self.labels = np.repeat(np.arange(len(files), dtype=np.int64), [len(names) for names in files])

    def fingerprint(self, cache: Path) -> str:
        """From the files' contents, names below the folder, and labels."""
        return fingerprint_files(self.folder, self.items.tolist(), self.labels.tolist(), cache)


def _remedy(folder: Path) -> str:
    """What to do about a folder without class folders: ImageNet's validation images are distributed so."""
    if any(_is_image(entry.name) for entry in _entries(folder)):
        fetch = f"put PaddleClas's {folder.name}_list.txt for ILSVRC2012 into {folder.parent}"
        return f"its images have no labels: {fetch}, or sort them into class folders"
    return f"expected {folder}/<class>/<images>"


def class_names(folder: Path) -> list[str]:
    """The folders in a folder, in sorted order. Raises UserError if it cannot be listed."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"data.root: {folder} cannot be listed ({error.strerror})") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link that leads to itself
        return False


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS


def _images(folder: Path, name: str) -> np.ndarray:
    """The names of a class's images, ``<class>/<image>``, in sorted order."""
    files = sorted(entry.name for entry in _entries(folder / name) if _is_image(entry.name))
    if not files:
        raise UserError(f"data.root: the class folder {folder / name} holds no images; fill it or remove it")
    return np.array([os.fsencode(f"{name}/{file}") for file in files])


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits. Grey of 16 bits, which Pillow would clip at 255, is scaled."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise UnreadableImage(f"pixels of mode {image.mode} have no known range; save them with 8 or 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    return image.convert("RGB")


class Digits(ImageSource):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,297 for training, 500 for scoring."""

    VAL = 500

    def __init__(self, split: Split) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))  # the file is ordered by writer
        chosen = order[: self.VAL] if split == "val" else order[self.VAL :]
        self.items = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self.labels = digits.target[chosen].astype(np.int64)
        self.classes = [str(digit) for digit in range(10)]

    def read(self, index: int) -> Image.Image:
        """The digit as a grey RGB image."""
        return Image.fromarray(self.items[index]).convert("RGB")

    def name(self, index: int) -> str:
        """Its position among the split's digits."""
        return f"digit {index}"

    def fingerprint(self, cache: Path) -> str:
        """From the pixels and labels themselves."""
        return hashlib.sha256(self.items.tobytes() + self.labels.tobytes()).hexdigest()


def evenly(total: int, count: int) -> np.ndarray:
    """Indices of ``count`` entries taken evenly from a list of ``total`` (all if there are fewer): int64, ascending."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int)


def spread_order(total: int) -> np.ndarray:
    """All indices of a list in an order in which every prefix is spread evenly over the list: int64 [total].

    This is the van der Corput sequence: the first 100 of a list sorted by class represent all classes alike, as all prefixes do.
    """
    order = np.zeros(1, np.int64)
    while len(order) < total:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order[order < total]
