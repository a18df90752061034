"""Differences between this project's steps and those of a reference file, with tolerances for float32 rounding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_pgonas.published.reference import Reference, Sample, sampled_positions

TOLERANCES = {
    "architectures": 0.0,
    "learning rate": 1e-8,
    "losses": 1e-6,
    "rank losses": 1e-5,
    "gradient norms": 5e-6,
    "gradient entries": 1e-5,
    "gradient sums": 7e-5,
    "gradients of PReLU slopes": 5e-5,
    "weights": 2e-7,
}
"""Largest difference that float32 rounding explains, relative to the larger of the reference's value and the size of the numbers
that its rounding comes from: 1 for a rank loss (a difference of two losses), the tensor's root mean square for an entry, its norm
for a sum. Each is at least twice the largest difference that was measured (docs/reproduce.md)."""

SLOPE = "act._weight"
"""Ending of the names of PReLU slopes. A slope's gradient is a sum of many values of both signs, so it is less exact."""


class Tensor(NamedTuple):
    """The compared values of a tensor."""

    norm: float
    sum: float
    at: Sequence[float]
    size: int


def measure(values: np.ndarray) -> Tensor:
    """Norm, sum and sampled entries, computed in float64."""
    flat = values.astype(np.float64).ravel()
    return Tensor(float(np.linalg.norm(flat)), float(flat.sum()), flat[sampled_positions(flat.size)].tolist(), flat.size)


@dataclass(frozen=True)
class Step:
    """One optimizer step of this project."""

    codes: list[str]
    losses: list[float] | list[list[float]]
    rank_losses: list[float]
    ranked: bool
    """Whether the rank loss has a weight. Without one, pairs change nothing; only the published code runs them."""
    lr: float
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """Consecutive optimizer steps of this project."""

    steps: list[Step]
    final_weights: dict[str, Tensor]


class Difference(NamedTuple):
    """The largest relative difference of one quantity."""

    step: int | None
    """The step, from 0; None for the weights after the last."""
    quantity: str
    """A key of :data:`TOLERANCES`."""
    worst: float
    """Infinite if a value is not a number or missing on one side."""
    where: str
    """Name of the value."""

    @property
    def within(self) -> bool:
        """Whether rounding explains the difference."""
        return self.worst <= TOLERANCES[self.quantity]

    @property
    def in_tolerances(self) -> float:
        """The difference as a multiple of its tolerance."""
        return self.worst / TOLERANCES[self.quantity] if self.worst else 0.0


class Value(NamedTuple):
    """A number of this project beside the reference's."""

    where: str
    ours: float
    theirs: float
    least: float = 0.0
    """The difference is relative to the reference's value, or to this if that is smaller."""


def compare(reference: Reference, outcome: Outcome) -> list[Difference]:
    """One entry per step and quantity; the weights too if all steps were run."""
    differences: list[Difference] = []
    for number in range(len(outcome.steps)):
        differences += compare_passes(reference, outcome, number) + compare_gradients(reference, outcome, number)
    return differences + (compare_weights(reference, outcome) if len(outcome.steps) == reference.steps else [])


def compare_passes(reference: Reference, outcome: Outcome, number: int) -> list[Difference]:
    """Architectures, learning rate, losses and rank losses of a step."""
    step = outcome.steps[number]
    codes, losses, hinges = (
        _of_step(values, number, reference.steps) for values in (reference.codes, reference.losses, reference.rank_losses)
    )
    if reference.rank_losses and not step.ranked:
        codes, losses, hinges = codes[: -2 * reference.pairs], losses[: -2 * reference.pairs], []
    other = [f"pass {place}" for place, pair in enumerate(zip_longest(step.codes, codes)) if pair[0] != pair[1]]
    differences = [
        Difference(number, "architectures", float(len(other)), other[0] if other else "none"),
        _worst(number, "learning rate", [Value("rate", step.lr, reference.lr[number])]),
        _worst(number, "losses", _numbered("pass", step.losses, losses)),
    ]
    if hinges or step.rank_losses:
        differences.append(_worst(number, "rank losses", _numbered("pair", step.rank_losses, hinges, least=1.0)))
    return differences


def compare_gradients(reference: Reference, outcome: Outcome, number: int) -> list[Difference]:
    """Gradients of a step."""
    values: dict[str, list[Value]] = {"gradient norms": [], "gradient entries": [], "gradient sums": []}
    for name, kind, value in _tensors(outcome.steps[number].gradients, reference.gradients[number]):
        values.setdefault("gradients of PReLU slopes" if name.endswith(SLOPE) else f"gradient {kind}", []).append(value)
    return [_worst(number, quantity, entries) for quantity, entries in values.items()]


def compare_weights(reference: Reference, outcome: Outcome) -> list[Difference]:
    """Weights and statistics after the last step."""
    return [_worst(None, "weights", [value for _, _, value in _tensors(outcome.final_weights, reference.final_weights)])]


def _of_step(values: list, number: int, steps: int) -> list:
    size = len(values) // steps
    return values[number * size : (number + 1) * size]


def _numbered(what: str, ours: list, theirs: list, least: float = 0.0) -> Iterator[Value]:
    for place, (mine, wanted) in enumerate(zip_longest(ours, theirs, fillvalue=math.nan)):
        pairs = zip_longest(np.atleast_1d(mine), np.atleast_1d(wanted), fillvalue=math.nan)
        yield from (Value(f"{what} {place}", float(one), float(other), least) for one, other in pairs)


_NONE = Tensor(0.0, 0.0, [0.0] * 5, 0)
"""A missing gradient, of a parameter that no step has used yet; published code may have zeros instead."""


def _tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Sample]) -> Iterator[tuple[str, str, Value]]:
    """Every tensor's name with each of its values and that value's kind: norm, sum and sampled entries."""
    for name in sorted(ours.keys() | theirs.keys()):
        mine, wanted = ours.get(name, _NONE), theirs.get(name, _NONE)
        typical = mine.norm / math.sqrt(mine.size) if mine.size else 0.0
        yield name, "norms", Value(name, mine.norm, wanted.norm)
        yield name, "sums", Value(name, mine.sum, wanted.sum, mine.norm)
        for place, (entry, other) in enumerate(zip(mine.at, wanted.at, strict=True)):
            yield name, "entries", Value(f"{name}, entry {place}", entry, other, typical)


def _worst(step: int | None, quantity: str, values: Iterable[Value]) -> Difference:
    """The largest difference, relative to the reference's value or the least size."""
    worst = Difference(step, quantity, 0.0, "none")
    for where, ours, theirs, least in values:
        scale = max(abs(theirs), least)
        difference = abs(ours - theirs) / scale if scale else (0.0 if ours == theirs else math.inf)
        if math.isnan(difference):
            difference = math.inf
        if difference > worst.worst:
            worst = Difference(step, quantity, difference, where)
    return worst


def print_differences(path: str | Path, differences: Sequence[Difference]) -> bool:
    """Print the largest difference of every quantity and step; returns whether all are within their tolerance."""
    print(path)
    for entry in differences:
        step = "after all steps" if entry.step is None else f"step {entry.step}"
        verdict = "within" if entry.within else "NOT within"
        tolerance = f"{verdict} {TOLERANCES[entry.quantity]:.0e}"
        print(f"  {step:16}{entry.quantity:28}{entry.worst:9.1e}  {tolerance:18}({entry.where})")
    within = all(entry.within for entry in differences)
    print(f"  {'all within tolerance' if within else 'NOT the published steps'}")
    return within
