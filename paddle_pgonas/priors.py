"""Priors: numbers known without training, by name. Larger means: expected to be the better subnet.

A prior alone is a yardstick; the challenge's scores must come from supernet weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from paddle_pgonas import cost
from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.errors import UserError
from paddle_pgonas.zen import zen_score

Prior = Callable[[Arch], float]
Formula = Callable[[Arch, int, int], float]
"""A prior of an architecture for images of a size and a number of classes."""


def _params(arch: Arch, image_size: int, num_classes: int) -> float:
    return cost.params(arch, num_classes)


def _zen(arch: Arch, image_size: int, num_classes: int) -> float:
    return zen_score(arch, image_size)


def _zen_monte_carlo(arch: Arch, image_size: int, num_classes: int) -> float:
    """Zen-score by sampling at half the image size; the check of the closed form, too slow for training."""
    from paddle_pgonas.nn.zen_monte_carlo import zen_score_monte_carlo

    return zen_score_monte_carlo(arch, image_size // 2)


PRIORS: dict[str, Formula] = {"flops": cost.macs, "params": _params, "zen": _zen, "zen_mc": _zen_monte_carlo}


def make_prior(name: str, space: SearchSpace, image_size: int | None = None, num_classes: int = 1000) -> Prior:
    """The prior of this name. Make it once per run: it remembers its values, and training asks twice for those of a pair.

    Args:
        name: a key of :data:`PRIORS`.
        image_size: side of the images; the space's by default.
        num_classes: outputs of the head's linear layer.

    Raises:
        UserError: there is no such prior.
    """
    if name not in PRIORS:
        raise UserError(f"there is no prior {name!r}; choose one of {', '.join(PRIORS)}")
    formula, side = PRIORS[name], image_size or space.image_size
    return lru_cache(maxsize=65536)(lambda arch: formula(arch, side, num_classes))
