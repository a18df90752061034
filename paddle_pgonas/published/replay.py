"""Replays optimizer steps of the published code with this project's own training step, and measures how far they are apart.

A reference file holds a few consecutive steps: how to make weights and images, and the losses, gradients, learning rates and
final weights that the published code computed from them. The as-published configuration of its method supplies everything that
the file does not set, so a wrong key in that configuration shows as a difference.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import paddle
from safetensors.numpy import save_file

from paddle_pgonas.config import CONFIGS, Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json
from paddle_pgonas.nn.supernet import Supernet, plain_name
from paddle_pgonas.runtime import select_device
from paddle_pgonas.training.strategies import Metrics
from paddle_pgonas.training.trainer import Run

CONFIGURATIONS = {
    ("uniform", None): "official_baseline.yaml",
    ("pgonas", "flops"): "as_published_pgonas_prelu_flops.yaml",
    ("pgonas", "zen"): "as_published_pgonas_mish_zen.yaml",
}
"""Method and prior of a reference to the configuration in configs/track1 that repeats it."""

TOLERANCES = {
    "architectures": 0.0,
    "learning rate": 1e-8,
    "losses": 1e-6,
    "rank losses": 1e-5,
    "gradients": 5e-6,
    "gradients of PReLU slopes": 5e-5,
    "final weights": 1e-6,
}
"""Largest relative difference that float32 rounding explains. A rank loss is a difference of two losses, so it is less exact; a
slope's gradient is a sum of many values of both signs."""

ROUNDING_UNITS = (1, -1, 2, -2, 4, -4, 8, -8)
"""By how many units of float32 rounding images are changed, one after the other, where gradients alone are apart."""

NEEDED = ("method", "activation", "codes", "epoch",
          "weight_decay", "momentum", "reorder", "image_seeds", "label_seeds", "batch_size",
          "image_size", "lr_per_256", "gpus", "steps_per_epoch", "losses", "lr", "gradients", "final_weights")  # fmt: skip


class Difference(NamedTuple):
    """The worst relative difference of one quantity."""

    step: int | None
    """The step, from 0; None for what is compared after the last."""
    quantity: str
    """A key of :data:`TOLERANCES`."""
    worst: float
    where: str
    """Which value it is."""

    @property
    def within(self) -> bool:
        """Whether rounding explains it. A value that is not a number is never within."""
        return self.worst <= TOLERANCES[self.quantity]


def replay(path: str | Path, device: str = "auto", overrides: Sequence[str] = (), steps: int | None = None) -> list[Difference]:
    """Run the steps of a reference file and compare: one entry per step and quantity, then the final weights.

    An activation within rounding of 0 may pass a ReLU on one machine and not on another. That leaves the losses alone and moves
    gradients by up to 1e-3. So where only gradients are apart, the steps are run again with images that differ by a few units of
    float32 rounding, and a gradient is compared with the nearest of its outcomes.

    Args:
        overrides: ``key=value`` changes of the configuration, to see what a choice changes.
        steps: only so many; the final weights are then not compared.

    Raises:
        UserError: not a reference file, or one of several GPUs.
    """
    reference = read_reference(path)
    select_device(device)
    nearest = _run(reference, overrides, steps, 0)
    for units in ROUNDING_UNITS:
        apart = [entry for entry in nearest if not entry.within]
        if not apart or any(not entry.quantity.startswith("gradients") for entry in apart):
            break
        again = _run(reference, overrides, steps, units)
        pairs = zip(nearest, again, strict=True)
        nearest = [min(pair, key=lambda e: e.worst) if pair[0].quantity.startswith("gradients") else pair[0] for pair in pairs]
    return nearest


