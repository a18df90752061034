"""Correlations against their definitions, and the bootstrap intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from paddle_pgonas.scores.correlation import (
    STATISTICS,
    correlate,
    default_k,
    kendall,
    kendall_top,
    pearson,
    precision_at_k,
    resamples_for,
    spearman,
)

pytestmark = pytest.mark.usefixtures("few_resamples")
TIED_PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30)


def noisy_line(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(count)
    return x, 0.7 + 0.01 * (x + 0.5 * rng.standard_normal(count))


@given(pairs=TIED_PAIRS)
def test_kendall_is_tau_b_over_all_pairs(pairs: list[tuple[int, int]]) -> None:
    concordance = untied_x = untied_y = 0
    for i, (x, y) in enumerate(pairs):
        for other_x, other_y in pairs[:i]:
            concordance += int(np.sign(x - other_x) * np.sign(y - other_y))
            untied_x += x != other_x
            untied_y += y != other_y
    assume(untied_x and untied_y)
    xs, ys = np.array(pairs, dtype=float).T
    assert kendall(xs, ys) == pytest.approx(concordance / sqrt(untied_x * untied_y), abs=1e-12)


@given(pairs=TIED_PAIRS)
def test_pearson_is_covariance_over_deviations(pairs: list[tuple[int, int]]) -> None:
    xs, ys = np.array(pairs, dtype=float).T
    assume(len(set(xs)) > 1 and len(set(ys)) > 1)
    dx, dy = xs - sum(xs) / len(xs), ys - sum(ys) / len(ys)
    assert pearson(xs, ys) == pytest.approx(sum(dx * dy) / sqrt(sum(dx**2) * sum(dy**2)), abs=1e-12)


@given(pairs=TIED_PAIRS)
def test_spearman_is_pearson_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([sum(values < value) + (sum(values == value) + 1) / 2 for value in values])

    xs, ys = np.array(pairs, dtype=float).T
    assume(len(set(xs)) > 1 and len(set(ys)) > 1)
    assert spearman(xs, ys) == pytest.approx(np.corrcoef(ranks(xs), ranks(ys))[0, 1], abs=1e-12)


@pytest.mark.parametrize("statistic", [kendall, spearman, kendall_top])
def test_rank_correlations_see_order_only(statistic: Callable[[np.ndarray, np.ndarray], float]) -> None:
    x, y = noisy_line()
    assert statistic(np.exp(x), y**3) == pytest.approx(statistic(x, y), abs=1e-12)
    assert statistic(x, -np.exp(x)) == pytest.approx(-1)


def test_every_statistic_of_an_agreement_is_that_of_its_pairs_in_any_order() -> None:
    x, y = noisy_line()
    shuffled = np.random.default_rng(2).permutation(len(x))
    for values in (correlate(x, y, k=5).values, correlate(x[shuffled], y[shuffled], k=5).values):
        wanted = (pearson(x, y), kendall(x, y), spearman(x, y), kendall_top(x, y), precision_at_k(x, y, 5))
        assert values == pytest.approx(dict(zip(STATISTICS, wanted, strict=True)), abs=1e-12)


def test_kendall_in_the_top_looks_at_the_truths_best_tenth_and_what_ties_with_it() -> None:
    x = np.arange(40.0)
    y = np.concatenate([np.random.default_rng(0).standard_normal(36), [5, 4, 3, 2]])
    assert kendall_top(x, y) == -1
    x[35] = x[36]  # five share the four best places
    y[35] = -9
    assert kendall_top(x, y) == pytest.approx(stats.kendalltau(x[35:], y[35:]).statistic)
    assert kendall_top(x[:3], np.array([0.0, 1.0, 2.0])) == 1  # at least two


@given(pairs=TIED_PAIRS, data=st.data())
def test_precision_at_k_is_the_mean_over_all_ways_to_break_ties(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(pairs)))
    x, y = np.array(pairs, dtype=float).T
    rng, hits, repeats = np.random.default_rng(0), 0, 400
    for _ in range(repeats):
        first, second = (np.lexsort((rng.random(len(side)), side))[-k:] for side in (x, y))
        hits += len(set(first) & set(second))
    assert precision_at_k(x, y, k) == pytest.approx(hits / repeats / k, abs=0.13)


def test_precision_at_k_of_known_cases() -> None:
    x = np.arange(10.0)
    assert precision_at_k(x, x, 3) == 1
    assert precision_at_k(x, -x, 3) == 0
    assert precision_at_k(x, np.ones(10), 3) == pytest.approx(0.3)  # a blind choice
    assert precision_at_k(x, np.r_[np.zeros(9), 1], 3) == pytest.approx((1 + 2 * 2 / 9) / 3)


def test_the_default_k_is_100_and_a_tenth_of_small_sets() -> None:
    assert [default_k(count) for count in (2, 10, 200, 1000, 45_000)] == [1, 1, 20, 100, 100]


def test_intervals_contain_a_clear_value_and_say_how_sure_it_is() -> None:
    x, y = noisy_line(400)
    estimates = correlate(x, y).estimates()
    assert tuple(estimates) == STATISTICS
    for value, low, high in estimates.values():
        assert 0 < low < value < high <= 1


def test_intervals_are_as_wide_as_theory_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard error of a correlation r of n normal pairs is (1 - r^2) / sqrt(n), of a tau about 2/3 of sqrt(1/n)."""
    monkeypatch.setattr("paddle_pgonas.scores.correlation.resamples_for", lambda count: 400)
    x, noise = np.random.default_rng(5).standard_normal((2, 900))
    estimates = correlate(x, 0.6 * x + 0.8 * noise).estimates()
    value, low, high = estimates["pearson"]
    assert high - low == pytest.approx(2 * 1.96 * (1 - value**2) / 30, rel=0.15)
    estimates = correlate(x, noise).estimates()
    assert estimates["kendall"].high - estimates["kendall"].low == pytest.approx(2 * 1.96 * 2 / 3 / 30, rel=0.15)


