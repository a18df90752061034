"""Image transforms: from images to uint8 squares on the CPU, and from these to normalised tensors on the device."""

from __future__ import annotations

import math

import numpy as np
import paddle
from paddle.vision.transforms import functional as F
from PIL import Image

from paddle_pgonas.config.loading import Data

LONGEST = 64  # largest aspect ratio in evaluation: the rest of a longer image is far outside the central square


def center_crop(image: Image.Image, resize: int, size: int) -> np.ndarray:
    """Evaluation: shorter side to ``resize``, then the central ``size`` square. Returns uint8 [size, size, 3].

    Paddle's own functions do both, as in the published runs (Resize rounds the longer side down). Only the middle of an
    extremely long image is resized: 1 x 60,000 pixels would otherwise take gigabytes.
    """
    length = LONGEST * min(image.size)
    width, height = (side - max(0, (side - length) // 2 * 2) for side in image.size)  # even, so that the centre stays
    if (width, height) != image.size:
        image = F.center_crop(image, (height, width))
    return np.asarray(F.center_crop(F.resize(image, resize), size))


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Training on ImageNet: a random window, scaled to ``size`` and flipped half the time. Returns uint8 [size, size, 3].

    The window is cropped before it is scaled, so that pixels outside do not influence its borders, as in ``paddle.vision``. Its
    RandomResizedCrop is not used, because it draws from the global generators; here each image has its own.
    """
    left, top, width, height = random_window(*image.size, rng)
    crop = np.asarray(F.resize(F.crop(image, top, left, height, width), (size, size)))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def random_window(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a window with 8 to 100 % of the area and aspect 3/4 to 4/3; after ten attempts the largest
    central one within the aspect ratios, as is usual.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def random_shifts(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Top and left of a window on an image padded by an eighth of its side, and 1 for a flip, at random: int64 [3, count]."""
    pad = max(1, side // 8)
    return np.concatenate([rng.integers(0, 2 * pad + 1, (2, count)), rng.integers(0, 2, (1, count))])


def shift(images: np.ndarray, moves: np.ndarray, flip: bool) -> np.ndarray:
    """Training on small images, uint8 [N, S, S, 3]: shift with black padding and ``flip`` by :func:`random_shifts`."""
    count, side = images.shape[:2]
    pad = max(1, side // 8)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))  # type: ignore[call-overload]  # [N, y, x, 3, S, S]
    tops, lefts, flipped = moves
    moved = windows[np.arange(count), tops, lefts].transpose(0, 2, 3, 1)
    return np.where(flipped[:, None, None, None] == 1, moved[:, :, ::-1], moved) if flip else moved


def to_network(images: paddle.Tensor | np.ndarray, data: Data) -> paddle.Tensor:
    """uint8 [N, S, S, 3] to normalised float32 [N, 3, S, S], on the device where the images are; arrays on the current one."""
    if isinstance(images, np.ndarray):
        images = paddle.to_tensor(np.ascontiguousarray(images))
    scale = paddle.to_tensor([1 / (255 * std) for std in data.std], dtype="float32")
    shift_by = paddle.to_tensor([-mean / std for mean, std in zip(data.mean, data.std, strict=True)], dtype="float32")
    return (images.astype("float32") * scale + shift_by).transpose([0, 3, 1, 2])
