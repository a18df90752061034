"""Images as the project sees them: decoded once into one tensor; order and augmentation of a step from (seed, epoch, step)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paddle_pgonas.config import Data

EXTENSIONS = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}
SHUFFLE, AUGMENT = 1, 2  # the project's streams (paddle_pgonas/data/batches.py)


def decode(root: str | Path, split: str, data: Data, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, S, S, 3] and labels int64 [N] of ``root/split/<class>/*``, from the cache or decoded now."""
    limit = data.train_limit if split == "train" else data.val_limit
    path = cache / f"{Path(root).name}-{split}-{data.resize}-{data.image_size}-{limit}.npz"
    if not path.exists():
        images, labels = [], []
        for label, folder in enumerate(sorted(entry for entry in (Path(root) / split).iterdir() if entry.is_dir())):
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS)
            images += files
            labels += [label] * len(files)
        chosen = np.arange(len(images))
        if limit is not None:
            chosen = np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(int)
        pixels = np.stack([center_crop(images[index], data.resize, data.image_size) for index in chosen])
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, images=pixels, labels=np.asarray(labels, dtype=np.int64)[chosen])
        part.replace(path)
    with np.load(path) as arrays:
        return arrays["images"], arrays["labels"]


def center_crop(file: Path, resize: int, size: int) -> np.ndarray:
    """Shorter side to ``resize``, then the central ``size`` square: uint8 [size, size, 3]."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    if min(width, height) != resize:
        scale = resize / min(width, height)
        width, height = (max(resize, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


class Batches:
    """Training batches of one seed: the very images, order, shifts and flips that the project's Paddle trainer draws."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, data: Data, batch_size: int, seed: int, device: str) -> None:
        if data.augment not in ("none", "shift", "shift_flip"):
            raise ValueError(f"data.augment {data.augment} is not for decoded images")
        self.side, self.augment, self.batch_size, self.seed = images.shape[1], data.augment, batch_size, seed
        self.pad = max(1, self.side // 8)
        edge = (self.pad, self.pad)
        self.padded = torch.from_numpy(np.pad(images, ((0, 0), edge, edge, (0, 0)))).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.steps_per_epoch = len(labels) // batch_size
        self.device = device
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, S, S, 3] and labels [B] of a step of an epoch."""
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, SHUFFLE, epoch)).permutation(len(self.labels))
        size, side, pad = self.batch_size, self.side, self.pad
        chosen = torch.from_numpy(self._order[1][step * size : (step + 1) * size]).to(self.device)
        tops = lefts = np.full(size, pad)
        flips = np.zeros(size, dtype=int)
        if self.augment != "none":
            rng = np.random.default_rng((self.seed, AUGMENT, epoch, step))
            tops, lefts = rng.integers(0, 2 * pad + 1, (2, size))
            flips = rng.integers(0, 2, (1, size))[0] * (self.augment == "shift_flip")
        along = np.arange(side)
        rows = torch.from_numpy(tops[:, None] + along).to(self.device)
        columns = torch.from_numpy(lefts[:, None] + np.where(flips[:, None] == 1, along[::-1], along)).to(self.device)
        return self.padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]], self.labels[chosen]


class Normalise:
    """uint8 [N, S, S, 3] to normalised [N, 3, S, S], in memory still with the channels last."""

    def __init__(self, data: Data, device: str) -> None:
        self.scale = torch.tensor([1 / (255 * std) for std in data.std], device=device)
        self.shift = torch.tensor([-mean / std for mean, std in zip(data.mean, data.std, strict=True)], device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32."""
        return (images.float() * self.scale + self.shift).permute(0, 3, 1, 2)
