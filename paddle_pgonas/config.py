"""The whole configuration: defaults stand here, once; a YAML file states its differences; an override states its own.

A file may name another one under ``base:`` (relative to itself) and then holds only what differs from it. Unknown keys, wrong
types and impossible values stop the run with one line that names the file (or override) and the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from paddle_pgonas.arch import SPACES, SearchSpace
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import write_text

_PACKAGE = Path(__file__).parent
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""The folder of the configurations that come with the project: inside the installed package, beside it in a checkout."""


@dataclass(frozen=True)
class Data:
    """Where images come from and what is done to them before the network sees them."""

    source: Literal["folder", "digits"] = "folder"
    """``folder``: ``root/train/<class>/*``, ``root/val/<class>/*``. ``digits``: scikit-learn's handwritten digits."""
    root: str | None = None
    """The folder; not used by ``digits``."""
    cache_dir: str | None = None
    """Where decoded validation images are kept; null means ``<output_dir>/cache``."""
    image_size: int = 224
    """Side of the square that the network sees, in pixels."""
    resize: int = 256
    """Evaluation: shorter side before the centre crop (equal to ``image_size`` means no margin)."""
    augment: Literal["crop_flip", "shift_flip", "shift", "none"] = "crop_flip"
    """Training: random resized crop and flip (ImageNet); shift by an eighth at most, with or without flip (small images)."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    workers: int = 4
    """Loader processes for training images; 0 loads in the training process."""
    train_limit: int | None = None
    """Train with only so many images, taken evenly from the list (so evenly from the classes)."""
    val_limit: int | None = None
    """Score with only so many validation images, taken evenly from the list."""
    max_unreadable: float = 0.01
    """Images that cannot be read are named and left out, up to this share (rounded up) of those that a job takes."""


@dataclass(frozen=True)
class Model:
    """The supernet."""

    num_classes: int = 1000
    activation: Literal["relu", "prelu", "swish", "mish", "selu"] = "relu"
    """Activation behind each residual sum; the one inside a block stays ReLU."""
    pretrained: str | None = None
    """Weights of the full network to start from (.pdparams or .safetensors); null starts from random weights."""
    reorder: bool = True
    """Sort the inner channels of pretrained blocks by importance, so that narrow subnets inherit the best."""
    bn: Literal["batch", "frozen", "sync"] = "batch"
    """BatchNorm in training: ``batch`` statistics that update the running ones, the same over all processes' images (``sync``),
    or the pretrained ones, ``frozen``."""


@dataclass(frozen=True)
class Train:
    """How the supernet is trained."""

    strategy: Literal["uniform", "progressive", "sandwich", "fair_sandwich", "pgonas"] = "pgonas"
    """``uniform``: random subnets (SPOS, the official baseline). ``progressive``: the same from a space that opens in phases
    (once-for-all). ``sandwich``: largest, smallest and random ones. ``fair_sandwich``: the random ones share no choice
    (FairNAS). ``pgonas``: the sandwich and the rank loss."""
    epochs: int = 70
    max_steps: int | None = None
    """Stop after so many steps, whatever the epochs say; the schedules stay those of the whole run."""
    batch_size: int = 256
    """Images per step and process."""
    accumulate: int = 1
    """Take each batch in so many parts, one after the other, so that it fits into a small GPU: gradients are averaged,
    BatchNorm and the rank loss see one part at a time."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision (GPU only); ``fp16`` scales the loss."""
    clip_grad_norm: float | None = None
    """Scale the gradient down to this norm where it is longer; null leaves it."""
    lr_per_256: float = 0.001
    """Highest learning rate per 256 images of a step's whole batch, all processes together: doubling it doubles the rate."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["cosine", "published"] = "cosine"
    """``cosine``: linear warm-up, then cosine to 0, both per step. ``published``: warm-up counted for ``warmup_images`` an
    epoch, then one cosine step per epoch."""
    warmup_epochs: float = 5
    warmup_images: int = 1281024
    """``published`` only: the images per epoch that the warm-up was counted for (ImageNet's, whatever the data)."""
    draws: Literal["seed", "published"] = "seed"
    """Where random subnets come from: ``seed`` and step, each free choice drawn once; or, as ``published``, the step and epoch
    alone, in the order of the published PGONAS code (``uniform``: of the organisers' baseline)."""
    unused_parameters: Literal["zero_gradient", "no_gradient"] = "zero_gradient"
    """Parameters that no step has used yet: weight decay shrinks them from the first step on, as it does all others; or they stay
    as they are until their first use (as published)."""
    random_subnets: int = 2
    """Random subnets per step: the only ones, or those beside the sandwich's largest and smallest."""
    teacher: str | None = None
    """``uniform``, ``progressive``: weights of a fixed full network to distil from; null trains with labels alone."""
    distillation: Literal["soft_ce", "kl", "alpha"] = "soft_ce"
    """Soft cross-entropy (as published), KL divergence at ``temperature``, or AlphaNet's adaptive alpha-divergence."""
    temperature: float = 1.0
    """``kl`` only."""
    label_epochs: int = 0
    """Sandwich: first epochs in which the smaller subnets learn from the labels. From random weights the largest has nothing to
    teach, and three losses that hold it where it is slow it down; a pretrained network needs none (as published)."""
    prior: Literal["flops", "params", "zen"] = "flops"
    """``pgonas``: which number, known without training, says which of two subnets should have the lower loss."""
    pairs: int = 2
    """``pgonas``: how many pairs of random subnets per step."""
    pair_distance: int = 0
    """``pgonas``: redraw the second subnet until the codes differ in at least so many digits (33 with Zen-score)."""
    pair_ratio: float = 1.0
    """``pgonas``: redraw the pair until one prior is at least so many times the other (1 takes any pair, as published)."""
    rank_gradient: Literal["second", "both", "better"] = "second"
    """``pgonas``: the side of a pair that learns: the one drawn second (as published), both, or the one with the better prior."""
    equal_priors: Literal["skip", "second_worse"] = "skip"
    """``pgonas``: a pair of equal priors is left out, or its second subnet is taken for the worse (as published)."""
    pair_losses: Literal["all_processes", "per_process"] = "all_processes"
    """``pgonas``: whether a pair is in order is decided on the losses over all processes' images, or by each process on its own
    images (as published)."""
    rank_lambda: Literal["warmup", "constant", "sine", "multi_stage"] = "warmup"
    """``pgonas``: the weight of the rank loss over the epochs."""
    stretch_lambda: bool = False
    """Go through the published 70 epochs' weights by seventieths of the run, for shorter or longer runs."""
    rank_weight: float = 1.0
    """Factor on the rank loss's weight (1 as published)."""
    log_every: int = 10
    """Steps between lines of the log."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    keep_checkpoints: int = 2
    watch_images: int = 0
    """With every checkpoint, measure the smallest, middle and largest subnet on so many validation images; 0 watches nothing."""
    watch_subnets: int = 0
    """... and so many random subnets, for Kendall tau of their accuracies with the prior."""
    watch_truth: str | None = None
    """... and the subnets of this truth file, for Kendall tau with their stand-alone accuracies. Nothing is learnt from them."""


@dataclass(frozen=True)
class Score:
    """How subnets are scored."""

    bn: Literal["running", "calibrated", "batch"] = "calibrated"
    """Statistics of each subnet's BatchNorm: slices of the supernet's ``running`` ones (right for a supernet trained with
    ``model.bn: frozen``, else they mix all subnets), its own over the calibration images, or each batch's."""
    batch_size: int = 100
    calibration_images: int = 256
    """``calibrated``: how many training images, taken evenly from the list."""
    calibration_batch: int | None = None
    """``calibrated``: average the statistics over batches of so many images; null takes all images as one batch. Either way the
    result does not depend on ``batch_size``, which bounds the memory."""


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    space: Literal["track1", "mini", "track1_thin", "mini_thin"] = "track1"
    seed: int = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    output_dir: str = "runs/default"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    score: Score = field(default_factory=Score)

    @property
    def search_space(self) -> SearchSpace:
        """The space that ``space`` names."""
        return SPACES[self.space]


AT_LEAST: dict[str, float] = {
    "seed": 0,
    "data.image_size": 8,
    "data.resize": 8,
    "data.workers": 0,
    "data.train_limit": 1,
    "data.val_limit": 1,
    "data.max_unreadable": 0,
    "model.num_classes": 2,
    "train.epochs": 1,
    "train.max_steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.clip_grad_norm": 1e-6,
    "train.lr_per_256": 0,
    "train.temperature": 0.01,
    "train.momentum": 0,
    "train.weight_decay": 0,
    "train.warmup_epochs": 0,
    "train.warmup_images": 1,
    "train.random_subnets": 0,
    "train.pairs": 1,
    "train.pair_distance": 0,
    "train.pair_ratio": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "train.label_epochs": 0,
    "train.rank_weight": 0,
    "train.watch_images": 0,
    "train.watch_subnets": 0,
    "score.batch_size": 1,
    "score.calibration_images": 1,
    "score.calibration_batch": 1,
}


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a configuration file, follow its ``base:``, apply ``key=value`` overrides and check the result.

    Raises:
        UserError: a missing or unreadable file, an unknown key, a wrong type, an impossible value.
    """
    config = _apply(Config(), _read_with_bases(Path(path), ()))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"-o {override}: an override looks like key=value, for example train.batch_size=64")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"-o {override}: the value is not valid YAML; quote it") from None
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        config = _apply(config, [(f"-o {override}", value)])
    _check_values(config, str(path))
    return config


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration, every key spelled out, as YAML that :func:`load_config` reads back."""
    plain = dataclasses.asdict(config)
    for name in ("mean", "std"):
        plain["data"][name] = list(plain["data"][name])
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """The file's differences behind those of its bases, each with the name to blame in errors."""
    if path.resolve() in seen:
        raise UserError(f"{path}: the 'base:' entries form a circle")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the configuration is not valid YAML ({' '.join(str(error).split())})") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a set of 'key: value' lines")
    base = values.pop("base", None)
    if base is None:
        return [(str(path), values)]
    return [*_read_with_bases(path.parent / str(base), (*seen, path.resolve())), (str(path), values)]


