"""The closed-form Zen-score against Monte Carlo sampling and direct computation."""

from __future__ import annotations

import random
from math import acos, erfc, exp, log, pi, sqrt

import numpy as np
import pytest
from conftest import zen
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad

from paddle_pgonas.priors.zen import log_distance, log_valid_share, zen_score
from paddle_pgonas.space.arch import SPACES, TRACK1, Arch, SearchSpace

RANDOM = st.randoms(use_true_random=False)
V = 1 / 2 - 1 / (2 * pi)


@given(kernel=st.sampled_from([1, 3, 7]), stride=st.sampled_from([1, 2]), side=st.integers(1, 40))
def test_valid_share_is_the_share_of_taps_on_the_image(kernel: int, stride: int, side: int) -> None:
    padded = np.pad(np.ones((side, side)), kernel // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel))[::stride, ::stride]
    assert exp(log_valid_share(kernel, stride, side, len(windows))) == pytest.approx(windows.mean(), rel=1e-12)


@pytest.mark.parametrize("side", [7, 14, 28, 56])
def test_valid_share_of_a_3x3_convolution_is_the_challenges_formula(side: int) -> None:
    assert exp(log_valid_share(3, 1, side, side)) == pytest.approx(((3 * side - 2) / (3 * side)) ** 2)
    assert exp(log_valid_share(3, 2, 2 * side, side)) == pytest.approx(((3 * side - 1) / (3 * side)) ** 2)


def relu_correlation(rho: float) -> float:
    """Correlation of ReLU(u) and ReLU(v) for N(0, 1) values with correlation rho, by numerical integration over u."""
    rest = sqrt(1 - rho * rho)

    def inner(u: float) -> float:
        """u times the mean of ReLU(v) given u, times u's density."""
        mean = rho * u
        density = exp(-((mean / rest) ** 2) / 2) / sqrt(2 * pi)
        return u * (mean * erfc(-mean / rest / sqrt(2)) / 2 + rest * density) * exp(-u * u / 2) / sqrt(2 * pi)

    narrow = 10 * rest  # where the integrand bends
    moment = sum(quad(inner, low, high, epsabs=1e-14, epsrel=1e-12)[0] for low, high in ((0, narrow), (narrow, 12 + narrow)))
    return float((moment - 1 / (2 * pi)) / V)


def test_log_distance_follows_the_correlation_through_relus() -> None:
    rho = 1 / sqrt(1 + 0.01**2)
    for convolutions in range(1, 13):
        assert log_distance(convolutions) == pytest.approx(log(sqrt(2 * (1 - rho))), abs=1e-6)
        rho = relu_correlation(rho)


def test_log_distance_loses_no_digits_over_a_deep_network() -> None:
    one, circle = np.longdouble(1), np.arccos(np.longdouble(-1))
    rho = one / np.sqrt(one + np.longdouble("0.01") ** 2)
    for convolutions in range(1, 48):
        assert log_distance(convolutions) == pytest.approx(float(np.log(2 * (one - rho)) / 2), rel=1e-9)
        kappa = (np.sqrt(one - rho**2) + rho * (circle - np.arccos(rho))) / (2 * circle)
        rho = (kappa - one / (2 * circle)) / (one / 2 - one / (2 * circle))


def challenge_score(arch: Arch) -> float:
    """The score at 224 pixels as section 7 of the challenge's text writes it, up to a constant of the space."""
    variances = 0.0
    sides = (56, 28, 14, 7)
    rho = 1 / sqrt(1 + 0.01**2)
    for block in arch.blocks:
        side = sides[sum(block.index >= first for first in (6, 11, 19))]
        share = (3 * side - (1 if block.stride == 2 else 2)) / (3 * side)
        variances += log(9 * block.c_in * V * share**2) + log(9 * block.c_mid * V * ((3 * side - 2) / (3 * side)) ** 2)
        for _ in range(2):
            kappa = (sqrt(1 - rho * rho) + rho * (pi - acos(rho))) / (2 * pi)
            rho = (kappa - 1 / (2 * pi)) / V
    return variances / 2 + log(arch.out_width * 7**2 * sqrt(2 * (1 - rho)))


@given(rng=RANDOM)
def test_zen_score_differs_from_the_challenges_formula_by_a_constant(rng: random.Random) -> None:
    a, b = TRACK1.sample(rng), TRACK1.sample(rng)
    assert zen(a) - zen(b) == pytest.approx(challenge_score(a) - challenge_score(b), abs=1e-6)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, data=st.data())
def test_zen_score_grows_with_depth(space: SearchSpace, rng: random.Random, data: st.DataObject) -> None:
    arch = space.sample(rng)
    stage = data.draw(st.integers(0, len(space.bases) - 1))
    assume(arch.depths[stage] < space.max_depths[stage])
    conv1 = list(arch.conv1)
    conv1[stage] += (data.draw(st.integers(1, 7)),)
    assert zen(space.build(tuple(conv1), arch.conv2)) > zen(arch)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, data=st.data())
def test_zen_score_grows_with_the_width_of_conv1(space: SearchSpace, rng: random.Random, data: st.DataObject) -> None:
    arch = space.sample(rng)
    stage = data.draw(st.integers(0, len(space.bases) - 1))
    block = data.draw(st.integers(0, arch.depths[stage] - 1))
    codes = list(arch.conv1[stage])
    codes[block] -= 1
    assume(codes[block] >= 1 and space.widths[stage][codes[block]] > space.widths[stage][codes[block] + 1])
    wider = space.build((*arch.conv1[:stage], tuple(codes), *arch.conv1[stage + 1 :]), arch.conv2)
    assert zen(wider) > zen(arch)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, data=st.data())
def test_zen_score_grows_with_the_width_of_a_stage(space: SearchSpace, rng: random.Random, data: st.DataObject) -> None:
    arch = space.sample(rng)
    stage = data.draw(st.integers(0, len(space.bases) - 1))
    conv2 = list(arch.conv2)
    conv2[stage] -= 1
    assume(conv2[stage] >= 1 and space.widths[stage][conv2[stage]] > space.widths[stage][conv2[stage] + 1])
    assert zen(space.build(arch.conv1, tuple(conv2))) > zen(arch)


def test_image_size_matters() -> None:
    arch = TRACK1.sample(random.Random(0))
    assert zen_score(arch, 224) > zen_score(arch, 112)
