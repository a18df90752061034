"""The measurements of speed compare two ways that give the same numbers, and report both times and their ratio."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import REPOSITORY, assert_one_line, flops, zen

from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.elastic import conv2d
from paddle_pgonas.searching.evolution import Task
from paddle_pgonas.space.arch import MINI, TRACK1, SearchSpace
from studies.speed import data, priors, scoring, search, training


def test_without_a_checkout_the_tool_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    script = shutil.copy(REPOSITORY / "tools" / "benchmark.py", tmp_path / "tools")
    run = subprocess.run([sys.executable, script, "prior"], capture_output=True, text=True, check=False)
    assert_one_line(run.returncode, run.stderr, "in a checkout")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
def test_convolution_equals_paddles_at_any_size(side: int, kernel: int, stride: int) -> None:
    rng = np.random.RandomState(0)
    x = paddle.to_tensor(rng.standard_normal((4, 6, side, side)).astype("float32"))
    weight = paddle.to_tensor(rng.standard_normal((5, 6, kernel, kernel)).astype("float32"))
    wanted = F.conv2d(x, weight, stride=stride, padding=kernel // 2).numpy()
    np.testing.assert_allclose(conv2d(x, weight, stride).numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_score_benchmark_compares_equal_logits() -> None:
    figures = scoring.measure(subnets=4, images=2, side=32, rounds=2)
    assert figures["same_predictions"]
    assert figures["largest_relative_difference"] < 1e-5
    assert figures["macs_ratio"] > 1
    assert figures["speedup"] > 0


@pytest.mark.slow
def test_prior_benchmark_reports_every_prior_and_the_agreement() -> None:
    figures = priors.measure(subnets=3)
    assert set(figures["microseconds"]) == {"flops", "params", "zen", "zen_mc"}
    assert set(figures["seconds_at_initialisation"]) == {"near", "snip", "grad_norm", "naswot"}
    assert figures["spearman_zen"] == pytest.approx(1)


@pytest.mark.slow
def test_train_benchmark_reports_both_ratios() -> None:
    figures = training.measure_steps(batch=1, side=32, steps=1)
    assert figures["speedup"] > 0
    assert figures["overhead"] > 0


def test_search_benchmark_gives_both_searches_the_same_budget() -> None:
    task = zen_task(MINI, 3e6)
    figures = search.compare(task, population=8, generations=4, seeds=2)
    assert figures["scored"] == figures["scored_random"]
    assert 0 < figures["mean_area"]["random"] <= 1
    assert len(figures["best"]["nsga2"]) == 2


def test_data_benchmark_compares_equal_batches_on_the_digits() -> None:
    figures = data.measure(images=100, rounds=1)
    assert figures["same_pixels"]
    assert set(figures["speedup"]) == {"scoring", "training"}
    assert min(figures["images_per_second"].values()) > 0


def test_data_benchmark_takes_a_folder_and_names_what_is_no_image(image_folder: Path) -> None:
    with pytest.raises(UserError, match="without"):
        data.measure(str(image_folder), rounds=1)
    for split, name in (("train", "bright"), ("val", "dark")):
        (image_folder / split / name / "0.png").unlink()
    figures = data.measure(str(image_folder), rounds=1)
    assert (figures["side"], figures["images"]) == (224, {"scoring": 7, "training": 11})
    assert figures["same_pixels"]
    assert min(figures["speedup"].values()) > 0


def zen_task(space: SearchSpace, limit: float) -> Task:
    return Task(space, lambda arch: {"macs": flops(arch)}, {"macs": limit}, "macs", lambda archs: list(map(zen, archs)))


def test_evolution_beats_random_search_of_equal_budget_on_zen_score() -> None:
    gains = []
    for seed in range(4):
        evolved = search.evolve(zen_task(TRACK1, 2e9), 32, 10, seed)
        drawn = search.random_search(zen_task(TRACK1, 2e9), len(evolved), seed)
        assert len(drawn) == len(evolved)
        gains.append(max(entry.score for entry in evolved) - max(entry.score for entry in drawn))
    assert np.mean(gains) > 0  # one search may be unlucky


def test_random_search_keeps_the_limit_and_gives_up_where_there_is_nothing() -> None:
    drawn = search.random_search(zen_task(MINI, 3e6), 20, seed=0)
    assert len({entry.arch for entry in drawn}) == 20
    assert max(entry.costs["macs"] for entry in drawn) <= 3e6
    assert search.random_search(zen_task(MINI, 1.0), 3, seed=0, patience=10) == []
