"""Images named by list files as PaddleClas has them: ``train/n01440764/n01440764_10026.JPEG 0`` in each line.

The images come in the order of class folders, by label and path, whatever the list's order: a run goes on, and caches are
used, when the same images are given by folders or by a list, and a part of them represents all classes alike.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_pgonas.config.loading import Data
from paddle_pgonas.data.fingerprints import fingerprint_files
from paddle_pgonas.data.sources import ImageFiles, Split, class_names, evenly, split_folder
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import check_readable, read_text
from paddle_pgonas.progress import say_once
from paddle_pgonas.schema import shown

LONGEST = 1000  # bytes of a line: the items of all images are as wide as the longest
PROBES = 100  # files that are looked for below each folder from which paths may start


class Classes(NamedTuple):
    """What labels mean."""

    where: Path  # the folder or list that says so
    number: int  # labels are below it
    names: dict[int, str]  # of labels whose class has a name

    def as_list(self) -> list[str]:
        """A name for each label: the label itself where the class has none."""
        return [self.names.get(label, str(label)) for label in range(self.number)]


class Listed(NamedTuple):
    """The contents of a list, in its order."""

    path: Path
    files: np.ndarray  # bytes, one path per image
    labels: np.ndarray  # int64 [N]
    lines: np.ndarray  # int64 [N], line numbers from 1
    classes: Classes


class ListedImages(ImageFiles):
    """The images of a list. ``classes`` are the training images' classes, if known; else the list's own."""

    def __init__(self, listed: Listed, root: Path, split: Split, classes: Classes | None) -> None:
        self.list = self.where = listed.path
        self.classes = (classes or listed.classes).as_list()
        self.folder = _start_of_paths(listed, root, split)
        order = np.lexsort((listed.files, listed.labels))
        self.items, self.labels, self.lines = listed.files[order], listed.labels[order], listed.lines[order]

    def subset(self, chosen: np.ndarray) -> ListedImages:
        """As in :class:`~paddle_pgonas.data.sources.ImageSource`."""
        part = super().subset(chosen)
        assert isinstance(part, ListedImages)
        part.lines = self.lines[chosen]
        return part

    def name(self, index: int) -> str:
        """Its path, and the list's line."""
        return f"{self.path(index)} (line {self.lines[index]} of {self.list})"

    def fingerprint(self, cache: Path) -> str:
        """From the files' contents, labels, and names in class folders, whether they lie in such or not."""
        classes, paths, labels = [os.fsencode(name) for name in self.classes], self.items.tolist(), self.labels.tolist()
        names = [b"%b/%b" % (classes[label], posixpath.basename(path)) for label, path in zip(labels, paths, strict=True)]
        unique = len(set(names)) == len(names)  # not if a class has files of one name in several folders
        return fingerprint_files(self.folder, names if unique else paths, labels, cache, paths)


def image_root(data: Data) -> Path:
    """The folder of the images. Raises UserError if none is given."""
    if data.root is None:
        raise UserError("data.root: no image folder given; pass -o data.root=DIR with DIR/train/<class>/* and DIR/val/<class>/*")
    return Path(data.root)


def check_split(data: Data, split: Split) -> None:
    """Raise UserError unless a list or a folder of the split is there; nothing in it is read."""
    if data.source == "digits":
        return
    root = image_root(data)
    if path := find_list(data, split):
        check_readable(path, regular=True)
    else:
        split_folder(root, split)


def find_list(data: Data, split: Split) -> Path | None:
    """The list of a split: the configured one, or one that lies at the root or in its folder ILSVRC2012."""
    given = data.train_list if split == "train" else data.val_list
    if given is not None:
        return Path(given)
    places = (Path(str(data.root), folder, f"{split}_list.txt") for folder in ("", "ILSVRC2012"))
    return next((path for path in places if path.is_file()), None)


def training_classes(data: Data, num_classes: int) -> Classes | None:
    """What labels mean in the training images; None if there are none. Raises UserError as :func:`read_list` does."""
    if path := find_list(data, "train"):
        return read_list(path, num_classes).classes
    folder = Path(str(data.root), "train")
    names = class_names(folder) if folder.is_dir() else []
    return Classes(folder, len(names), dict(enumerate(names))) if names else None


def check_labels(listed: Listed, classes: Classes) -> None:
    """Raises UserError if a label of the list means no class, or another one, in the training images' ``classes``."""
    for index in np.flatnonzero(listed.labels >= classes.number)[:1]:
        raise UserError(
            f"{listed.path}: line {listed.lines[index]} has label {listed.labels[index]}, but the labels of {classes.where} "
            f"end at {classes.number - 1}; both must number the same classes from 0"
        )
    for label, name in sorted(listed.classes.names.items()):
        if (other := classes.names.get(label, name)) != name:
            raise UserError(
                f"{listed.path}: label {label} means class {shown(name)}, but {shown(other)} in {classes.where}; "
                "both must number the classes alike"
            )


