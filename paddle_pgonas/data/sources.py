"""Labelled images of one split: an ImageNet-layout folder, or the digits that come with scikit-learn."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from paddle_pgonas.config import Data
from paddle_pgonas.data.fingerprints import fingerprint_files
from paddle_pgonas.errors import UserError

Split = Literal["train", "val"]
EXTENSIONS = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}


class UnreadableImage(Exception):
    """One file that is no image; the message names it."""


class ImageSource(Protocol):
    """Labelled images that can be read one by one."""

    labels: np.ndarray
    """int64, one per image."""
    num_classes: int

    def read(self, index: int) -> Image.Image:
        """The image as RGB, in its own size. Raises UnreadableImage."""

    def fingerprint(self, cache: Path, chosen: Sequence[int] | None = None) -> str:
        """A digest of the images' contents and labels (of the ``chosen`` ones), the same wherever they lie.

        Args:
            cache: the folder in which digests of files are remembered.
        """


class Folder:
    """``root/<split>/<class>/<image>``; a class's label is the place of its name in sorted order."""

    def __init__(self, root: str | Path, split: Split) -> None:
        self.folder = Path(root) / split
        if not self.folder.is_dir():
            raise UserError(f"data.root: {self.folder} is not a folder; expected {root}/train/<class>/* and {root}/val/<class>/*")
        self.classes = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        if not self.classes:
            raise UserError(f"data.root: {self.folder} holds no class folders; expected {self.folder}/<class>/<images>")
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = sorted(path for path in (self.folder / name).iterdir() if path.suffix.lower() in EXTENSIONS)
            if not files:
                raise UserError(f"data.root: the class folder {self.folder / name} holds no images; fill it or remove it")
            self.paths += files
            labels += [label] * len(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.num_classes = len(self.classes)

    def read(self, index: int) -> Image.Image:
        """The image as RGB, whatever it was stored as."""
        try:
            with Image.open(self.paths[index]) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImage(f"{self.paths[index]}: {error}") from None

    def fingerprint(self, cache: Path, chosen: Sequence[int] | None = None) -> str:
        """From the files' contents, names below the folder, and labels."""
        indices = range(len(self.paths)) if chosen is None else chosen
        paths, labels = [self.paths[index] for index in indices], (int(self.labels[index]) for index in indices)
        return fingerprint_files(self.folder, paths, labels, cache)


class Digits:
    """1,797 real handwritten digits of 8x8 pixels that scikit-learn carries: 1,297 to train on, 500 to score with."""

    VAL = 500

    def __init__(self, split: Split) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))  # the file is ordered by writer
        chosen = order[: self.VAL] if split == "val" else order[self.VAL :]
        self.images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self.labels = digits.target[chosen].astype(np.int64)
        self.num_classes = 10

    def read(self, index: int) -> Image.Image:
        """The digit as a grey RGB image."""
        return Image.fromarray(self.images[index]).convert("RGB")

    def fingerprint(self, cache: Path, chosen: Sequence[int] | None = None) -> str:
        """From the pixels and labels themselves."""
        indices = slice(None) if chosen is None else list(chosen)
        return hashlib.sha256(self.images[indices].tobytes() + self.labels[indices].tobytes()).hexdigest()


class Subset:
    """Some images of a source, taken evenly from its list."""

    def __init__(self, source: ImageSource, count: int) -> None:
        self.source = source
        self.chosen = np.linspace(0, len(source.labels) - 1, min(count, len(source.labels))).round().astype(int)
        self.labels = source.labels[self.chosen]
        self.num_classes = source.num_classes

    def read(self, index: int) -> Image.Image:
        """The image as RGB."""
        return self.source.read(int(self.chosen[index]))

    def fingerprint(self, cache: Path, chosen: Sequence[int] | None = None) -> str:
        """Of the chosen images alone: the others are not read."""
        indices = self.chosen if chosen is None else self.chosen[list(chosen)]
        return self.source.fingerprint(cache, indices.tolist())


def open_source(data: Data, split: Split, num_classes: int) -> ImageSource:
    """The configured images of a split: all, or ``train_limit`` or ``val_limit`` of them.

    Raises:
        UserError: no root, a missing folder, an empty class, more classes than the network tells apart, or a validation split
            whose classes differ from the training split's (labels would silently mean different things).
    """
    source: ImageSource
    if data.source == "digits":
        source = Digits(split)
    elif data.root is None:
        raise UserError("data.root: no image folder given; pass -o data.root=DIR with DIR/train/<class>/* and DIR/val/<class>/*")
    else:
        source = Folder(data.root, split)
        other = Path(data.root) / "train"
        if split == "val" and other.is_dir():
            known = {entry.name for entry in os.scandir(other) if entry.is_dir()}
            strangers = sorted(known.symmetric_difference(source.classes))
            if strangers:
                raise UserError(f"data.root: class {strangers[0]} is in only one of train/ and val/ of {data.root}")
    if source.num_classes > num_classes:
        raise UserError(f"data.root has {source.num_classes} classes, model.num_classes only {num_classes}; raise the latter")
    limit = data.train_limit if split == "train" else data.val_limit
    return source if limit is None else Subset(source, limit)