def _run(reference: dict[str, Any], overrides: Sequence[str], steps: int | None, units: int) -> list[Difference]:
    """One replay, its images multiplied by ``1 + units * 2**-23``."""
    with tempfile.TemporaryDirectory() as folder:
        config = _config(reference, Path(folder) / "resnet48.safetensors", overrides)
        source = SimpleNamespace(num_classes=config.model.num_classes)
        batches: Any = SimpleNamespace(steps_per_epoch=reference["steps_per_epoch"], source=source)
        run = Run(config, batches)
    differences: list[Difference] = []
    count = len(reference["lr"])
    codes, losses = _per_step(reference["codes"], count), _per_step(reference["losses"], count)
    hinges = _per_step(reference.get("rank_losses", []), count)
    passed: list[str] = []
    run.net.register_forward_pre_hook(lambda net, inputs: passed.append(net.active_subnet.code))
    for number in range(count if steps is None else steps):
        x, y = _batch(reference, number)
        passed.clear()
        report = run.step(reference["epoch"] * run.steps_per_epoch + number, x * (1 + units * 2**-23), y)
        our_losses, our_hinges = _losses(report)
        if (
            config.train.strategy == "pgonas" and not our_hinges
        ):  # at weight 0 the published pairs change nothing and are left out
            codes[number], losses[number], hinges[number] = codes[number][: len(passed)], losses[number][: len(our_losses)], []
        other = [f"pass {place}" for place, pair in enumerate(zip_longest(passed, codes[number])) if pair[0] != pair[1]]
        differences.append(Difference(number, "architectures", float(len(other)), other[0] if other else "none"))
        differences.append(_worst(number, "learning rate", [("rate", run.optimizer.get_lr(), reference["lr"][number])]))
        differences.append(_worst(number, "losses", _numbered("pass", our_losses, losses[number])))
        if hinges[number]:
            differences.append(_worst(number, "rank losses", _numbered("pair", our_hinges, hinges[number], least=1.0)))
        differences += _gradient_differences(number, _gradients(run.net), reference["gradients"][number])
    if steps is None:
        weights = {name: tensor.numpy() for name, tensor in run.net.weights().items()}
        differences.append(_worst_tensor(None, "final weights", weights, reference["final_weights"]))
    return differences


def _gradient_differences(step: int, ours: dict[str, np.ndarray], wanted: dict[str, dict[str, Any]]) -> list[Difference]:
    differences = []
    for quantity, slopes in (("gradients", False), ("gradients of PReLU slopes", True)):
        theirs = {name: values for name, values in wanted.items() if name.endswith("act._weight") == slopes}
        mine = {name: values for name, values in ours.items() if name.endswith("act._weight") == slopes}
        if theirs or mine:
            differences.append(_worst_tensor(step, quantity, mine, theirs))
    return differences


def read_reference(path: str | Path) -> dict[str, Any]:
    """Read a reference file.

    Raises:
        UserError: it is no JSON, lacks a key, or was made with several GPUs, which one process cannot replay.
    """
    reference = read_json(path, "reference")
    lacking = [key for key in NEEDED if not isinstance(reference, dict) or key not in reference]
    if lacking:
        raise UserError(f"{path}: not a file of reference steps: it lacks {', '.join(lacking)}")
    if reference["gpus"] != 1:
        raise UserError(f"{path}: made with {reference['gpus']} GPUs; only references of one can be replayed")
    if (reference["method"], reference.get("prior")) not in CONFIGURATIONS:
        raise UserError(f"{path}: no configuration repeats method {reference['method']} with prior {reference.get('prior')}")
    return reference


def reference_array(name: str, shape: Sequence[int]) -> np.ndarray:
    """A parameter of the full network that reference steps start from: a function of its name and shape, float32."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("act._weight"):
        values = np.full(shape, 0.25)
    elif name.endswith("_variance"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("_mean"):
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 4:
        values = rng.standard_normal(shape) * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
    elif len(shape) == 2:
        values = rng.standard_normal(shape) / np.sqrt(shape[0])
    elif name.endswith("bn2.weight"):
        values = rng.uniform(0.1, 0.3, shape)
    elif name.endswith("bias"):
        values = 0.1 * rng.standard_normal(shape)
    else:
        values = rng.uniform(0.5, 1.5, shape)
    return values.astype(np.float32)


def _config(reference: dict[str, Any], weights: Path, overrides: Sequence[str]) -> Config:
    """The as-published configuration with the reference's sizes and rates, its weights written to a file."""
    name = CONFIGURATIONS[reference["method"], reference.get("prior")]
    options = [f"model.activation={reference['activation']}", f"model.pretrained={json.dumps(str(weights))}"]
    options += [f"data.image_size={reference['image_size']}", f"data.resize={reference['image_size']}"]
    options += [f"train.{key}={reference[key]}" for key in ("batch_size", "lr_per_256", "momentum", "weight_decay")]
    options += [f"train.{key}={reference[key]}" for key in ("rank_lambda",) if key in reference]
    if reference["method"] == "pgonas":
        options.append(f"train.pairs={(len(reference['codes']) // len(reference['lr']) - 4) // 2}")
    if not reference["reorder"]:
        options.append("model.reorder=false")
    if "teacher" in reference:
        options.append(f"train.teacher={json.dumps(str(weights))}")
    config = load_config(CONFIGS / "track1" / name, [*options, *overrides])
    full = Supernet(config.search_space, config.model.num_classes)
    save_file({name: reference_array(name, tensor.shape) for name, tensor in full.weights().items()}, weights)
    return config


