"""The images of a job, opened in one place: training and validation images, calibration images, and their fingerprints."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from paddle_pgonas.config.loading import Config, Data, Score
from paddle_pgonas.data.batches import calibration_images
from paddle_pgonas.data.cache import DecodedImages, decoded
from paddle_pgonas.data.sources import ImageSource, open_source


class JobImages:
    """The images of a job. Each split is listed, and the validation images are decoded, when they are first asked for.

    ``cache`` is the folder of decoded images and of the table of files' digests. The properties and :meth:`for_scoring` raise
    UserError as :func:`~paddle_pgonas.data.sources.open_source` and :func:`~paddle_pgonas.data.cache.decoded` do.
    """

    def __init__(self, data: Data, num_classes: int, cache: Path) -> None:
        self.data, self.num_classes, self.cache = data, num_classes, cache

    @cached_property
    def train_source(self) -> ImageSource:
        """The training images (after ``train_limit``)."""
        return open_source(self.data, "train", self.num_classes)

    @cached_property
    def train_fingerprint(self) -> str:
        """A digest of the training images and their labels (:meth:`~paddle_pgonas.data.sources.ImageSource.fingerprint`)."""
        return self.train_source.fingerprint(self.cache)

    @cached_property
    def val_source(self) -> ImageSource:
        """The validation images (after ``val_limit``)."""
        return open_source(self.data, "val", self.num_classes)

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
