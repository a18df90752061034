"""Labelled images of one split: class folders as ImageNet's, or the digits that come with scikit-learn."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from PIL import Image

from paddle_pgonas.data.fingerprints import fingerprint_files, stamps_of
from paddle_pgonas.errors import UserError
from paddle_pgonas.progress import progress, say_once
from paddle_pgonas.schema import shown

Split = Literal["train", "val"]
EXTENSIONS = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}
SYSTEM = {"__macosx", "lost+found", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini"}
"""Left-overs of archives and file systems, besides those whose names begin with a dot (``.DS_Store``, ``._1.jpg``)."""

LARGE, MOST_PER_BYTE = 25_000_000, 2000  # an image of more pixels, both in all and per byte of its file, is no photograph

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # chosen by content; other decoders (EPS) start programs


class UnreadableImage(Exception):
    """A file that cannot be read as an image; the message names it."""


class ImageSource(ABC):
    """Labelled images that can be read one by one."""

    items: np.ndarray  # one per image, from which the image is read: the name of a file, or pixels
    labels: np.ndarray  # int64, one per image
    classes: list[str]  # their names; a label is an index into this list
    where: Path | str  # where they come from, for messages

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The image as RGB, in its own size. Raises UnreadableImage; MemoryError if memory is short, whatever the image."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name for messages."""

    @abstractmethod
    def fingerprint(self, cache: Path) -> str:
        """A digest of the images' contents and labels, the same wherever they lie; ``cache`` remembers digests of files."""

    def stamps(self) -> list[bytes]:
        """A value for each image that changes when its file is written again; none where there are no files."""
        return []

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

    def stamps(self) -> list[bytes]:
        """From the files' sizes and times."""
        return stamps_of(self.folder, self.items.tolist())

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
            if _memory_is_short(error):
                raise MemoryError(path) from None
            what = str(error) if isinstance(error, (OSError, UnreadableImage)) else f"{type(error).__name__}: {error}"
            raise UnreadableImage(f"{self.name(index)}: {' '.join(what.split())[:300]}") from None


def _memory_is_short(error: Exception) -> bool:
    """Whether an error comes from a lack of memory; Pillow's decoders have a text for it."""
    system = isinstance(error, OSError) and (error.errno == errno.ENOMEM or str(error).startswith("out of memory error"))
    return system or isinstance(error, MemoryError)


class Folder(ImageFiles):
    """``root/<split>/<class>/<image>``; a class's label is the position of its name in sorted order.

    What is hidden, of the system, or no image is left out, which a line on stderr says.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        self.folder = self.where = split_folder(root, split)
        unused = _Unused()
        self.classes = _names(self.folder, _is_folder, unused)
        if self.classes in ([], ["images"]):
            raise UserError(f"data.root: {self.folder} holds no class folders; {_remedy(self.folder)}")
        files = [_images(self.folder, name, unused) for name in progress(self.classes, f"listing {split}", "classes")]
        unused.say(self.folder)
        _say_numbers(root, self.classes)
        self.items = np.concatenate(files)
        self.labels = np.repeat(np.arange(len(files), dtype=np.int64), [len(names) for names in files])

    def fingerprint(self, cache: Path) -> str:
        """From the files' contents, names below the folder, and labels."""
        return fingerprint_files(self.folder, self.items.tolist(), self.labels.tolist(), cache)


def split_folder(root: str | Path, split: Split) -> Path:
    """The folder of a split's class folders. Raises UserError if there is none."""
    folder = Path(root) / split
    if not folder.is_dir():
        raise UserError(
            f"data.root: {folder} is not a folder; expected {root}/train/<class>/* and {root}/val/<class>/*, "
            f"or {root}/train_list.txt and {root}/val_list.txt"
        )
    return folder