def _batch(reference: dict[str, Any], number: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    count, side = reference["batch_size"], reference["image_size"]
    images = np.random.RandomState(reference["image_seeds"][number]).standard_normal((count, 3, side, side))
    labels = np.random.RandomState(reference["label_seeds"][number]).randint(0, 1000, count)
    return paddle.to_tensor(images.astype(np.float32)), paddle.to_tensor(labels.astype(np.int64))


def _per_step(values: list[Any], steps: int) -> list[list[Any]]:
    size = len(values) // steps
    return [values[number * size : (number + 1) * size] for number in range(steps)]


def _losses(report: Metrics) -> tuple[list[Any], list[float]]:
    """The losses in the reference's form, and the hinges: with a teacher a pass has two, cross-entropy and distillation."""
    losses: list[Any] = []
    distilled: float | None = None
    for kind, value in report.losses:
        if kind == "distilled":
            distilled = float(value)
        elif kind != "rank":
            losses.append(float(value) if distilled is None else [float(value) - distilled, distilled])
    return losses, [float(value) for kind, value in report.losses if kind == "rank"]


def _gradients(net: Supernet) -> dict[str, np.ndarray]:
    named = ((plain_name(name), parameter) for name, parameter in net.model.named_parameters())
    return {name: parameter.grad.numpy() for name, parameter in named if parameter.grad is not None}


def _numbered(what: str, ours: list[Any], wanted: list[Any], least: float = 0.0) -> Iterator[tuple[str, float, float]]:
    """Name, this project's value and the reference's, both divided by the reference's size (``least`` if it is smaller).

    A place that only one side has differs without bound.
    """
    for place in range(max(len(ours), len(wanted))):
        if place >= len(ours) or place >= len(wanted):
            yield f"{what} {place}", np.inf, 1.0
            continue
        for mine, theirs in zip(np.atleast_1d(ours[place]), np.atleast_1d(wanted[place]), strict=True):
            scale = max(abs(theirs), least)
            yield f"{what} {place}", float(mine / scale), float(theirs / scale)


def _worst(step: int | None, quantity: str, values: Iterable[tuple[str, float, float]]) -> Difference:
    """The largest difference relative to the reference's value."""
    worst = Difference(step, quantity, 0.0, "none")
    for where, ours, wanted in values:
        difference = abs(ours - wanted) / abs(wanted) if wanted else abs(ours)
        if not difference <= worst.worst:
            worst = Difference(step, quantity, float(difference), where)
    return worst


def _worst_tensor(step: int | None, quantity: str, ours: dict[str, np.ndarray], wanted: dict[str, dict[str, Any]]) -> Difference:
    """The largest difference of norm, sum and sampled entries of any tensor, relative to the tensor's norm.

    A tensor that only one side has differs without bound, unless all of it is zero: then no step has used it.
    """
    worst = Difference(step, quantity, 0.0, "none")
    for name in sorted(wanted.keys() | ours.keys()):
        if name not in wanted or name not in ours:
            values = ours[name] if name in ours else np.asarray(wanted[name]["norm"])
            difference = np.inf if np.any(values) else 0.0
        else:
            flat, theirs = ours[name].astype(np.float64).ravel(), wanted[name]
            at = flat[np.linspace(0, flat.size - 1, 5).astype(int)]
            total = (flat.sum() - theirs["sum"]) / np.sqrt(flat.size)  # no more than the norm of the difference
            apart = [np.linalg.norm(flat) - theirs["norm"], total, *(at - np.asarray(theirs["at"]))]
            difference = np.abs(apart).max() / theirs["norm"] if theirs["norm"] else np.abs(apart).max()
        if not difference <= worst.worst:
            worst = Difference(step, quantity, float(difference), name)
    return worst
