"""Smoothed scores: what the model recovers, which candidates are scored, and that the result is called a predictor's."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_CONFIG, Tool, assert_one_line, some_archs, tiny_config

from paddle_pgonas.errors import UserError
from paddle_pgonas.scores.check import validate_submission
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import Candidate, read_candidates, write_scores
from paddle_pgonas.scoring.smoothing import TOGETHER, Sample, Smoothing, features
from paddle_pgonas.scoring.submission import write_submission
from paddle_pgonas.space.arch import TRACK1, Arch

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def archs() -> list[Arch]:
    rng = random.Random(0)
    return list(dict.fromkeys(TRACK1.sample(rng) for _ in range(400)))


@pytest.fixture(scope="module")
def exact(archs: list[Arch]) -> np.ndarray:
    """A linear function of the structure, as accuracies."""
    known = features(archs, 224, 1000)
    weights = np.random.default_rng(0).normal(size=known.shape[1]) / known.std(0)
    return 0.7 + 0.01 * (known - known.mean(0)) @ weights


def test_features_are_depths_mean_channels_and_costs() -> None:
    arch = TRACK1.build(((1, 7), (1, 1), (7, 7, 7), (1, 1)), (1, 1, 7, 1))
    values = features([arch], 224, 1000)[0]
    assert values[:4].tolist() == [2, 2, 3, 2]
    widths = TRACK1.widths
    stem = ((widths[0][1] + widths[0][7]) / 2 + widths[0][1]) / 2
    assert values[4:8].tolist() == [stem, widths[1][1], widths[2][7], widths[3][1]]
    assert len(values) == 10


def test_smoothing_removes_noise_from_unscored_and_from_scored_candidates(archs: list[Arch], exact: np.ndarray) -> None:
    smoothing = Smoothing(archs, Sample(150), 224, 1000)
    noisy = exact + np.random.default_rng(1).normal(0, exact.std(), len(exact))
    scored = smoothing.positions
    smoothed = smoothing.fit(noisy[scored])
    assert kendall(exact, smoothed.values) > 0.8 > kendall(exact, noisy) + 0.1
    assert kendall(exact[scored], smoothed.values[scored]) > kendall(exact[scored], noisy[scored]) + 0.2


def test_the_held_out_agreement_tells_a_model_that_fits_from_one_that_does_not(archs: list[Arch], exact: np.ndarray) -> None:
    smoothing = Smoothing(archs, Sample(200), 224, 1000)
    fits = smoothing.fit(exact[smoothing.positions])
    nothing = smoothing.fit(np.random.default_rng(0).permutation(exact)[smoothing.positions])
    assert fits.held_out.value > 0.95 and fits.error < 0.05 * fits.deviation
    assert nothing.held_out.low < 0.1 and nothing.error > 0.9 * nothing.deviation
    assert nothing.noise > 0.5 * nothing.deviation > 10 * fits.noise


def test_a_smaller_sample_begins_a_larger_one_and_seeds_differ() -> None:
    small, large, other = (sample.positions(1000) for sample in (Sample(50), Sample(200), Sample(50, 1)))
    assert large[:50] == small != other
    assert len(set(large)) == 200 and set(large) <= set(range(1000))
    assert Sample(50).positions(1000) == small


def test_equal_inputs_give_equal_predictions(archs: list[Arch], exact: np.ndarray) -> None:
    first, second = (
        smoothing.fit(exact[smoothing.positions]) for smoothing in (Smoothing(archs, Sample(60), 224, 1000) for _ in range(2))
    )
    assert first.values.tobytes() == second.values.tobytes()
    assert first.record() == second.record()


@pytest.mark.parametrize("edge", [0, 1])
def test_predictions_stay_within_0_and_1_in_their_order(archs: list[Arch], exact: np.ndarray, edge: int) -> None:
    smoothing = Smoothing(archs, Sample(60), 224, 1000)
    scores = exact[smoothing.positions]
    scores = edge + scores - (scores.max() if edge else scores.min())
    values = smoothing.fit(scores).values
    assert 0 <= values.min() < values.max() <= 1
    assert kendall(exact, values) > 0.9


@pytest.mark.parametrize("count", [401, 0, 29, -1])
def test_a_sample_of_a_wrong_size_is_refused_with_the_right_ones(archs: list[Arch], count: int) -> None:
    with pytest.raises(UserError, match=f"30 to 400 here, not {count}"):
        Smoothing(archs, Sample(count), 224, 1000)
    with pytest.raises(UserError, match="needs at least 30 candidates for 10 features, not 20"):
        Smoothing(archs[:20], Sample(20), 224, 1000)


def test_what_cannot_be_fitted_is_refused(archs: list[Arch]) -> None:
    with pytest.raises(UserError, match="all 30 scores are"):
        Smoothing(archs, Sample(30), 224, 1000).fit(np.full(30, 0.1))
    alike = [TRACK1.build((codes, *((1, 1),) * 3), (1,) * 4) for codes in [(1, 1)]] * 40
    with pytest.raises(UserError, match="do not differ"):
        Smoothing(alike, Sample(40), 224, 1000)


def test_one_depth_for_all_is_no_problem(archs: list[Arch]) -> None:
    rng = random.Random(0)
    equally_deep = [TRACK1.sample(rng, depths=[(2, 2)] * 4) for _ in range(60)]
    smoothing = Smoothing(equally_deep, Sample(40), 224, 1000)
    wanted = features(equally_deep, 224, 1000)[:, -1] / 100
    assert kendall(wanted, smoothing.fit(wanted[smoothing.positions]).values) > 0.9


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    archs = list(dict.fromkeys(some_archs(TINY, 60)))[:30]
    path = tmp_path / "c.json"
    write_scores(path, [Candidate(f"arch{n}", arch, arch.code, None) for n, arch in enumerate(archs)], [0.0] * len(archs))
    return path


def test_a_sample_is_scored_and_all_are_predicted(tool: Tool, tmp_path: Path, tiny_weights: Path, candidates: Path) -> None:
    options = ["-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", "data.val_limit=40", "score.calibration_images=16"]
    files = ["--weights", tiny_weights, "--candidates", candidates, "--metric", "probability"]
    command = ["write_submission", *options, *files]
    assert tool(*command, "--output", tmp_path / "all.json")[0] == 0
    status, out, _ = tool(*command, "--output", tmp_path / "s.json", "--sample", 20)
    assert status == 0
    record = json.loads((tmp_path / "s.record.json").read_text())
    assert f"{record['sample']['held_out']['value']:.3f}" in out
    entries, everything = (json.loads((tmp_path / name).read_text()) for name in ("s.json", "all.metrics.json"))
    measured = json.loads((tmp_path / "s.metrics.json").read_text())
    assert list(entries) == list(everything) and len(measured) == 20
    assert set(record["sample"]["names"]) == set(measured)
    for name, row in measured.items():
        assert row == pytest.approx(everything[name], rel=1e-4)

    verdict = validate_submission(tmp_path / "s.json", candidates, TINY)
    assert list(verdict.faults) == ["predictor"]
    assert tool("compare", "--validate", tmp_path / "s.json", "--space", TINY_CONFIG.with_name("tiny_space.yaml"))[0] == 2
    assert validate_submission(tmp_path / "all.json", candidates, TINY).accepted
    # A record that is not of this file, or none at all, says nothing about it.
    (tmp_path / "s.json").write_text((tmp_path / "all.json").read_text())
    assert validate_submission(tmp_path / "s.json", candidates, TINY).accepted
    (tmp_path / "s.record.json").write_text("[")
    assert validate_submission(tmp_path / "s.json", candidates, TINY).accepted

    status, out, _ = tool(*command, "--sample", 20, "--dry-run", "--json", tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["candidates"] == 20
    for wrong, names in (
        (["--sample", 31], "31"),
        (["--sample", 5], "18 to 30"),
        (["--sample", 20, "--only", "arch1"], "--only"),
        (["--sample-seed", 1], "--sample"),
    ):
        status, _, error = tool(*command, "--output", tmp_path / "x.json", *wrong)
        assert_one_line(status, error, names)


def test_a_larger_sample_reuses_the_scores_of_a_smaller_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_weights: Path, candidates: Path
) -> None:
    monkeypatch.setattr("paddle_pgonas.scoring.submission.TOGETHER", 9)
    config = tiny_config(tmp_path, "score.bn=running")
    for count, reused in ((18, 0), (27, 2)):
        write_submission(config, tiny_weights, candidates, tmp_path / "s.json", sample=Sample(count))
        assert capsys.readouterr().out.count("1 of 1 chunks") == reused
    assert len(json.loads((tmp_path / "s.metrics.json").read_text())) == 27
    assert TOGETHER == 500 and len(read_candidates(tmp_path / "s.json", TINY)) == 30