def _remedy(folder: Path) -> str:
    """What to do about a folder without class folders: validation images of ImageNet and Tiny-ImageNet are distributed so."""
    names = sorted(entry.name for entry in _entries(folder))
    listed = f"{folder.name}_list.txt"
    if any(map(_is_image, names)):
        return (
            f"its images have no labels: put PaddleClas's {listed} for ILSVRC2012 into {folder.parent}, "
            "or sort them into class folders"
        )
    if "images" not in names:
        return f"expected {folder}/<class>/<images>"
    labels = next((f"from {folder / name} " for name in names if "annotations" in name), "")
    line = f"{folder.name}/images/<image> <label>"
    return f"{folder / 'images'} holds images of all classes: write {folder.parent / listed} {labels}with lines {shown(line)}"


class _Unused:
    """What lies in a split and is not used: number and first path by kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, path: str) -> None:
        """Count a path."""
        count, first = self.kinds.get(kind, (0, path))
        self.kinds[kind] = count + 1, min(first, path)

    def say(self, folder: Path) -> None:
        """Print one line if there is anything."""
        parts = [
            f"{count:,} {kind} ({os.path.relpath(first, folder)}{', ...' if count > 1 else ''})"
            for kind, (count, first) in sorted(self.kinds.items())
        ]
        if parts:
            say_once(f"left out in {folder}: {' and '.join(parts)}")


def class_names(folder: Path) -> list[str]:
    """The class folders in a folder, in sorted order. Raises UserError if it cannot be listed."""
    return _names(folder, _is_folder, _Unused())


def _say_numbers(root: str | Path, classes: list[str]) -> None:
    """Say it if sorted order is not what a reader of the classes' names expects."""
    if all(name.isdecimal() for name in classes):
        for label, (name, expected) in enumerate(zip(classes, sorted(classes, key=int), strict=True)):
            if name != expected:
                order = f"label {label} is class {shown(name)}, not {shown(expected)}"
                return say_once(f"{root}: the names of the classes are numbers, sorted as text: {order}")


def _names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool], unused: _Unused) -> list[str]:
    """The names of the ``wanted`` entries of a folder, in sorted order. Raises UserError if it cannot be listed."""
    names = []
    for entry in _entries(folder):
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
            unused.add("hidden or of the system", entry.path)
        elif wanted(entry):
            names.append(entry.name)
        else:
            unused.add("neither class folder nor image", entry.path)
    return sorted(names)


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


def _images(folder: Path, name: str, unused: _Unused) -> np.ndarray:
    """The names of a class's images, ``<class>/<image>``, in sorted order."""
    files = _names(folder / name, lambda entry: _is_image(entry.name), unused)
    if not files:
        _refuse_empty(folder, name)
    return np.array([os.fsencode(f"{name}/{file}") for file in files])


def _refuse_empty(folder: Path, name: str) -> NoReturn:
    for deeper in class_names(folder / name):
        if _names(folder / name / deeper, lambda entry: _is_image(entry.name), _Unused()):
            raise UserError(
                f"data.root: the images of class {shown(name)} lie one level deeper, in {folder / name / deeper}; move those of "
                f"all classes up into the class folders, or name them in {folder.parent / folder.name}_list.txt"
            )
    raise UserError(f"data.root: the class folder {folder / name} holds no images; fill it or remove it")


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits. Grey of 16 bits, which Pillow would clip at 255, is scaled."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise UnreadableImage(f"pixels of mode {image.mode} have no known range; save them with 8 or 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    return image.convert("RGB")


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8] and labels int64 [1797], read once: both sources of a job take them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


class Digits(ImageSource):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,297 for training, 500 for scoring."""

    VAL = 500
    where = "scikit-learn's digits"

    def __init__(self, split: Split) -> None:
        images, labels = _digits()
        order = np.random.default_rng(0).permutation(len(labels))  # the file is ordered by writer
        chosen = order[: self.VAL] if split == "val" else order[self.VAL :]
        self.items, self.labels = images[chosen], labels[chosen]
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