def _apply(config: Config, layers: list[tuple[str, dict[str, Any]]]) -> Config:
    for source, values in layers:
        config = _merge(config, values, source, "")
    return config


def _merge(section: Any, values: Any, source: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix.rstrip('.')} is a section of keys, not the value {values!r}")
    hints = get_type_hints(type(section))
    changes = {}
    for key, value in values.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(hints)}"
            raise UserError(f"{source}: unknown key {prefix}{key}; {hint}")
        current = getattr(section, key)
        if dataclasses.is_dataclass(current):
            changes[key] = _merge(current, value, source, f"{prefix}{key}.")
        else:
            changes[key] = _convert(value, hints[key], source, f"{prefix}{key}")
    return dataclasses.replace(section, **changes)


def _convert(value: Any, hint: Any, source: str, key: str) -> Any:
    """The value as the annotated type, without guessing: 3 is a float where one is wanted, 3.0 is not an integer."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is types.UnionType:  # only `X | None` occurs
        return None if value is None else _convert(value, args[0], source, key)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{source}: {key} must be one of {', '.join(args)}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{source}: {key} must be a list of numbers, not {value!r}")
        return tuple(_convert(item, args[0], source, key) for item in value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # text too: YAML 1.1 reads 1e-3, which lacks the dot, as text
            value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{source}: {key} must be of type {hint.__name__}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{source}: {key} must be a finite number, not {value}")
    return value


def _check_values(config: Config, source: str) -> None:
    """Reject what has the right type and no meaning."""
    for key, low in AT_LEAST.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and value < low:
            raise UserError(f"{source}: {key} must be at least {low}, not {value}")
    data, train = config.data, config.train
    if len(data.mean) != 3 or len(data.std) != 3 or min(data.std) <= 0:
        raise UserError(f"{source}: data.mean and data.std need three numbers each (red, green, blue), those of std positive")
    if data.resize < data.image_size:
        raise UserError(f"{source}: data.resize ({data.resize}) must not be smaller than data.image_size ({data.image_size})")
    if train.strategy in ("uniform", "progressive") and train.random_subnets < 1:
        raise UserError(f"{source}: train.random_subnets must be at least 1 for the {train.strategy} strategy")
    if train.batch_size % train.accumulate:
        raise UserError(
            f"{source}: train.batch_size ({train.batch_size}) must be a multiple of train.accumulate ({train.accumulate})"
        )
    if train.draws == "published" and train.strategy in ("progressive", "fair_sandwich"):
        raise UserError(f"{source}: train.draws: published has no draws for the {train.strategy} strategy; use seed")
    if train.momentum >= 1:
        raise UserError(f"{source}: train.momentum must be below 1, not {train.momentum}")
