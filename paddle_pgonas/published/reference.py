"""Files of reference steps, which the published code or the organisers' baseline computed from generated weights and images."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import paddle
from pydantic import Field

from paddle_pgonas.config.loading import CONFIGS, Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json
from paddle_pgonas.nn.weights import SLOPE
from paddle_pgonas.schema import Section, validate

CONFIGURATIONS = {
    ("uniform", None): "official_baseline.yaml",
    ("pgonas", "flops"): "as_published_pgonas_prelu_flops.yaml",
    ("pgonas", "zen"): "as_published_pgonas_mish_zen.yaml",
}
"""Method and prior of a reference to the configuration in configs/track1 that repeats it."""

CLASSES = 1000

Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Sample(Section, extra="ignore"):
    """Stored values of a tensor."""

    norm: float
    sum: float
    at: Annotated[list[float], Field(min_length=5, max_length=5)]
    """Entries of the flattened tensor at equal distances, from the first to the last."""


class Reference(Section, extra="ignore"):
    """A file of reference steps. Further keys are descriptions and are not read."""

    method: Literal["pgonas", "uniform"]
    prior: Literal["flops", "zen"] | None = None
    activation: Literal["relu", "prelu", "swish", "mish", "selu"]
    rank_lambda: Literal["warmup", "constant", "sine", "multi_stage"] | None = None
    epoch: Annotated[int, Field(ge=0, lt=70)]
    steps_per_epoch: Count
    batch_size: Annotated[int, Field(ge=1, le=1024)]
    image_size: Annotated[int, Field(ge=8, le=4096)]
    gpus: Literal[1]
    """Steps of several GPUs cannot be repeated by one process."""
    lr_per_256: Annotated[float, Field(ge=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    reorder: bool
    teacher: str | None = None
    """A description; without it there was no teacher."""
    image_seeds: Annotated[list[Seed], Field(min_length=1)]
    label_seeds: list[Seed]
    codes: list[str]
    """The architecture of every pass, step after step; losses and hinges have the same order."""
    losses: list[float] | list[Annotated[list[float], Field(min_length=2, max_length=2)]]
    """Cross-entropy of every pass; with a teacher, cross-entropy and soft cross-entropy to it."""
    rank_losses: list[float] = Field(default_factory=list)
    lr: list[float]
    gradients: list[dict[str, Sample]]
    final_weights: dict[str, Sample]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.lr)

    @property
    def pairs(self) -> int:
        """Number of pairs in a step: those after the sandwich's four passes."""
        return (len(self.codes) // self.steps - 4) // 2

    def _problems(self) -> Iterator[tuple[str, str]]:
        if (self.method, self.prior) not in CONFIGURATIONS:
            yield "", f"no configuration repeats method {self.method} with prior {self.prior}"
        for key in ("image_seeds", "label_seeds", "gradients"):
            if len(getattr(self, key)) != self.steps:
                yield "", f"{key} and lr must have one entry per step, not {len(getattr(self, key))} and {self.steps}"
        if len(self.codes) != len(self.losses) or len(self.codes) % self.steps or not self.codes:
            yield "", f"codes and losses must have one entry per pass, not {len(self.codes)} and {len(self.losses)}"
        if self.method == "pgonas" and (self.pairs < 1 or len(self.rank_losses) != self.pairs * self.steps):
            yield "", f"rank_losses must have one entry per pair, not {len(self.rank_losses)}"


def read_reference(path: str | Path) -> Reference:
    """Read a file of reference steps. Raises UserError if it is none, or nothing repeats it (several GPUs, another method)."""
    values = read_json(path, "reference")
    if not isinstance(values, dict) or not {"codes", "gradients"} <= values.keys():
        raise UserError(f"{path}: not a file of reference steps, which is an object with codes, losses, gradients and more")
    return validate(Reference, values, str(path))


def configuration(reference: Reference, weights: Path, overrides: Sequence[str]) -> Config:
    """The as-published configuration with the reference's settings and these weights. Raises UserError for a wrong override."""
    options: dict[str, object] = {
        "model.activation": reference.activation,
        "model.pretrained": str(weights),
        "model.reorder": reference.reorder,
        "data.image_size": reference.image_size,
        "data.resize": reference.image_size,
    }
    for name in ("batch_size", "lr_per_256", "momentum", "weight_decay"):
        options[f"train.{name}"] = getattr(reference, name)
    if reference.method == "pgonas":
        options["method.pairs"] = reference.pairs
        if reference.rank_lambda:
            options["method.rank_lambda"] = reference.rank_lambda
    else:
        options["method.random_subnets"] = len(reference.codes) // reference.steps
        options["method.teacher"] = str(weights) if reference.teacher else None
    given = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    config = load_config(CONFIGS / "track1" / CONFIGURATIONS[reference.method, reference.prior], [*given, *overrides])
    if config.model.num_classes != CLASSES:
        raise UserError(f"model.num_classes: {CLASSES} in every reference; leave it")
    return config


def batch(reference: Reference, step: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Images [N, 3, S, S] and labels [N] of a step, from its seeds."""
    count, side = reference.batch_size, reference.image_size
    images = np.random.RandomState(reference.image_seeds[step]).standard_normal((count, 3, side, side))
    labels = np.random.RandomState(reference.label_seeds[step]).randint(0, CLASSES, count)
    return paddle.to_tensor(images.astype(np.float32)), paddle.to_tensor(labels.astype(np.int64))


def first_weights(name: str, shape: Sequence[int]) -> np.ndarray:
    """A parameter of the full network that reference steps start from: the golden values, but for slopes and ``bn2``."""
    if name.endswith(SLOPE):
        return np.full(shape, 0.25, np.float32)
    if name.endswith("bn2.weight"):
        return _generator(name).uniform(0.1, 0.3, shape).astype(np.float32)
    return golden_values(name, shape)


def golden_values(name: str, shape: Sequence[int]) -> np.ndarray:
    """A parameter of the network that reference logits belong to: a function of its name and shape, float32."""
    rng = _generator(name)
    if len(shape) == 4:
        values = rng.standard_normal(shape) * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
    elif len(shape) == 2:
        values = rng.standard_normal(shape) / np.sqrt(shape[0])
    elif name.endswith(("_mean", "bias")):
        values = 0.1 * rng.standard_normal(shape)
    else:
        values = rng.uniform(0.5, 1.5, shape)
    return values.astype(np.float32)


def _generator(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))
