"""The images of a job, opened in one place: training and validation images, calibration images, and their fingerprints."""

from __future__ import annotations

from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from paddle_pgonas.config.loading import Config, Data, Score
from paddle_pgonas.data.batches import calibration_images
from paddle_pgonas.data.cache import DecodedImages, decoded
from paddle_pgonas.data.lists import Classes, ListedImages, check_labels, find_list, image_root, read_list, training_classes
from paddle_pgonas.data.sources import Digits, Folder, ImageSource, Split, evenly, spread_order
from paddle_pgonas.errors import UserError
from paddle_pgonas.progress import say_once
from paddle_pgonas.schema import shown


class JobImages:
    """The images of a job. Each split is listed, and the validation images are decoded, when they are first asked for.

    ``cache`` is the folder of decoded images and of the table of files' digests. The properties and :meth:`for_scoring` raise
    UserError as :func:`open_source` and :func:`~paddle_pgonas.data.cache.decoded` do.
    """

    def __init__(self, data: Data, num_classes: int, cache: Path) -> None:
        self.data, self.num_classes, self.cache = data, num_classes, cache

    @cached_property
    def train_source(self) -> ImageSource:
        """The training images (after ``train_limit``)."""
        return open_source(self.data, "train", self.num_classes)

    @cached_property
    def val_source(self) -> ImageSource:
        """The validation images (after ``val_limit``)."""
        return open_source(self.data, "val", self.num_classes)

    def check_classes(self) -> None:
        """Raise UserError if the training images' classes are not those of the validation images, if there are any: perhaps the
        unpacking of the images was interrupted."""
        classes, data = self.train_source.classes, self.data
        if data.source == "digits" or find_list(data, "val") or Path(str(data.root), "val").is_dir():
            self.val_source  # noqa: B018  (which compares them)
        else:
            say_once(f"{data.root}: there are no validation images, with which the {len(classes):,} classes could be compared")

    @cached_property
    def validation(self) -> DecodedImages:
        """The validation images, decoded."""
        return decoded(self.val_source, self.data, self.cache)

    def for_scoring(self, score: Score) -> DecodedImages:
        """The validation images, with the calibration images if the BatchNorm mode needs them."""
        images = self.validation
        if score.bn != "calibrated":
            return images
        return images._replace(calibration=calibration_images(self.train_source, self.data, score.calibration_images))


def open_images(config: Config) -> JobImages:
    """The images of a job with this configuration."""
    return JobImages(config.data, config.model.num_classes, Path(config.data.cache_dir or Path(config.output_dir) / "cache"))


def open_source(data: Data, split: Split, num_classes: int) -> ImageSource:
    """The configured images of a split: all, or ``train_limit`` or ``val_limit`` of them.

    Validation images come in :func:`~paddle_pgonas.data.sources.spread_order`, so that a smaller number of them is a prefix of a
    larger one. Raises UserError for no root, a missing folder, an empty class, a bad list, more classes than the network has, or
    labels that mean other classes in the validation images than in the training images.
    """
    if data.source == "digits":
        source: ImageSource = Digits(split)
    else:
        source = _image_files(data, image_root(data), split, num_classes)
    if len(source.classes) > num_classes:
        raise UserError(f"data.root has {len(source.classes)} classes, model.num_classes only {num_classes}; raise the latter")
    if split == "val":
        return source.subset(spread_order(len(source.labels))[: data.val_limit])
    return source if data.train_limit is None else source.subset(evenly(len(source.labels), data.train_limit))


def _image_files(data: Data, root: Path, split: Split, num_classes: int) -> ImageSource:
    """A list's images if there is a list, else those of class folders; labels mean the same as in the training images."""
    if path := find_list(data, split):
        listed = read_list(path, num_classes)
        classes = training_classes(data, num_classes) if split == "val" else None
        if classes:
            check_labels(listed, classes)
        return ListedImages(listed, root, split, classes)
    source = Folder(root, split)
    if split == "val" and (classes := training_classes(data, num_classes)):
        _check_folder(source, classes)
    return source


def _check_folder(source: Folder, classes: Classes) -> None:
    """Raises UserError if the classes in a folder, whose labels follow sorted order, are not the training images' ``classes``."""
    if classes.where.is_dir() and (strangers := set(classes.names.values()) ^ set(source.classes)):
        raise UserError(f"data.root: class {min(strangers)} is in only one of {classes.where} and {source.folder}")
    for label, (ours, theirs) in enumerate(zip_longest(source.classes, classes.as_list(), fillvalue="none")):
        if ours != theirs:
            raise UserError(
                f"{classes.where}: label {label} means class {shown(theirs)}, but {shown(ours)} in {source.folder}, whose labels "
                "follow sorted order; give a list of the validation images too (data.val_list)"
            )
