"""Priors: numbers known without training, by name. Larger means: expected to be the better subnet.

A prior alone is a yardstick; the challenge's scores must come from supernet weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from paddle_pgonas import cost
from paddle_pgonas.arch import Arch
from paddle_pgonas.zen import zen_score

Prior = Callable[[Arch], float]


def _zen_monte_carlo(arch: Arch) -> float:
    """Zen-score by sampling, at a quarter of the published cost; the closed form's check, not for use in training."""
    from paddle_pgonas.nn.zen_monte_carlo import zen_score_monte_carlo

    return zen_score_monte_carlo(arch)


PRIORS: dict[str, Prior] = {"flops": cost.macs, "params": cost.params, "zen": zen_score, "zen_mc": _zen_monte_carlo}


def prior(name: str) -> Prior:
    """The prior of this name, cached per architecture: the largest and smallest subnets come up at every step."""
    return lru_cache(maxsize=65536)(PRIORS[name])
