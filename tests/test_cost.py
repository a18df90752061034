"""Costs and priors: layer sums, the golden FLOPs and parameter counts, and the published totals of the candidate file."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, flops
from hypothesis import given
from hypothesis import strategies as st

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors import cost, geometry
from paddle_pgonas.priors.by_name import PRIORS, make_prior, prior_values, with_prior
from paddle_pgonas.priors.zen import zen_score
from paddle_pgonas.scores.files import sample_candidates
from paddle_pgonas.space.arch import MINI, SPACES, TRACK1, Arch, SearchSpace

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parent.parent / "shared"
GOLDEN: dict[str, Any] = json.loads((TESTS / "fixtures" / "golden_subnets.json").read_text(encoding="utf-8"))["subnets"]
RANDOM = st.randoms(use_true_random=False)


def convolutions(arch: Arch) -> list[geometry.Layer]:
    return geometry.convolutions(arch, 224)


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN.keys())
def test_macs_agree_with_paddle_flops(golden: dict[str, Any]) -> None:
    arch = TRACK1.parse(golden["arch"])
    batch_norms = 2 * sum(layer.c_out * layer.side**2 for layer in convolutions(arch))
    pool = 50 * arch.out_width  # the global average: 49 additions and a division
    assert flops(arch) + batch_norms + pool == golden["paddle_flops_224"]


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN.keys())
def test_params_agree_with_the_real_networks(golden: dict[str, Any]) -> None:
    arch = TRACK1.parse(golden["arch"])
    running_statistics = 2 * sum(layer.c_out for layer in convolutions(arch))  # Paddle counts them as parameters
    assert cost.params(arch, 1000) + running_statistics == golden["named_parameters_count"]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, classes=st.integers(2, 1000))
def test_params_are_weights_batch_norms_and_biases_of_the_layers(space: SearchSpace, rng: random.Random, classes: int) -> None:
    arch = space.sample(rng)
    *convs, linear = geometry.layers(arch, 32, classes)
    weights = sum(layer.c_in * layer.c_out * layer.kernel**2 for layer in (*convs, linear))
    assert cost.params(arch, classes) == weights + 2 * sum(layer.c_out for layer in convs) + linear.c_out


def test_a_small_network_costs_what_hand_arithmetic_says() -> None:
    tiny = replace(SPACES["mini"], bases=(4, 8), max_depths=(1, 1), ratios=(1.0,), divisor=2)
    arch = tiny.largest  # 3x3 stem to 4 channels, one block of 4, one of 8 with a 1x1 shortcut
    assert cost.macs(arch, 8, 10) == 64 * 3 * 4 * 9 + 64 * 2 * 4 * 4 * 9 + 16 * (4 * 8 * 9 + 8 * 8 * 9 + 4 * 8) + 8 * 10
    weights = 3 * 4 * 9 + 2 * 4 * 4 * 9 + 4 * 8 * 9 + 8 * 8 * 9 + 4 * 8 + 8 * 10
    assert cost.params(arch, 10) == weights + 2 * (4 + 4 + 4 + 8 + 8 + 8) + 10


def test_smallest_and_largest_cost_what_the_challenge_says() -> None:
    assert flops(TRACK1.smallest) / 1e9 == pytest.approx(0.94, abs=0.005)
    assert flops(TRACK1.largest) / 1e9 == pytest.approx(5.28, abs=0.005)


def test_the_candidates_cost_on_average_what_the_challenge_says() -> None:
    path = SHARED / "data" / "CVPR_2022_NAS_Track1_test.json"
    if not path.exists():
        pytest.skip("the official candidate file is not at ../shared")
    entries = list(json.loads(path.read_text(encoding="utf-8")).values())
    archs = [TRACK1.parse(entry["arch"]) for entry in entries[::45]]
    shares = [0] * 5  # the stem and the four stages
    for arch in archs:
        for layer in convolutions(arch):
            index = int(layer.name.split(".")[1])
            shares[sum(index >= first for first in TRACK1.first_blocks)] += layer.macs
    total = sum(map(flops, archs))
    assert total / len(archs) / 1e9 == pytest.approx(2.97, abs=0.03)
    assert [share / total for share in shares] == pytest.approx([0.04, 0.25, 0.22, 0.30, 0.19], abs=0.01)


@pytest.mark.parametrize("name", ["flops", "params", "zen"])
def test_a_prior_ranks_the_largest_network_over_any_other_and_the_smallest_below(name: str) -> None:
    value, rng = make_prior(name, TRACK1, 224, 1000), random.Random(0)
    values = [value(TRACK1.sample(rng)) for _ in range(50)]
    assert value(TRACK1.smallest) < min(values) <= max(values) < value(TRACK1.largest)


@pytest.mark.parametrize("space", [MINI, TRACK1])
def test_priors_are_the_costs_and_the_zen_score_at_the_runs_image_size_and_classes(space: SearchSpace) -> None:
    arch = space.sample(random.Random(1))
    values = [make_prior(name, space, 40, 7)(arch) for name in ("flops", "params", "zen")]
    assert values == [cost.macs(arch, 40, 7), cost.params(arch, 7), zen_score(arch, 40)]


@given(st.floats(0.1, 10), st.floats(-5, 5), st.floats(0.1, 10))
def test_scores_and_a_prior_are_weighed_on_their_own_scales(scale: float, shift: float, times: float) -> None:
    """Percent or shares, MACs or millions of them: the same ranking, on the scale of the scores."""
    rng = np.random.default_rng(0)
    scores, macs = rng.normal(size=20), rng.uniform(1, 4, size=20)
    mixed = with_prior(scores, "flops", macs, 1)
    assert np.allclose(with_prior(scale * scores + shift, "flops", times * macs, 1), scale * mixed + shift)
    assert np.allclose(mixed, with_prior(scores, "zen", np.log(macs), 1))
    assert np.allclose([mixed.min(), mixed.max()], [scores.min(), scores.max()])
    assert np.corrcoef(mixed, scores)[0, 1] == pytest.approx(np.corrcoef(mixed, np.log(macs))[0, 1])  # both count alike
    assert np.allclose(with_prior(np.log(macs), "flops", macs, 3), np.log(macs))


def test_equal_values_of_a_prior_change_no_ranking() -> None:
    scores = np.array([0.3, 0.1, 0.2])
    assert np.allclose(with_prior(scores, "flops", np.array([5, 5, 5]), 1), scores)
    assert with_prior(np.full(3, 0.1), "flops", np.array([1, 2, 3]), 1).tolist() == [0.1] * 3


def test_a_sum_adds_what_the_studies_add() -> None:
    """Over the candidates, each term with the weight: not the sum standardised once more."""
    archs = [MINI.sample(random.Random(seed)) for seed in range(20)]
    scores = np.random.default_rng(0).normal(size=20)

    def standard(values: list[float]) -> np.ndarray:
        return (np.array(values) - np.mean(values)) / np.std(values)

    logs = [
        standard([math.log(cost.macs(arch, 32, 10)) for arch in archs]),
        standard([math.log(cost.params(arch, 10)) for arch in archs]),
    ]
    zens = standard([zen_score(arch, 32) for arch in archs])
    values = prior_values("flops+params+zen", archs, lambda name: make_prior(name, MINI, 32, 10))
    assert np.allclose(values, sum(logs) + zens)
    mixed = with_prior(scores, "flops+params", sum(logs), 2)
    assert np.allclose(standard(mixed), standard(standard(scores) + 2 * sum(logs)))
    single = prior_values("flops", archs, lambda name: make_prior(name, MINI, 32, 10))
    assert single.tolist() == [cost.macs(arch, 32, 10) for arch in archs]


def test_a_sum_for_single_subnets_is_standardised_over_random_subnets_of_the_space() -> None:
    """So that it is the same whichever subnets are asked for, and an own prior counts as the built-in ones do."""
    prior, again = (make_prior("flops+test_cost:depth", MINI, 32, 10) for _ in range(2))
    sample = [MINI.sample(random.Random(seed)) for seed in range(2000)]
    values = np.array([prior(arch) for arch in sample])
    assert prior(MINI.largest) == again(MINI.largest) > values.max() and prior(MINI.smallest) < values.min()
    logs, depths = np.log([cost.macs(arch, 32, 10) for arch in sample]), np.array([sum(arch.depths) for arch in sample])
    assert np.allclose(values, (logs - logs.mean()) / logs.std() + (depths - depths.mean()) / depths.std(), atol=0.3)


def depth(arch: Arch, image_size: int, num_classes: int) -> int:
    """A prior of one's own."""
    return sum(arch.depths)


