"""What the record of a weight file says about its training, compared with what a job does with the weights.

A record that does not mention something, as those of older versions and other programs, is not compared. Records may come from
strangers, so every value is looked at before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.records import Record, value_at
from paddle_pgonas.nn.weights import trained_alone
from paddle_pgonas.schema import shown
from paddle_pgonas.space.arch import SPACES, Arch, SearchSpace
from paddle_pgonas.space.named import find_space
from paddle_pgonas.space.subspace import Subspace

Classes = Sequence[str] | None
"""Names of the classes in the order of their labels; None if the job has no labels."""
Fault = Callable[[Record, Config, Classes], str | None]
"""A contradiction in words, or None."""


class Use(NamedTuple):
    """What a job does with weights: the contradictions that it refuses, and those that it only says."""

    refused: tuple[Fault, ...]
    said: tuple[Fault, ...] = ()


def classes_of(record: Record) -> list[str] | None:
    """Names of the classes that the weights were trained on, if the record tells them."""
    names = value_at(record, "classes") or value_at(record, "training_images", "classes")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known and names else None


def first_difference(then: Sequence[str], now: Sequence[str]) -> str | None:
    """The first label that stands for different classes, in words; None if all agree."""
    for label, (old, new) in enumerate(zip_longest(then, now)):
        if old != new:
            ours = "there is no such class" if new is None else f"it is {shown(new)}"
            return f"label {label} was {'no class' if old is None else shown(old)}, now {ours}"
    return None


def _classes(record: Record, config: Config, classes: Classes) -> str | None:
    then = classes_of(record)
    difference = None if then is None or classes is None else first_difference(then, classes)
    return difference and f"trained on other classes than those of data.root: {difference}"


def _fewer(record: Record, config: Config, classes: Classes) -> str | None:
    head = config.model.num_classes
    if classes is None or len(classes) >= head or classes_of(record):
        return None
    return (
        f"a network of {head:,} classes, of which data.root has {len(classes):,}, numbered from 0 in sorted order: if its "
        f"class 0 is not {shown(classes[0])}, and so on, give a list with its labels (data.val_list), or train on these images"
    )


def _space(record: Record, config: Config, classes: Classes) -> str | None:
    ours, theirs = config.search_space, _space_of(record)
    if theirs is None:
        return None
    # Stand-alone weights are of one network, which its arrays describe, whatever else the space holds.
    free = {"name", "image_size"} | ({"ratios", "min_depth", "divisor"} if trained_alone(record) else set())
    for field in fields(SearchSpace):
        then, now = getattr(theirs, field.name), getattr(ours, field.name)
        if field.name not in free and then != now:
            return f"trained in space {shown(theirs.name)} with {field.name} {shown(then)}, not {shown(now)} of {ours.name!r}"
    return None


def _space_of(record: Record) -> SearchSpace | None:
    value = value_at(record, "space")
    if isinstance(value, str):
        return SPACES.get(value)
    try:
        return find_space(value) if isinstance(value, dict) else None
    except UserError:
        return None


def _data(key: str, record: Record, config: Config, classes: Classes) -> str | None:
    then, now = value_at(record, "config", "data", key), config.data.model_dump(mode="json")[key]
    return None if then is None or then == now else f"trained with data.{key}={shown(then)}, now it is {shown(now)}"


MIXED = "a supernet trained on batch statistics: its running ones are a mixture over all subnets, "


def _mixed(record: Record) -> bool:
    return value_at(record, "config", "model", "bn") in ("batch", "sync") and trained_alone(record) is None


def _statistics(record: Record, config: Config, classes: Classes) -> str | None:
    if config.score.bn != "running" or not _mixed(record):
        return None
    return MIXED + "which ranks badly (score.bn=running); score.bn=calibrated gives each subnet its own"


def _full_network(record: Record, config: Config, classes: Classes) -> str | None:
    space = config.search_space
    if not trained_part(record, space).contains(space.largest):
        return "its training did not use the full network, which is to teach"
    return MIXED + "which teaches badly; an export of its full network has its own" if _mixed(record) else None


_normalisation = (partial(_data, "mean"), partial(_data, "std"))

SCORED = Use((_space, _classes, *_normalisation), (_fewer, partial(_data, "image_size"), _statistics))
"""The weights are scored, searched or exported as they are."""
STARTED = Use((_classes,), (_fewer, _space, *_normalisation))
"""A training starts from the weights and adapts them."""
TAUGHT = Use((_space, _classes, *_normalisation), (_fewer, partial(_data, "image_size"), _full_network))
"""The full network's logits are a training's targets."""


def check_record(use: Use, config: Config, classes: Classes, path: str | Path, record: Record) -> None:
    """Compare a record with a job on images of these classes. Contradictions that are not refused are said on stderr.

    Raises UserError for a contradiction that this use refuses, unless ``model.mismatch`` is ``warn``.
    """
    for fault in use.refused + use.said:
        text = fault(record, config, classes)
        if text and fault in use.refused and config.model.mismatch == "refuse":
            raise UserError(f"{path}: {text}; use what it was trained with, or accept it with -o model.mismatch=warn")
        if text:
            warn(f"{path}: {text}")


def warn(text: str) -> None:
    """A line on stderr, by the first process."""
    if processes.rank() == 0:
        print(f"warning: {text}", file=sys.stderr)


def trained_part(record: Record, space: SearchSpace) -> Subspace:
    """The part of the space that a training sampled, by ``train.depth_ranges`` and ``train.narrowest_codes`` of its record."""
    depths, codes = (value_at(record, "config", "train", key) for key in ("depth_ranges", "narrowest_codes"))
    try:
        return Subspace(space, codes and tuple(codes), depths and tuple((low, high) for low, high in depths))
    except (TypeError, ValueError, UserError):  # of another space, or no such lists
        return Subspace(space)


def warn_untrained(path: str | Path, record: Record, archs: Sequence[Arch]) -> None:
    """Say how many of the architectures no step of the training used: others than the weights' own, or outside their part."""
    code, part = trained_alone(record), trained_part(record, archs[0].space)
    outside = sum(arch.code != code if code else not part.contains(arch) for arch in archs)
    if outside:
        bounds = f"depths {list(map(list, part.depths))} and width codes up to {list(part.codes)}"
        of = f"subnet {code} alone" if code else bounds
        warn(f"{path}: {outside:,} of {len(archs):,} subnets were not trained; these are weights of {of}")
