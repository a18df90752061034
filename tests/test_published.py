"""Learning rates, architectures and training steps equal those of the published code."""

from __future__ import annotations

import copy
import functools
import json
import math
import operator
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paddle
import pytest
from conftest import REPOSITORY

from paddle_pgonas.config.loading import CONFIGS, Train, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.methods.published import baseline_subnet, pgonas_subnet, published_generator
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.published import LEARNING_RATES, STEPS
from paddle_pgonas.published.compare import Outcome, compare
from paddle_pgonas.published.reference import CONFIGURATIONS, Reference, configuration, read_reference
from paddle_pgonas.published.replay import Signs, repeat, replay
from paddle_pgonas.space.arch import MINI, TRACK1
from paddle_pgonas.training.schedules import learning_rate

RATES: list[dict[str, Any]] = json.loads(LEARNING_RATES.read_text())


@pytest.mark.parametrize("case", RATES, ids=lambda case: f"{case['gpus']}x{case['steps_per_epoch']}")
def test_every_published_learning_rate(case: dict[str, Any]) -> None:
    settings = Train(schedule="published")
    for step, rate in case["lr"].items():
        ours = learning_rate(settings, int(step), case["steps_per_epoch"], 256 * case["gpus"])
        assert ours == pytest.approx(rate, rel=0, abs=1e-9), step


def test_published_draws_exist_for_the_published_methods_alone() -> None:
    assert load_config(CONFIGS / "demo.yaml", ["method.sampler=published"]).method.sampler == "published"
    with pytest.raises(UserError, match=r"method\.sampler"):
        load_config(CONFIGS / "demo.yaml", ["method={name: progressive, sampler: published}"])


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_every_published_architecture_is_drawn_again(path: Path) -> None:
    reference = json.loads(path.read_text())
    passes = len(reference["codes"]) // len(reference["image_seeds"])
    for step in range(3):
        rng = published_generator(step, reference["epoch"])
        codes = reference["codes"][step * passes : (step + 1) * passes]
        if reference["method"] == "pgonas":
            assert codes[:2] == [TRACK1.largest.code, TRACK1.smallest.code]
            rng.choice([224]), rng.choice([224])  # the image sizes of these two
            assert [pgonas_subnet(TRACK1, rng).code for _ in codes[2:]] == codes[2:]
        else:
            assert [baseline_subnet(TRACK1, rng).code for _ in codes] == codes


