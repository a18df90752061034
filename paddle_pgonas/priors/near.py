"""NEAR (arXiv 2408.08776): how many directions the feature maps span, before and after every activation function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from paddle_pgonas.errors import UserError
from paddle_pgonas.priors.first_pass import FirstPass

if TYPE_CHECKING:
    import paddle


def near(seen: FirstPass) -> float:
    """Sum of the effective ranks of the pre- and post-activation matrices (definition of the NEAR score, section 3).

    Of C channels a square matrix is taken: C consecutive positions, which begin at the top of a random column of a random
    image (appendix, figure A.3). Raises UserError if the batch has fewer positions than a layer has channels.
    """
    return sum(effective_rank(_square(values, seen.rng)) for pair in zip(seen.before, seen.after, strict=True) for values in pair)


def effective_rank(matrix: np.ndarray) -> float:
    """Exponential of the entropy of the singular values, divided by their sum (Roy and Vetterli, 2007); 0 of a zero matrix."""
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _square(values: paddle.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Positions as rows, channels as columns: float32 [C, C] of [N, C, H, W]."""
    images, channels, height, width = values.shape
    positions = images * height * width
    if positions < channels:
        raise UserError(
            f"prior near: {images} images have {positions} positions in a layer of {channels} channels; more --images"
        )
    begin = int(rng.integers((positions - channels) // height + 1)) * height
    first, end = begin // (height * width), -(-(begin + channels) // (height * width))
    rows = values[first:end].transpose([0, 3, 2, 1]).reshape([-1, channels]).numpy()  # only the images that are needed
    begin -= first * height * width
    return np.asarray(rows[begin : begin + channels])
