"""Training-free predictors by name; larger predicts better. The challenge's scores must come from weights, not these alone."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from collections.abc import Callable, Container, Sequence
from functools import cache, lru_cache, partial
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from paddle_pgonas.errors import UserError
from paddle_pgonas.import_paths import import_callable, is_import_path
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.first_pass import FirstPass
from paddle_pgonas.priors.grad_norm import grad_norm
from paddle_pgonas.priors.naswot import naswot
from paddle_pgonas.priors.near import near
from paddle_pgonas.priors.snip import snip
from paddle_pgonas.priors.zen import zen_score, zen_score_monte_carlo
from paddle_pgonas.progress import progress
from paddle_pgonas.schema import Text, shown
from paddle_pgonas.space.arch import Arch, SearchSpace

Prior = Callable[[Arch], float]
NamedPrior = Callable[[Arch | str], float]
"""One that takes the code of an architecture, too."""
Formula = Callable[[Arch, int, int], float]
"""A prior of an architecture for images of a size and a number of classes."""


TRAINING_PRIORS: dict[str, Formula] = {
    "flops": cost.macs,
    "params": lambda arch, image_size, num_classes: cost.params(arch, num_classes),
    "zen": lambda arch, image_size, num_classes: zen_score(arch, image_size),
}
"""Closed formulas, fast enough to be computed in every training step."""
PRIORS: dict[str, Formula] = TRAINING_PRIORS | {
    "zen_mc": lambda arch, image_size, num_classes: zen_score_monte_carlo(arch, image_size // 2)
}
"""Those, and the Zen-score by sampling at half the image size, which is too slow for training."""

AT_INITIALISATION: dict[str, Callable[[FirstPass], float]] = {
    "near": near,
    "snip": snip,
    "grad_norm": grad_norm,
    "naswot": naswot,
}
"""Priors of one batch through the subnet with random weights: they need images, and seconds for each subnet. Larger predicts
better. ``scoring.untrained`` computes them, for ``tools/score_prior.py`` alone."""

COSTS = ("flops", "params")
"""Priors that count what a subnet costs. Accuracy grows about linearly with their logarithm."""
SAMPLE = 1000
"""Random subnets over which the terms of a sum are standardised where subnets come one by one."""


def terms(name: str) -> list[str]:
    """The priors that a name adds: ``flops`` and ``params`` of ``flops+params``."""
    return name.split("+")


def check_name(name: str, known: Container[str]) -> str:
    """A prior's name, of one of ``known``, an import path, or a sum of such. Raises ValueError for another one."""
    parts = terms(name)
    for term in parts:
        if term in AT_INITIALISATION and term not in known:
            raise ValueError(f"must not be {term}, which needs images and seconds per subnet: use tools/score_prior.py")
        if term not in known and not is_import_path(term):
            listed = ", ".join(one for one in (*PRIORS, *AT_INITIALISATION) if one in known)
            others = "an import path such as my_module:my_prior, or a sum such as flops+params"
            raise ValueError(f"must be one of {listed}, or {others}, not {shown(name)}")
    if len(set(parts)) < len(parts):
        raise ValueError(f"names a prior twice: {shown(name)}")
    return name


TrainingPrior = Annotated[Text, AfterValidator(partial(check_name, known=TRAINING_PRIORS))]
"""A configuration's value that names a prior for training."""


def _imported(path: str) -> Formula:
    function = import_callable(path, "prior")
    with contextlib.suppress(ValueError):  # of a function in C that does not tell what it takes
        try:
            inspect.signature(function).bind(None, 0, 0)
        except TypeError as error:
            raise UserError(f"prior {path}: {error}; it must take (arch, image_size, num_classes)") from None

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


