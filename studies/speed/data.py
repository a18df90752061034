"""Images per second from the memory-mapped cache of decoded images, compared with decoding every image again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import paddle

from paddle_pgonas.config.loading import CONFIGS, Data, load_config
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.cache import DecodedImages, decoded
from paddle_pgonas.data.images import open_source
from paddle_pgonas.data.sources import ImageSource, Split, UnreadableImage, evenly
from paddle_pgonas.data.transforms import center_crop
from paddle_pgonas.errors import UserError
from paddle_pgonas.progress import progress

FOLDER = {"image_size": 224, "resize": 256, "augment": "shift_flip"}
SCORING_BATCH, TRAINING_BATCH = 100, 64


class _DecodedAgain:
    """Replaces the cache's array and decodes the requested images at each access."""

    def __init__(self, source: ImageSource, data: Data) -> None:
        self.source, self.data = source, data

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] of a slice or of an array of indices."""
        indices = np.arange(len(self.source.labels))[chosen]
        return np.stack([center_crop(self.source.read(int(i)), self.data.resize, self.data.image_size) for i in indices])


def measure(root: str | None = None, images: int = 500, rounds: int = 3) -> dict[str, Any]:
    """Images per second in one process, ``rounds`` times alternately, on up to ``images`` of each split.

    ``scoring``: the validation images in the scorer's batches. ``training``: shuffled and shifted batches, as for small images.
    Both ways run the same code except for the source of the pixels, and must give the same batches.
    ``random_resized_crop``: ImageNet's training crop, which needs the original each time and so is not cached (one loader
    process). ``build_seconds``: time to build the cache of the validation images, and ``open_seconds`` to check and open it.

    Args:
        root: a folder in ImageNet's layout, taken at 224 pixels; None takes scikit-learn's digits of 8.

    Raises:
        UserError: no such folder, or a file in it that is not an image.
    """
    data = load_config(CONFIGS / "mini" / "digits.yaml").data if root is None else Data(root=root, **FOLDER)  # type: ignore[arg-type]
    try:
        with tempfile.TemporaryDirectory() as cache:
            return {"source": root or "digits", "side": data.image_size} | _measure(data, Path(cache), images, rounds)
    except UnreadableImage as error:
        raise UserError(f"{error}; measure on a folder without that file") from None


def _measure(data: Data, cache: Path, count: int, rounds: int) -> dict[str, Any]:
    val, train = _open(data, "val", count), _open(data, "train", count)
    build, kept = _timed(lambda: decoded(val, data, cache))
    reopen, kept = _timed(lambda: decoded(val, data, cache))
    if len(kept.labels) < len(val.labels):
        raise UserError(f"{data.root}: measure on a folder without the files named above")
    batch = min(TRAINING_BATCH, len(train.labels))
    cached, again = (EpochBatches(train, data, cache, batch, seed=0) for _ in range(2))
    # Batches access the pixels only through this attribute.
    count = len(train.labels)
    again.images = DecodedImages(cast(np.ndarray, _DecodedAgain(train, data)), train.labels, "", np.arange(count), count)
    crops = EpochBatches(train, Data(source=data.source, root=data.root, image_size=data.image_size), cache, batch, seed=0)
    ways: dict[str, Callable[[int], Iterator[paddle.Tensor]]] = {
        "scoring cached": lambda turn: _scored(kept.images, len(val.labels)),
        "scoring decoded again": lambda turn: _scored(cast(np.ndarray, _DecodedAgain(val, data)), len(val.labels)),
        "training cached": lambda turn: (images for images, _ in cached.epoch_from(turn, 0)),
        "training decoded again": lambda turn: (images for images, _ in again.epoch_from(turn, 0)),
        "random resized crop": lambda turn: (paddle.to_tensor(crops[item][0]) for item in range(len(crops))),
    }
    same = all(
        bool((x == y).all())
        for use in ("scoring", "training")
        for x, y in zip(ways[f"{use} cached"](0), ways[f"{use} decoded again"](0), strict=True)
    )
    seconds, seen = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for turn in progress(range(rounds), "benchmark", "rounds"):
        for name, way in ways.items():
            taken, number = _timed(lambda way=way, turn=turn: sum(len(images) for images in way(turn)))
            seconds[name] += taken
            seen[name] += number
    rate = {name: seen[name] / seconds[name] for name in ways}
    return {
        "images": {"scoring": len(val.labels), "training": len(train.labels)},
        "images_per_second": rate,
        "speedup": {use: rate[f"{use} cached"] / rate[f"{use} decoded again"] for use in ("scoring", "training")},
        "build_seconds": build,
        "open_seconds": reopen,
        "same_pixels": same,
    }


def _open(data: Data, split: Split, count: int) -> ImageSource:
    source = open_source(data, split, num_classes=2**31)
    return source.subset(evenly(len(source.labels), count))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _scored(images: np.ndarray, count: int) -> Iterator[paddle.Tensor]:
    """Batches of an array as the scorer makes them."""
    for start in range(0, count, SCORING_BATCH):
        yield paddle.to_tensor(np.ascontiguousarray(images[start : min(count, start + SCORING_BATCH)]))