def test_the_seed_decides_the_interval_and_not_the_value() -> None:
    x, y = noisy_line()
    first, again, other = (correlate(x, y, seed=seed).estimates()["pearson"] for seed in (0, 0, 1))
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)


def test_a_paired_difference_is_surer_than_the_two_intervals() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(300)
    y = x + rng.standard_normal(300)
    better = correlate(x, y + 0.2 * (x - y))
    worse = correlate(x, y)
    for name in ("pearson", "kendall", "spearman"):
        difference = worse.minus(better)[name]
        assert difference.value == worse.values[name] - better.values[name]
        assert difference.high < 0
        assert worse.estimates()[name].high > better.estimates()[name].low  # which do not tell
    assert all(estimate == (0, 0, 0) for estimate in worse.minus(worse).values())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("swap", [False, True], ids=["scores", "reference"])
def test_constant_values_have_no_correlation(swap: bool) -> None:
    constant, varying = np.full(5, 0.1), np.arange(5.0)
    pair = (constant, varying) if not swap else (varying, constant)
    estimates = correlate(*pair).estimates()
    assert estimates.pop("precision_at_k").value == pytest.approx(0.2)
    assert all(isnan(number) for estimate in estimates.values() for number in estimate)


def test_resamples_without_a_correlation_are_left_out() -> None:
    value, low, high = correlate(np.array([1.0, 2.0]), np.array([3.0, 5.0])).estimates()["kendall"]
    assert value == low == high == pytest.approx(1)  # half of the resamples draw one pair twice


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((3,), (4,)), ((3, 1), (3, 1)), ((1,), (1,)), ((0,), (0,)), ((), ())],
    ids=["unequal", "matrix", "single", "empty", "scalar"],
)
def test_what_is_not_two_equal_vectors_is_refused(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two equally long vectors"):
        correlate(np.zeros(x_shape), np.zeros(y_shape))


@pytest.mark.parametrize("k", [0, 6])
def test_a_k_beyond_the_values_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to 5"):
        correlate(np.arange(5.0), np.arange(5.0), k)


def test_resamples_are_many_for_small_sets_and_affordable_for_the_challenge() -> None:
    assert resamples_for(100) == 1000
    assert resamples_for(45_000) == 100
    assert 100 < resamples_for(10_000) < 1000


def test_values_too_close_to_be_squared_count_as_constant() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isnan(pearson(np.array([1e-320, 2e-320, 0.0]), np.arange(3.0)))
        assert pearson(np.array([1e-140, 2e-140, 3e-140]), np.arange(3.0)) == pytest.approx(1)