@pytest.mark.parametrize("name", ["flops+flops", "flops+", "+", "luck+flops", "near", "flops+near", "flops+zen_mc"])
def test_a_sum_that_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="prior "):
        make_prior(name, MINI, 32, 10)


def test_a_sum_has_no_ratio_for_pairs() -> None:
    options = ["method=pgonas", "method.prior=flops+params"]
    assert load_config(REPOSITORY / "configs" / "demo.yaml", options).method.prior == "flops+params"  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"method\.pair_ratio must be 1"):
        load_config(REPOSITORY / "configs" / "demo.yaml", [*options, "method.pair_ratio=1.5"])


def test_a_prior_computes_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Arch] = []
    monkeypatch.setitem(PRIORS, "noted", lambda arch, image_size, num_classes: asked.append(arch) or 1.0)
    prior = make_prior("noted", MINI, 32, 10)
    assert [prior(MINI.smallest), prior(MINI.largest), prior(MINI.smallest)] == [1.0] * 3
    assert asked == [MINI.smallest, MINI.largest]


def test_a_small_space_has_fewer_spread_architectures() -> None:
    small = replace(MINI, max_depths=(1, 1, 2), ratios=(1.0, 0.5))
    archs = cost.sample_spread(small, 20, random.Random(0), 32, 10)
    assert 2 <= len(archs) <= 20 and len(set(archs)) == len(archs)
    assert len(sample_candidates(small, 20, 0, spread=True)) == 20


@pytest.mark.parametrize("space", [MINI, TRACK1])
def test_spread_architectures_step_evenly_through_the_costs(space: SearchSpace) -> None:
    archs = cost.sample_spread(space, 12, random.Random(3), space.image_size, 1000)
    assert archs == cost.sample_spread(space, 12, random.Random(3), space.image_size, 1000)
    assert archs[0] == space.smallest and archs[-1] == space.largest and len(set(archs)) == 12
    steps = np.diff(np.log([flops(arch) for arch in archs]))
    assert steps.max() < 1.5 * steps.mean() and steps.min() > 0.5 * steps.mean()
