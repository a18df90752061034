"""The hours of the real run from a rate in multiply-accumulates (MACs) per second. Loads no Paddle."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from paddle_pgonas.methods.single_path import once_for_all_phase
from paddle_pgonas.priors.cost import macs
from paddle_pgonas.space.arch import TRACK1, SearchSpace
from paddle_pgonas.space.subspace import Subspace

EPOCHS, CANDIDATES, CALIBRATION, CLASSES = 70, 45_000, 256, 1000
IMAGES = {"ImageNet-mini": (34_745, 3_923), "ImageNet": (1_281_167, 50_000)}
"""Training and validation images."""
SCORING_MACS = 6.587e13
"""Per image, of all candidates along shared prefixes: ``write_submission.py --dry-run``."""
V100 = 15.7e12 / 2 * 0.4
"""MACs per second at 40 % of a V100's nominal float32 rate, with two operations per MAC; the 40 % are an assumption."""


@cache
def training_macs(space: SearchSpace = TRACK1, side: int = 224, samples: int = 2000) -> dict[str, float]:
    """Mean MACs per training image of each method: a backward pass counts as two forward passes."""
    rng, largest = random.Random(0), macs(space.largest, side, CLASSES)
    subnet = sum(macs(space.sample(rng), side, CLASSES) for _ in range(samples)) / samples
    growing = (once_for_all_phase(Subspace(space), step / samples).sample(rng) for step in range(samples))
    progressive = sum(macs(arch, side, CLASSES) for arch in growing) / samples
    sandwich = 3 * (largest + macs(space.smallest, side, CLASSES) + 2 * subnet)
    return {
        "PGONAS": sandwich + 2 * (2 * subnet + 0.5 * 2 * subnet),  # half of its two pairs out of order: a backward of the second
        "baseline": 3 * 2 * subnet + largest,  # the teacher runs forward only
        "sandwich": sandwich,
        "progressive shrinking": 3 * 2 * progressive + largest,
    }


def hours(training: float, scoring: float) -> Iterator[tuple[str, str, float]]:
    """(data set, job, hours on one GPU) at these rates: every method's training, and the scoring of all candidates."""
    per_image = training_macs()
    for name, (train, validation) in IMAGES.items():
        for method, cost in per_image.items():
            yield name, f"train {method}", EPOCHS * train * cost / training / 3600
        yield name, "score 45,000", (validation + CALIBRATION) * SCORING_MACS / scoring / 3600


def table(details: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str, float]]]:
    """The hours by the name of the training part whose rate was measured; scoring in the same precision."""
    rates = {name: found["macs_per_second"] for name, found in details.items() if "macs_per_second" in found}
    scoring = {name: name.replace("track1", "scoring") for name in rates if name.startswith("track1")}
    return {name: list(hours(rates[name], rates[other])) for name, other in scoring.items() if other in rates}


def printed(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table for people, a column per measured precision; nothing if nothing was measured."""
    columns = table(details)
    if not columns:
        return []
    [how] = {f"{details[name]['space']} at {details[name]['side']} px" for name in columns}
    head = f"hours on one device like this, 70 epochs; rates measured with {how}"
    rows = [f"  {'':40}" + "".join(f"{name:>20}" for name in columns)]
    for cells in zip(*columns.values(), strict=True):
        name = f"{cells[0][0]}: {cells[0][1]}"
        rows.append(f"  {name:40}" + "".join(f"{value:20,.{int(value < 100)}f}" for _, _, value in cells))
    return [head, *rows]