def read_list(path: Path, num_classes: int) -> Listed:
    """A list of images. A label that disagrees with the sorted order of class folders is named on stderr.

    Raises UserError, with the line's number, for a line that is no path and label below ``num_classes``, for a path that starts
    outside or leads out of the images' folder, and for an image that is listed twice.
    """
    text = read_text(path, "list of images", regular=True, errors="surrogateescape").encode("utf-8", "surrogateescape")
    if b"\0" in text:
        raise UserError(f"{path}: is not a text file in UTF-8; give a list of images with lines of path and label")
    files, labels, lines = [], [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        parts = line.rsplit(None, 1)  # paths may hold spaces
        if not parts:
            continue
        try:
            labels.append(_label(parts, num_classes))
            files.append(_below(parts[0].lstrip()))
        except ValueError as error:
            raise UserError(f"{path}: line {number} ({shown(os.fsdecode(line))}) {error}") from None
        lines.append(number)
    if not files:
        raise UserError(f"{path}: names no images; expected lines of path and label")
    if len(set(files)) < len(files):
        _refuse_repeated(path, files, lines)
    folders = {(label, file.rpartition(b"/")[0]) for label, file in zip(labels, files, strict=True)}
    classes = Classes(path, max(labels) + 1, _class_names(path, folders))
    return Listed(path, np.array(files), np.array(labels, np.int64), np.array(lines), classes)


def _label(parts: list[bytes], num_classes: int) -> int:
    if len(parts) < 2 or not parts[1].isdigit():
        raise ValueError("does not end in a label, a whole number after a space; add it")
    if len(parts[1]) > LONGEST or (label := int(parts[1])) >= num_classes:
        raise ValueError(f"has a label above {num_classes - 1}; count from 0, or raise model.num_classes (now {num_classes})")
    return label


def _below(file: bytes) -> bytes:
    """The path in its shortest form."""
    if len(file) > LONGEST:
        raise ValueError(f"has a path of {len(file):,} bytes; only {LONGEST:,} are allowed")
    if file.startswith(b"/"):
        raise ValueError("has an absolute path; let it start below data.root")
    if b"./" in file or b"//" in file:
        file = posixpath.normpath(file)
        if file.startswith(b"../"):
            raise ValueError("leads out of the images' folder; let the path start below data.root, without '..'")
    return file


def _refuse_repeated(path: Path, files: list[bytes], lines: list[int]) -> None:
    first: dict[bytes, int] = {}
    for file, number in zip(files, lines, strict=True):
        if file in first:
            raise UserError(
                f"{path}: line {number} names {shown(os.fsdecode(file))} again, after line {first[file]}; remove one of them"
            )
        first[file] = number


def _class_names(path: Path, pairs: set[tuple[int, bytes]]) -> dict[int, str]:
    """Names of the classes by label, if each label has a folder of its own; ``pairs`` are all labels with all their folders."""
    folders = Counter(folder for _, folder in pairs)
    if len(pairs) > len(folders) > 1:
        shared = shown(os.fsdecode(folders.most_common(1)[0][0]))
        say_once(f"{path}: the images of folder {shared} have several labels, so the classes are named by their numbers")
    names = {label: os.fsdecode(posixpath.basename(folder)) for label, folder in sorted(pairs)}
    flat = not folders.keys().isdisjoint({b"", b"train", b"val"})
    if flat or not len(pairs) == len(names) == len(set(names.values())):
        return {}
    for (label, name), expected in zip(names.items(), sorted(names.values()), strict=True):
        if name != expected:
            say_once(
                f"{path}: label {label} is class {shown(name)}, not {shown(expected)} as in sorted order; "
                "a network pretrained on ImageNet numbers the classes in sorted order"
            )
            break
    return names


def _start_of_paths(listed: Listed, root: Path, split: Split) -> Path:
    """The folder below which the list's files lie; some may be missing. Raises UserError if all are."""
    probes = listed.files[evenly(len(listed.files), PROBES)].tolist()

    def present(folder: Path) -> int:
        return sum(os.path.exists(os.path.join(os.fsencode(folder), file)) for file in probes)

    best = max((root, listed.path.parent, root / split), key=present)
    if not present(best):
        raise UserError(
            f"{listed.path}: {shown(os.fsdecode(listed.files[0]))} (line {listed.lines[0]}) and others are not below {root}; "
            "set data.root to the folder from which the list's paths start"
        )
    return best