def make_prior(name: str, space: SearchSpace, image_size: int, num_classes: int) -> NamedPrior:
    """The prior of this name: a function of an architecture of the space, or of its code, for images of ``image_size`` pixels.

    Create it once per run, because it caches its values. The name is a key of :data:`PRIORS`, a function's import path
    (``my_module:my_prior``), or several joined by ``+``: their sum, each standardised over the same 1,000 random subnets of the
    space (a tool that has a file of candidates takes these, :func:`prior_values`). Raises UserError for an unknown name, a
    value that is not finite, and a subnet of another space.
    """
    try:
        check_name(name, PRIORS)
    except ValueError as error:
        raise UserError(f"prior {name} {error}") from None
    formula = _sum(name, space) if len(terms(name)) > 1 else _single(name)

    @lru_cache(maxsize=65536)
    def prior(arch: Arch | str) -> float:
        if isinstance(arch, str):
            return prior(space.parse(arch))
        if arch.space != space:
            raise UserError(f"prior {name}: is of space {space.name}, but {arch} is of space {arch.space.name}")
        return formula(arch, image_size, num_classes)

    return prior


def _single(name: str) -> Formula:
    return PRIORS.get(name) or _imported(name)


def _sum(name: str, space: SearchSpace) -> Formula:
    """A sum for single architectures."""
    if "zen_mc" in terms(name):
        raise UserError(f"prior {name}: would sample {SAMPLE:,} subnets to standardise zen_mc, a second each; name zen")
    formulas = {term: _single(term) for term in terms(name)}

    @cache
    def scales(image_size: int, num_classes: int) -> dict[str, tuple[float, float]]:
        rng = random.Random(0)
        archs = [space.sample(rng) for _ in range(SAMPLE)]
        drawn = {term: np.array([value(arch, image_size, num_classes) for arch in archs]) for term, value in formulas.items()}
        return {term: _scale(_linear(term, values)) for term, values in drawn.items()}

    def formula(arch: Arch, image_size: int, num_classes: int) -> float:
        parts = scales(image_size, num_classes)
        values = {term: _linear(term, np.array(formulas[term](arch, image_size, num_classes))) for term in formulas}
        return float(sum((values[term] - mean) / deviation for term, (mean, deviation) in parts.items()))

    return formula


def prior_values(name: str, archs: Sequence[Arch], make: Callable[[str], Prior]) -> np.ndarray:
    """A prior's values of candidates, [candidates]; a sum's terms are standardised over these. ``make`` gives a term's prior."""
    priors = {term: make(term) for term in terms(name)}
    values = {term: np.array([prior(arch) for arch in progress(archs, term, "subnets")]) for term, prior in priors.items()}
    return combined(values)


def combined(values: dict[str, np.ndarray]) -> np.ndarray:
    """The values of the prior whose terms are given by name, all [candidates]: those of a single one as they are."""
    return sum_of_priors(values) if len(values) > 1 else next(iter(values.values()))


def with_prior(scores: np.ndarray, name: str, values: np.ndarray, weight: float) -> np.ndarray:
    """Scores to which a prior is added: z(score) + weight * z(prior), brought to the range of the scores, all [candidates].

    z is the value's distance from the mean in standard deviations, both over these candidates, so the result depends on which
    candidates there are. Of :data:`COSTS` the logarithm counts. The values of a sum, from :func:`prior_values`, are sums of z
    already, so each term has the weight. The errors of a supernet and those of a prior differ, and cancel in part in the sum.
    Values that are all equal add nothing; scores that are all equal stay as they are.
    """
    added = values if len(terms(name)) > 1 else sum_of_priors({name: values})
    mixed = _standard(scores) + weight * added
    return scores.min() + np.ptp(scores) * (mixed - mixed.min()) / (np.ptp(mixed) or 1)


def sum_of_priors(values: dict[str, np.ndarray]) -> np.ndarray:
    """The sum of priors by name that are standardised over the candidates, all [candidates]; costs enter as logarithms."""
    return np.sum([_standard(_linear(name, prior)) for name, prior in values.items()], axis=0)


def _linear(name: str, values: np.ndarray) -> np.ndarray:
    return np.log(values) if name in COSTS else values


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std() if np.ptp(values) else np.zeros(len(values))


def _scale(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; of equal values a deviation that makes nothing of them."""
    return float(values.mean()), float(values.std()) if np.ptp(values) else math.inf
