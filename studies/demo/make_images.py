"""Writes the demo's images: scikit-learn's handwritten digits of 8x8 pixels with noise, as an image folder.

1,297 digits are there to train on and 500 others to score with. Each is written several times with other noise: so much noise and
so many images that a larger network learns more. The noise is drawn from a fixed seed, so that every run writes the same bytes.

    python studies/demo/make_images.py FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TRAIN, TRAIN_COPIES, VALIDATION_COPIES = 1297, 8, 4
NOISE = 0.4
"""Standard deviation of the noise; the digits' grey values are 0 to 1."""


def images() -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Split, number, uint8 [8, 8] and class of every image."""
    digits = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.target))  # the file is ordered by writer
    for place, index in enumerate(order):
        split, copies = ("train", TRAIN_COPIES) if place < TRAIN else ("val", VALIDATION_COPIES)
        for copy in range(copies):
            noisy = digits.images[index] / 16 + rng.normal(0, NOISE, (8, 8))
            yield split, place * TRAIN_COPIES + copy, np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8), digits.target[index]


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets train/<digit>/*.png and val/<digit>/*.png")
    folder = parser.parse_args().folder
    count = 0
    for split, number, pixels, digit in images():
        path = folder / split / str(digit) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        count += 1
    print(f"{count:,} images: {folder}")


if __name__ == "__main__":
    main()
