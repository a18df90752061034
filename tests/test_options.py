"""Every option of every section works, or is refused by name: for each method, for stand-alone training and for scoring."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from paddle_pgonas.config.loading import Config
from paddle_pgonas.data.images import open_images
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.methods import METHODS
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights, read_arrays
from paddle_pgonas.scores.files import sample_candidates, write_scores
from paddle_pgonas.scoring.scorer import score
from paddle_pgonas.training.standalone import train_standalone
from paddle_pgonas.training.trainer import train

TAUGHT = ("uniform", "progressive", "phases", "largest")
SANDWICHES = ("sandwich", "fair_sandwich", "balanced_sandwich", "pgonas")
SAMPLED = ("uniform", "sandwich", "pgonas")

Values = Mapping[str, Any]


class Option(NamedTuple):
    """Another value of a key, the strategies that make use of it, and what it needs beside it."""

    name: str
    value: Any
    users: tuple[str, ...] = tuple(METHODS)
    alone: bool = False
    """Whether stand-alone training makes use of it too."""
    needs: Values = MappingProxyType({})


RANKS = {"method.rank_lambda": "constant", "method.pairs": 4}
TEACHER, KL, WATCH = {"method.teacher": "TEACHER"}, {"method.distillation": "kl"}, {"train.watch_images": 20}
TRAINING = [
    Option("seed", 1, alone=True),
    Option("data.image_size", 10, alone=True, needs={"data.resize": 10}),
    Option("data.augment", "shift", alone=True),
    Option("data.mean", (0.1, 0.1, 0.1), alone=True),
    Option("data.std", (0.5, 0.5, 0.5), alone=True),
    Option("data.train_limit", 12, alone=True),
    Option("model.num_classes", 11, alone=True),
    Option("model.activation", "mish", alone=True),
    Option("model.pretrained", "TEACHER"),
    Option("model.reorder", False, needs={"model.pretrained": "TEACHER"}),
    Option("model.bn", "frozen"),
    Option("train.epochs", 3, alone=True),
    Option("train.max_steps", 3, alone=True),
    Option("train.batch_size", 2, alone=True),
    Option("train.accumulate", 2, alone=True),
    Option("train.clip_grad_norm", 0.01, alone=True),
    Option("train.lr_per_256", 3.0, alone=True),
    Option("train.momentum", 0.5, alone=True),
    Option("train.weight_decay", 0.1, alone=True),
    Option("train.schedule", "published", alone=True),
    Option("train.warmup_epochs", 0.0, alone=True),
    Option("train.warmup_images", 16, alone=True, needs={"train.schedule": "published"}),
    Option("train.log_every", 3, alone=True),
    Option("train.checkpoint_every", 2),
    Option("train.keep_checkpoints", 1),
    Option("train.unused_parameters", "no_gradient", needs={"train.weight_decay": 0.1}),
    Option("method.random_subnets", 3),
    Option("train.narrowest_codes", (2, 2)),
    Option("train.depth_ranges", ((1, 1), (1, 2))),
    Option("method.sampler", "published", SAMPLED),
    Option("method.candidates", "OTHERS", SAMPLED, needs={"method.sampler": "candidates", "method.candidates": "CANDIDATES"}),
    Option("method.largest_of", 2, ("largest",)),
    Option("method.choices", 5, ("balanced_sandwich",)),
    Option("method.teacher", "TEACHER", TAUGHT),
    Option("method.distillation", "alpha", SANDWICHES),
    Option("method.distillation", "alpha", TAUGHT, needs=TEACHER),
    Option("method.temperature", 3.0, SANDWICHES, needs=KL),
    Option("method.temperature", 3.0, TAUGHT, needs=KL | TEACHER),
    Option("method.label_epochs", 1, SANDWICHES),
    Option("method.prior", "zen", ("pgonas",), needs=RANKS),
    Option("method.pairs", 3, ("pgonas",), needs=RANKS),
    Option("method.pair_distance", 6, ("pgonas",), needs=RANKS),
    Option("method.pair_ratio", 1.5, ("pgonas",), needs=RANKS),
    Option("method.rank_gradient", "both", ("pgonas",), needs=RANKS),
    Option("method.equal_priors", "second_worse", ("pgonas",), needs=RANKS | {"train.narrowest_codes": (1, 1)}),
    Option("method.rank_lambda", "sine", ("pgonas",), needs=RANKS),
    Option("method.stretch_lambda", True, ("pgonas",)),
    Option("method.rank_weight", 2.0, ("pgonas",), needs=RANKS),
    Option("train.watch_images", 20),
    Option("train.watch_at", (0.0, 0.5), needs=WATCH),
    Option("train.watch_subnets", 5, needs=WATCH),
    Option("train.watch_prior", "params", needs=WATCH | {"train.watch_subnets": 5}),
    Option("train.watch_truth", "TRUTH", needs=WATCH),
]
SCORING = [
    Option("data.resize", 12, alone=True),
    Option("data.val_limit", 10, alone=True),
    Option("score.bn", "batch"),
    Option("score.calibration_images", 5),
    Option("score.calibration_batch", 4),
]
OTHERS = {"space", "device", "output_dir", "exhaustive_search", "model.mismatch"}
OTHERS |= {f"data.{name}" for name in ("source", "root", "train_list", "val_list", "cache_dir", "workers", "max_unreadable")}
OTHERS |= {
    "model.mismatch",
    "method",
    "method.name",
    "train.amp",
    "score.amp",
    "method.pair_losses",
    "score.batch_size",
    "exhaustive_search",
}
"""Where things lie and how fast they go, or what needs a GPU or two processes: not for a table of values."""


def test_no_key_is_missing_here() -> None:
    def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
        sections = {name: field.annotation for name, field in model.model_fields.items() if isinstance(field.default, BaseModel)}
        names = {prefix + name for name in model.model_fields if name not in sections}
        return names.union(*(keys(section, f"{name}.") for name, section in sections.items() if section))

    of_methods = {f"method.{name}" for options in METHODS.values() for name in options.model_fields}
    assert keys(Config) | of_methods == {option.name for option in TRAINING + SCORING} | OTHERS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Four steps in a space of two small stages."""
    fields = {"bases": (8, 12), "max_depths": (2, 2), "min_depth": 1, "ratios": (1.0, 0.75, 0.5), "divisor": 1, "image_size": 8}
    space = fields | {"name": "two_stages", "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
    data = {"source": "digits", "image_size": 8, "resize": 8, "augment": "none", "workers": 0, "train_limit": 8, "val_limit": 40}
    recipe = {"epochs": 2, "batch_size": 4, "lr_per_256": 6.0, "warmup_epochs": 1.0, "log_every": 1}
    folder = str(tmp_path_factory.mktemp("options"))
    return Config().changed(
        space=space,
        device="cpu",
        output_dir=folder,
        data=data,
        model={"num_classes": 10},
        train=recipe,
        score={"bn": "calibrated"},
    )


@pytest.fixture(scope="module")
def files(base: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What options name: weights of the full network, candidates, a truth."""
    folder, space = tmp_path_factory.mktemp("files"), base.search_space
    made = {name: str(folder / name) for name in ("CANDIDATES", "OTHERS", "TRUTH")} | {"TEACHER": str(folder / "t.safetensors")}
    for seed, name in enumerate(("CANDIDATES", "OTHERS", "TRUTH")):
        candidates = sample_candidates(space, 6, seed)
        write_scores(made[name], candidates, [number / 10 for number in range(6)])
    train_standalone(base.changed(output_dir=str(folder), train={"max_steps": 1}), space.largest, made["TEACHER"])
    return made


def changed(base: Config, files: Mapping[str, str], values: Values) -> Config:
    """The configuration with these values of ``section.key``; ``method`` is the name of the method."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        *section, key = ("method", "name") if name == "method" else name.split(".")
        place = changes.setdefault(section[0], {}) if section else changes
        place[key] = files.get(value, value) if isinstance(value, str) else value
    return base.changed(**changes)


Outcome = tuple[Any, ...]


@pytest.fixture(scope="module")
def outcome(base: Config, files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a training leaves: weights, log without times, checkpoints."""

    @functools.cache
    def run(method: str | None, values: tuple[tuple[str, Any], ...]) -> Outcome:
        folder = tmp_path_factory.mktemp("run")
        own: Values = {} if method is None else {"method": method}
        config = changed(base, files, {**own, **dict(values)}).changed(output_dir=str(folder))
        if method is None:
            weights = folder / "weights.safetensors"
            train_standalone(config, config.search_space.smallest, weights)
        else:
            weights = train(config)
        digest = hashlib.sha256(b"".join(array.tobytes() for _, array in sorted(read_arrays(weights)[0].items())))
        [log] = folder.rglob("metrics.jsonl")
        lines = [{name: line[name] for name in line if not name.endswith("second") and name != "seconds"}
                 for line in read_json_lines(log)]  # fmt: skip
        return digest.hexdigest(), str(lines), sorted(path.name for path in folder.glob("checkpoints/*"))

    return lambda method, values: run(method, tuple(values.items()))


def named(option: Option) -> str:
    return f"{option.name}={option.value}"


@pytest.mark.parametrize("option", TRAINING + SCORING, ids=named)
def test_a_method_uses_an_option_or_refuses_it_by_name(option: Option, base: Config, files: dict[str, str]) -> None:
    for method in METHODS:
        try:
            needed = changed(base, files, {"method": method, **option.needs})
        except UserError:
            assert method not in option.users
            continue
        if method in option.users:
            changed(needed, files, {option.name: option.value})
        else:
            with pytest.raises(UserError, match=f"{option.name} (is no key of the method {method}|is .*, but only)"):
                changed(needed, files, {option.name: option.value})


@pytest.mark.parametrize(
    ("name", "value", "without"),
    [
        ("data.root", "images", {}),
        ("model.reorder", False, {}),
        ("train.warmup_images", 16, {}),
        ("train.warmup_epochs", 2.0, {"train.schedule": "restarts"}),
        ("method.candidates", "CANDIDATES", {}),
        ("train.narrowest_codes", (2, 2), {"method.sampler": "published"}),
        ("method.distillation", "alpha", {"method": "uniform"}),
        ("method.temperature", 3.0, {}),
        ("train.watch_at", (0.5,), {}),
        ("train.watch_subnets", 5, {}),
        ("train.watch_truth", "TRUTH", {}),
        ("train.watch_prior", "zen", {}),
    ],
)
def test_an_option_without_what_it_needs_is_refused(
    name: str, value: Any, without: Values, base: Config, files: dict[str, str]
) -> None:
    config = changed(base, files, {"method": "pgonas", "train.warmup_epochs": 5.0} | without)
    with pytest.raises(UserError, match=rf"{name}(:| is ).*; set (it|{name})"):
        changed(config, files, {name: value})


@pytest.mark.parametrize("method", ["uniform", "pgonas", None])
def test_a_run_leaves_the_same_twice(method: str | None, outcome: Any) -> None:
    """So that a difference below is the option's."""
    assert outcome(method, {}) == outcome(method, {"seed": 0})


USED = [
    pytest.param(option, user, marks=[pytest.mark.slow] if number else [], id=f"{named(option)}-{user}")
    for option in TRAINING
    for number, user in enumerate(("uniform",) if option.users == tuple(METHODS) else option.users)
]


@pytest.mark.parametrize(("option", "method"), USED)
def test_an_option_that_is_accepted_changes_something(option: Option, method: str, outcome: Any) -> None:
    assert outcome(method, option.needs) != outcome(method, {**option.needs, option.name: option.value})


@pytest.mark.parametrize("option", [option for option in TRAINING if option.alone], ids=named)
def test_stand_alone_training_makes_use_of_an_option(option: Option, outcome: Any) -> None:
    assert outcome(None, option.needs) != outcome(None, {**option.needs, option.name: option.value})


KEPT = ("train.checkpoint_every", "train.keep_checkpoints")  # of checkpoints that are gone in the end


@pytest.mark.parametrize("option", [option for option in TRAINING + SCORING if not option.alone], ids=named)
def test_stand_alone_training_refuses_the_others_by_name(option: Option, base: Config, files: dict[str, str]) -> None:
    users = "pgonas" if "pgonas" in option.users else option.users[0]
    own = {"method": users} if option.name.startswith("method.") else {}
    config = changed(base, files, {**own, **option.needs, option.name: option.value})
    if option.name in KEPT:
        train_standalone(config.changed(train={"max_steps": 1}), config.search_space.smallest)
        return
    refused = "|".join(("method", *option.needs, option.name))
    with pytest.raises(UserError, match=f"stand-alone training makes no use of ({refused})="):
        train_standalone(config, config.search_space.smallest)


@pytest.fixture(scope="module")
def supernet(base: Config, tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """Trained for four steps."""
    net = Supernet(base.search_space, 10)
    load_weights(net, train(base.changed(output_dir=str(tmp_path_factory.mktemp("supernet")), method="pgonas")))
    return net


@pytest.mark.parametrize("option", SCORING, ids=named)
def test_scoring_makes_use_of_an_option(option: Option, base: Config, files: dict[str, str], supernet: Supernet) -> None:
    archs = [base.search_space.smallest, base.search_space.largest]
    ours, theirs = (
        score(supernet, archs, open_images(config).for_scoring(config.score), config.data, config.score)
        for config in (base, changed(base, files, {option.name: option.value}))
    )
    assert (ours != theirs).any()


@pytest.mark.parametrize("method", [*METHODS, None])
def test_mixed_precision_is_refused_on_a_cpu(method: str | None, base: Config, tmp_path: Path) -> None:
    config = base.changed(output_dir=str(tmp_path), method=method, train={"amp": "bf16"})
    with pytest.raises(UserError, match=r"train\.amp: bf16 needs a GPU"):
        train(config) if method else train_standalone(config, config.search_space.smallest)
