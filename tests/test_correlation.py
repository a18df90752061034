"""Correlations against their definitions, and the bootstrap intervals."""

from __future__ import annotations

from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paddle_pgonas.correlation import STATISTICS, correlate, kendall, pearson, resamples_for, spearman

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


@pytest.mark.parametrize("name", ["kendall", "spearman"])
def test_rank_correlations_see_order_only(name: str) -> None:
    x, y = noisy_line()
    assert STATISTICS[name](np.exp(x), y**3) == pytest.approx(STATISTICS[name](x, y), abs=1e-12)
    assert STATISTICS[name](x, -np.exp(x)) == pytest.approx(-1)


def test_intervals_contain_a_clear_value_and_say_how_sure_it_is() -> None:
    x, y = noisy_line()
    estimates = correlate(x, y)
    assert set(estimates) == {"pearson", "kendall", "spearman"}
    for name, (value, low, high) in estimates.items():
        assert value == STATISTICS[name](x, y)
        assert 0 < low < value < high <= 1


def test_more_values_and_a_lower_level_narrow_the_interval() -> None:
    def width(count: int, level: float) -> float:
        _, low, high = correlate(*noisy_line(count), ("pearson",), level=level)["pearson"]
        return high - low

    assert width(2000, 0.95) < width(60, 0.95)
    assert width(60, 0.5) < width(60, 0.95)


def test_the_seed_decides_the_interval_and_not_the_value() -> None:
    x, y = noisy_line()
    first, again, other = (correlate(x, y, ("pearson",), seed=seed)["pearson"] for seed in (0, 0, 1))
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("swap", [False, True], ids=["scores", "reference"])
def test_constant_values_have_no_correlation(swap: bool) -> None:
    constant, varying = np.full(5, 0.1), np.arange(5.0)
    pair = (constant, varying) if not swap else (varying, constant)
    for estimate in correlate(*pair).values():
        assert all(map(isnan, estimate))


def test_resamples_without_a_correlation_are_left_out() -> None:
    value, low, high = correlate(np.array([1.0, 2.0]), np.array([3.0, 5.0]), ("kendall",))["kendall"]
    assert value == low == high == pytest.approx(1)  # half of the resamples draw one pair twice


@pytest.mark.parametrize(
    ("x_shape", "y_shape"),
    [((3,), (4,)), ((3, 1), (3, 1)), ((1,), (1,)), ((0,), (0,)), ((), ())],
    ids=["unequal", "matrix", "single", "empty", "scalar"],
)
def test_what_is_not_two_equal_vectors_is_refused(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two equally long vectors"):
        correlate(np.zeros(x_shape), np.zeros(y_shape))


def test_resamples_are_many_for_small_sets_and_affordable_for_the_challenge() -> None:
    assert resamples_for(100) == 1000
    assert resamples_for(45_000) == 100
    assert 100 < resamples_for(10_000) < 1000
