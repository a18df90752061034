"""Writes the demo's images: scikit-learn's handwritten digits of 8x8 pixels with noise, as an image folder.

500 digits to train on and 1,297 to score with: few images to learn from make subnets differ, and many to score with measure the
difference. The noise is drawn from a fixed seed, so that every run writes the same bytes.

    python benchmarks/demo/make_images.py FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TRAIN = 500
NOISE = 0.4
"""Standard deviation of the noise; the digits' grey values are 0 to 1."""


def images() -> tuple[np.ndarray, np.ndarray]:
    """All digits in a fixed order with their noise, uint8 [1797, 8, 8], and their classes [1797]."""
    digits = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.target))  # the file is ordered by writer
    noisy = digits.images[order] / 16 + rng.normal(0, NOISE, (len(order), 8, 8))
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8), digits.target[order]


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets train/<digit>/*.png and val/<digit>/*.png")
    folder = parser.parse_args().folder
    for number, (pixels, digit) in enumerate(zip(*images(), strict=True)):
        path = folder / ("train" if number < TRAIN else "val") / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    print(f"{number + 1:,} images: {folder}")


if __name__ == "__main__":
    main()
