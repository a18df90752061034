"""As published, proven: learning rates, architectures and training steps of the published code come out of this project's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paddle_pgonas.arch import TRACK1
from paddle_pgonas.config import CONFIGS, Train, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.published import LEARNING_RATES, STEPS
from paddle_pgonas.published.replay import read_reference, replay
from paddle_pgonas.training.samplers import draw_published_baseline, draw_published_pgonas, published_generator
from paddle_pgonas.training.schedules import learning_rate

RATES: list[dict[str, Any]] = json.loads(LEARNING_RATES.read_text())


@pytest.mark.parametrize("case", RATES, ids=lambda case: f"{case['gpus']}x{case['steps_per_epoch']}")
def test_every_published_learning_rate(case: dict[str, Any]) -> None:
    settings = Train(schedule="published")
    for step, rate in case["lr"].items():
        ours = learning_rate(settings, int(step), case["steps_per_epoch"], 256 * case["gpus"])
        assert ours == pytest.approx(rate, rel=0, abs=1e-9), step


def test_published_draws_exist_for_the_published_strategies_alone() -> None:
    assert load_config(CONFIGS / "demo.yaml", ["train.draws=published"]).train.draws == "published"
    with pytest.raises(UserError, match=r"train\.draws"):
        load_config(CONFIGS / "demo.yaml", ["train.draws=published", "train.strategy=progressive"])


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
            assert [draw_published_pgonas(TRACK1, rng).code for _ in codes[2:]] == codes[2:]
        else:
            assert [draw_published_baseline(TRACK1, rng).code for _ in codes] == codes


def perturbed(path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    reference = json.loads(path.read_text())
    change(reference)
    target = tmp_path / "reference.json"
    target.write_text(json.dumps(reference))
    return target


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_the_published_steps_come_out(path: Path) -> None:
    differences = replay(path, "cpu")
    assert all(entry.within for entry in differences), [entry for entry in differences if not entry.within]
    assert {entry.step for entry in differences} == {0, 1, 2, None}
    assert {"losses", "gradients", "learning rate", "final weights"} <= {entry.quantity for entry in differences}


@pytest.mark.gpu
@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_the_published_steps_come_out_on_a_gpu(path: Path) -> None:
    assert all(entry.within for entry in replay(path, "gpu"))


@pytest.mark.parametrize("override", ["model.reorder=false", "model.bn=batch"])
def test_another_configuration_is_told_apart(override: str) -> None:
    assert not all(entry.within for entry in replay(STEPS[1], "cpu", [override], steps=1))


def test_a_changed_reference_is_told_apart(tmp_path: Path) -> None:
    """Each of these values is off by a thousandth, in one replay of one step."""

    def change(reference: dict[str, Any]) -> None:
        reference["losses"][1][1] *= 1.001
        reference["lr"][0] *= 1.001
        reference["codes"][1] = TRACK1.smallest.code
        reference["gradients"][0]["blocks.24.fc.weight"]["norm"] *= 1.001

    differences = replay(perturbed(STEPS[1], tmp_path, change), "cpu", steps=1)
    assert {entry.quantity for entry in differences if not entry.within} == {
        "architectures",
        "losses",
        "learning rate",
        "gradients",
    }


@pytest.mark.parametrize(("key", "value"), [("gpus", 8), ("prior", "params"), ("losses", None)])
def test_what_is_no_reference_is_one_line(tmp_path: Path, key: str, value: Any) -> None:
    def change(reference: dict[str, Any]) -> None:
        reference.pop(key) if value is None else reference.update({key: value})

    with pytest.raises(UserError, match=r"reference\.json"):
        read_reference(perturbed(STEPS[0], tmp_path, change))
