"""Priors: training-free predictors by name. A larger value predicts a better subnet.

A prior alone is a reference for comparison; the challenge's scores must come from supernet weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from paddle_pgonas.errors import UserError
from paddle_pgonas.import_paths import import_callable
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.zen import zen_score
from paddle_pgonas.runtime import prepare_process
from paddle_pgonas.space.arch import Arch, SearchSpace

Prior = Callable[[Arch], float]
Formula = Callable[[Arch, int, int], float]
"""A prior of an architecture for images of a size and a number of classes."""


def _zen_monte_carlo(arch: Arch, image_size: int, num_classes: int) -> float:
    """Zen-score by Monte Carlo sampling at half the image size; checks the closed form, too slow for training."""
    prepare_process()
    from paddle_pgonas.priors.zen_monte_carlo import zen_score_monte_carlo

    return zen_score_monte_carlo(arch, image_size // 2)


TRAINING_PRIORS: dict[str, Formula] = {
    "flops": cost.macs,
    "params": lambda arch, image_size, num_classes: cost.params(arch, num_classes),
    "zen": lambda arch, image_size, num_classes: zen_score(arch, image_size),
}
"""Closed formulas, fast enough to be computed in every training step."""
PRIORS: dict[str, Formula] = TRAINING_PRIORS | {"zen_mc": _zen_monte_carlo}

COSTS = ("flops", "params")
"""Priors that count what a subnet costs. Accuracy grows about linearly with their logarithm."""


def _imported(path: str) -> Formula:
    function = import_callable(path, "prior")

    def formula(arch: Arch, image_size: int, num_classes: int) -> float:
        value = function(arch, image_size, num_classes)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"prior {path}: gives {value!r:.60} for {arch}; it must return a finite number")
        return number

    return formula


def make_prior(name: str, space: SearchSpace, image_size: int, num_classes: int) -> Prior:
    """The prior of this name for the architectures of a space. Create it once per run, because it caches its values.

    Args:
        name: a key of :data:`PRIORS`, or the import path of a function such as these (``my_module:my_prior``).
        image_size: side of the images.
        num_classes: outputs of the head's linear layer.

    Raises:
        UserError: there is no such prior, an imported one returns something other than a finite number, or the prior is given
            an architecture of another space.
    """
    if name not in PRIORS and ":" not in name:
        raise UserError(f"there is no prior {name!r}; give one of {', '.join(PRIORS)}, or an import path (my_module:my_prior)")
    formula = PRIORS.get(name) or _imported(name)

    @lru_cache(maxsize=65536)
    def prior(arch: Arch) -> float:
        if arch.space != space:
            raise UserError(f"prior {name}: is of space {space.name}, but {arch} is of space {arch.space.name}")
        return formula(arch, image_size, num_classes)

    return prior


def with_prior(scores: np.ndarray, name: str, values: np.ndarray, weight: float) -> np.ndarray:
    """Scores to which a prior is added: z(score) + weight * z(prior), brought to the range of the scores.

    z is the value's distance from the mean in standard deviations, both over these candidates, so the result depends on which
    candidates there are. Of :data:`COSTS` the logarithm counts. The errors of a supernet and those of a prior differ, and cancel
    in part in the sum. Values that are all equal add nothing; scores that are all equal stay as they are.

    Args:
        scores: [candidates].
        name: the prior's name.
        values: the prior of each candidate, [candidates].
        weight: of the prior; with 1 both count alike.
    """
    mixed = _standard(scores) + weight * sum_of_priors({name: values})
    return scores.min() + np.ptp(scores) * (mixed - mixed.min()) / (np.ptp(mixed) or 1)


def sum_of_priors(values: dict[str, np.ndarray]) -> np.ndarray:
    """The sum of priors that are standardised over the candidates, [candidates]; costs enter as logarithms.

    Args:
        values: of each prior by name, [candidates].
    """
    return np.sum([_standard(np.log(prior) if name in COSTS else prior) for name, prior in values.items()], axis=0)


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std() if np.ptp(values) else np.zeros(len(values))
