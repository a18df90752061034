"""Differences between this project's steps and those of a reference file, with tolerances for float32 rounding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddle_pgonas.nn.weights import SLOPE
from paddle_pgonas.published.reference import Reference, Sample

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
for a sum. Each is at least twice the largest difference that was measured (studies/recorded). A slope's gradient sums many
values of both signs, so it is less exact."""


class Tensor(NamedTuple):
    """The compared values of a tensor: norm, sum, sampled entries; and the root mean square of all its entries."""

    norm: float
    sum: float
    at: Sequence[float]
    rms: float


NONE = Tensor(0.0, 0.0, [0.0] * 5, 0.0)
"""A missing gradient, of a parameter that no step has used yet; published code may have zeros instead."""


def measure(values: np.ndarray) -> Tensor:
    """The compared values of a tensor, computed in float64."""
    flat = values.astype(np.float64).ravel()
    norm, positions = float(np.linalg.norm(flat)), np.linspace(0, flat.size - 1, 5).astype(int)
    return Tensor(norm, float(flat.sum()), flat[positions].tolist(), norm / math.sqrt(flat.size))


@dataclass(frozen=True)
class Step:
    """One optimizer step of this project."""

    codes: list[str]
    losses: list[Any]
    """A number per pass, with a teacher two, as in :class:`Reference`."""
    rank_losses: list[float]
    ranked: bool
    """Whether the rank loss has a weight. Without one, pairs change nothing; only the published code runs them."""
    lr: float
    gradients: dict[str, Tensor]


@dataclass
class Outcome:
    """Consecutive optimizer steps of this project."""

    steps: list[Step]
    final_weights: dict[str, Tensor]


class Difference(NamedTuple):
    """The largest relative difference of one quantity, a key of :data:`TOLERANCES`, and the name of the value that has it."""

    step: int | None
    """The step, from 0; None for the weights after the last."""
    quantity: str
    worst: float
    """Infinite if a value is not a number or missing on one side."""
    where: str

    @property
    def within(self) -> bool:
        """Whether rounding explains the difference."""
        return self.worst <= TOLERANCES[self.quantity]


Value = tuple[str, str, float, float, float]
"""Quantity, name, this project's number, the reference's, and the size to which the difference is relative if that is smaller."""


def compare(reference: Reference, outcome: Outcome) -> list[Difference]:
    """One entry per step and quantity; the weights too if all steps were run."""
    differences: list[Difference] = []
    for number, step in enumerate(outcome.steps):
        gradients = _tensors(step.gradients, reference.gradients[number])
        differences += _worst(number, [*_passes(reference, step, number), *gradients])
    if len(outcome.steps) == reference.steps:
        differences += _worst(None, _tensors(outcome.final_weights, reference.final_weights, "weights"))
    return differences


def _passes(reference: Reference, step: Step, number: int) -> Iterator[Value]:
    codes, losses, hinges = (
        np.array_split(values, reference.steps)[number] for values in (reference.codes, reference.losses, reference.rank_losses)
    )
    if reference.rank_losses and not step.ranked:
        codes, losses, hinges = codes[: -2 * reference.pairs], losses[: -2 * reference.pairs], hinges[:0]
    other = [f"pass {place}" for place, pair in enumerate(zip_longest(step.codes, codes)) if pair[0] != pair[1]]
    yield "architectures", other[0] if other else "none", len(other), 0.0, 1.0
    yield "learning rate", "rate", step.lr, reference.lr[number], 0.0
    for place, (mine, wanted) in enumerate(zip_longest(step.losses, losses, fillvalue=math.nan)):
        for ours, theirs in zip_longest(np.atleast_1d(mine), np.atleast_1d(wanted), fillvalue=math.nan):
            yield "losses", f"pass {place}", float(ours), float(theirs), 0.0
    for place, (mine, wanted) in enumerate(zip_longest(step.rank_losses, hinges, fillvalue=math.nan)):
        yield "rank losses", f"pair {place}", mine, wanted, 1.0


def _tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Sample], quantity: str = "") -> Iterator[Value]:
    """Norm, sum and sampled entries of every tensor; without a quantity they are gradients."""
    for name in sorted(ours.keys() | theirs.keys()):
        mine, wanted = ours.get(name, NONE), theirs.get(name, NONE)
        all_same = quantity or ("gradients of PReLU slopes" if name.endswith(SLOPE) else "")
        yield all_same or "gradient norms", name, mine.norm, wanted.norm, 0.0
        yield all_same or "gradient sums", name, mine.sum, wanted.sum, mine.norm
        for place, (entry, other) in enumerate(zip(mine.at, wanted.at, strict=True)):
            yield all_same or "gradient entries", f"{name}, entry {place}", entry, other, mine.rms


def _worst(step: int | None, values: Iterable[Value]) -> list[Difference]:
    worst: dict[str, Difference] = {}
    for quantity, where, ours, theirs, least in values:
        scale = max(abs(theirs), least)
        difference = abs(ours - theirs) / scale if scale else (0.0 if ours == theirs else math.inf)
        if math.isnan(difference):
            difference = math.inf
        if difference > worst.setdefault(quantity, Difference(step, quantity, 0.0, "none")).worst:
            worst[quantity] = Difference(step, quantity, difference, where)
    return [worst[quantity] for quantity in TOLERANCES if quantity in worst]


def print_differences(path: str | Path, differences: Sequence[Difference]) -> bool:
    """Print the largest difference of every quantity and step; returns whether all are within their tolerance."""
    print(path)
    for entry in differences:
        step = "after all steps" if entry.step is None else f"step {entry.step}"
        tolerance = f"{'within' if entry.within else 'NOT within'} {TOLERANCES[entry.quantity]:.0e}"
        print(f"  {step:16}{entry.quantity:28}{entry.worst:9.1e}  {tolerance:18}({entry.where})")
    within = all(entry.within for entry in differences)
    print(f"  {'all within tolerance' if within else 'NOT the published steps'}")
    return within