def numbers(values: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a JSON value stand."""
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from numbers(value, *path, key)
    elif isinstance(values, float):
        yield path


def changed(values: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy of a JSON object with one value changed."""
    values = copy.deepcopy(values)
    within = functools.reduce(operator.getitem, path[:-1], values)
    within[path[-1]] = change(within[path[-1]])
    return values


def apart(values: dict[str, Any], outcome: Outcome) -> set[str]:
    """The quantities in which an outcome is not the reference's."""
    return {entry.quantity for entry in compare(Reference.model_validate(values), outcome) if not entry.within}


ONE = [path if "pgonas" in path.stem else pytest.param(path, marks=pytest.mark.slow) for path in STEPS]


@pytest.mark.parametrize("path", ONE, ids=[path.stem for path in STEPS])
def test_the_first_published_step_comes_out_and_a_value_off_by_a_thousandth_does_not(path: Path) -> None:
    outcome = repeat(read_reference(path), ["device=cpu"], steps=1)
    values = json.loads(path.read_text())
    assert apart(values, outcome) == set()
    norm = "gradients", 0, "blocks.24.fc.bias", "norm"
    for place in (next(numbers(values["losses"], "losses")), next(numbers(values["lr"], "lr")), norm):
        assert apart(changed(values, place, lambda value: value * 1.001), outcome), place


@pytest.mark.slow
@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_the_published_steps_come_out_and_a_value_off_by_a_thousandth_does_not(path: Path) -> None:
    """One replay for all: of gradients, what is below a hundredth of its tensor's usual size drowns in rounding."""
    outcome = repeat(read_reference(path), ["device=cpu"])
    values = json.loads(path.read_text())
    assert apart(values, outcome) == set()

    results = ("losses", "rank_losses", "lr", "gradients", "final_weights")
    places = [place for key in results if key in values for place in numbers(values[key], key)]
    places = [place for place in places if functools.reduce(operator.getitem, place, values) != 0]
    few = [place for place in places if place[0] not in ("gradients", "final_weights")]
    missed = []
    for place in few + random.Random(0).sample(places, 100):
        if not apart(changed(values, place, lambda value: value * 1.001), outcome):
            missed.append(place)
    assert len(missed) <= 6, missed
    assert all(place[0] == "gradients" and ("at" in place or "sum" in place) for place in missed), missed

    assert apart(changed(values, ("codes", 1), lambda code: TRACK1.largest.code), outcome) == {"architectures"}
    assert "losses" in apart(values, replace(outcome, steps=[replace(outcome.steps[0], losses=[math.nan])]))
    for name in ("blocks.24.fc.bias", "blocks.1.conv1.weight"):  # a gradient that only one side has
        without = {other: tensor for other, tensor in outcome.steps[0].gradients.items() if other != name}
        assert "gradient norms" in apart(values, replace(outcome, steps=[replace(outcome.steps[0], gradients=without)]))
        lacking = changed(values, ("gradients", 0), lambda gradients, name=name: gradients.pop(name) and gradients)
        assert "gradient norms" in apart(lacking, outcome)


def test_few_activations_of_a_diverged_network_are_taken_for_rounding() -> None:
    """Beside an infinite one all are near zero; a list of them all took minutes."""
    net = Supernet(MINI, 10, bn="frozen")
    signs = Signs(net)
    signs.start_step(set())
    net(paddle.full([2, 3, 32, 32], 1e38))
    signs.end_step()
    assert 0 < len(signs.near_zero[0]) < 2000


@pytest.mark.gpu
def test_the_published_steps_come_out_on_a_gpu() -> None:
    """In a process of its own, because TF32 can only be turned off before the first computation on a GPU."""
    command = [sys.executable, "tools/verify_published.py", "--device", "gpu"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("override", ["model.reorder=false", "model.bn=batch"])
def test_another_configuration_is_told_apart(override: str) -> None:
    assert not all(entry.within for entry in replay(STEPS[1], "cpu", [override], steps=1))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("gpus",), 8),
        (("prior",), "params"),
        (("epoch",), 5.005),
        (("batch_size",), 10**6),
        (("momentum",), 1.5),
        (("image_seeds", 1), -1),
        (("label_seeds",), [1, 2]),
        (("losses",), []),
        (("losses", 0), "11.8"),
        (("rank_losses",), [0.0]),
        (("gradients", 0), {"blocks.0.conv.weight": {"norm": 1.0, "note": 1}}),
        (("final_weights", "blocks.0.bn.bias", "norm"), math.inf),
        (("final_weights", "blocks.0.bn.bias", "at"), [0.0] * 4),
        (("codes",), None),
    ],
)
def test_what_is_no_reference_is_one_line(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    target = tmp_path / "reference.json"
    target.write_text(json.dumps(changed(json.loads(STEPS[0].read_text()), place, lambda _: value)))
    with pytest.raises(UserError, match=rf"reference\.json: .*{place[0]}"):
        read_reference(target)


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_the_as_published_configuration_says_what_the_reference_says(path: Path, tmp_path: Path) -> None:
    """The replay sets the reference's own values; only these may differ from the configuration that users run."""
    reference = read_reference(path)
    shipped = load_config(CONFIGS / "track1" / CONFIGURATIONS[reference.method, reference.prior])
    replayed = configuration(reference, tmp_path / "weights.safetensors", [])
    scaled = {"data": {"image_size", "resize"}, "model": {"pretrained"}, "train": {"batch_size", "lr_per_256", "teacher"}}
    for section, keys in {"data": set(), "model": set(), "train": set(), "score": set(), **scaled}.items():
        assert getattr(replayed, section).model_dump(exclude=keys) == getattr(shipped, section).model_dump(exclude=keys)


def test_references_of_other_settings_are_read(tmp_path: Path) -> None:
    """Activation, epoch, seeds, sizes, priors and the number of passes are the file's own."""
    values = json.loads(STEPS[0].read_text())
    values |= {"activation": "mish", "prior": "zen", "epoch": 0, "batch_size": 2, "image_size": 32, "note": "not read"}
    for key in ("image_seeds", "label_seeds", "lr", "gradients"):
        values[key] = values[key][:1]
    values["codes"], values["losses"], values["rank_losses"] = values["codes"][:10], values["losses"][:10], [0.0] * 3
    target = tmp_path / "reference.json"
    target.write_text(json.dumps(values))
    config = configuration(read_reference(target), tmp_path / "weights.safetensors", [])
    assert (config.model.activation, config.method.prior, config.method.pairs, config.train.batch_size) == ("mish", "zen", 3, 2)
    assert config.model.reorder
    assert config.model.bn == "frozen"
