"""The comparison with published accuracies of Track 1: on a made-up truth, and the committed figures."""

from __future__ import annotations

import json
import random
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_line, flops

from paddle_pgonas.errors import UserError
from paddle_pgonas.priors import cost
from paddle_pgonas.scores.correlation import kendall, pearson
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.space.arch import MINI, TRACK1, Arch, SearchSpace
from studies import depth, intervals
from studies.real_track1 import figures

HOME = REPOSITORY / "studies" / "real_track1"
pytestmark = pytest.mark.usefixtures("few_resamples")


def subnets(space: SearchSpace, count: int) -> list[Arch]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(count)]


def written(path: Path, archs: list[Arch], values: np.ndarray) -> Path:
    write_scores(path, [Candidate(f"n{i}", arch, arch.code, None) for i, arch in enumerate(archs)], values.tolist())
    return path


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["figures.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(HOME / "figures.py"), run_name="__main__")
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def row(out: str, name: str) -> list[str]:
    return next(line for line in out.splitlines() if line.startswith(f"| {name} |")).strip("| ").split(" | ")


def test_a_truth_and_a_submission_are_compared_with_costs_and_sums(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    archs, rng = subnets(TRACK1, 25), np.random.default_rng(0)
    logs = np.log([[cost.macs(arch, 224, 1000), cost.params(arch, 1000)] for arch in archs])
    truth = logs[:, 0] + rng.normal(0, 0.1, 25)
    mine = truth + rng.normal(0, 0.01, 25)
    paths = written(tmp_path / "truth.json", archs, truth), written(tmp_path / "mine.json", archs[::-1], mine[::-1])
    status, out, _ = run(monkeypatch, capsys, "--truth", *paths)
    assert status == 0
    both = ((logs - logs.mean(0)) / logs.std(0)).sum(1)
    for name, values in (("log FLOPs", logs[:, 0]), ("log FLOPs + log parameters", both), ("mine", mine)):
        assert row(out, name)[1].startswith(f"{kendall(truth, values):.3f} [")
        assert row(out, name)[2].startswith(f"{pearson(truth, values):.3f} [")
    assert row(out, "mine")[3].startswith(f"{kendall(truth, mine) - kendall(truth, both):+.3f} [")
    lacking = written(tmp_path / "few.json", archs[:20], truth[:20])
    status, _, err = run(monkeypatch, capsys, "--truth", paths[0], lacking)
    assert_one_line(status, err, "few.json: lacks 5 of the truth's 25 subnets")
    unscored = written(tmp_path / "unscored.json", archs, np.zeros(25))
    assert_one_line(*run(monkeypatch, capsys, "--truth", unscored)[::2], "unscored.json: must hold at least 16")
    assert_one_line(*run(monkeypatch, capsys, "--truth", paths[0], unscored)[::2], "unscored.json: every score is 0")
    few = written(tmp_path / "n15.json", archs[:15], truth[:15])
    assert_one_line(*run(monkeypatch, capsys, "--truth", few)[::2], "n15.json: must hold at least 16")


def test_files_of_one_name_and_of_a_built_in_ranking_have_rows_of_their_own(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a/s.json", "b/s.json", "blocks.json", "mine.json")]
    assert figures.labelled(paths, {"blocks"}) == {
        paths[0].removesuffix(".json"): paths[0],
        paths[1].removesuffix(".json"): paths[1],
        paths[2]: paths[2],
        "mine": paths[3],
    }


def test_the_record_holds_figures_and_no_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its tables are those of the document."""
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    archs = subnets(MINI, 12)
    truth, ranked = np.log([flops(arch) for arch in archs]), figures.rankings(archs, MINI, 32, 10)
    blocks, macs = ranked["blocks"], np.exp(ranked["log FLOPs"])
    found = depth.depth(truth, blocks, macs, np.exp(ranked["log parameters"]))
    names = ("rankings", "depth", "structure")
    (tmp_path / "README.md").write_text("".join(f"<!-- begin {x} -->\n<!-- end {x} -->\n" for x in names))
    shown = {"subnets": 12, "rankings": figures.agreement(truth, ranked), "depth": found}
    figures.record(shown | {"structure": depth.structure(truth, archs)}, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert row(text, "log FLOPs")[1].startswith("1.000 [")
    kept = (tmp_path / "figures.json").read_text()
    assert not any(arch.code in kept for arch in archs) and not any(repr(value) in kept for value in truth.tolist())


def test_the_coefficient_of_depth_is_what_depth_adds_to_the_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    archs, rng = subnets(TRACK1, 120), np.random.default_rng(1)
    blocks = np.array([float(sum(arch.depths)) for arch in archs])
    macs, params = (
        np.array(values, float) for values in zip(*((cost.macs(a, 224, 10), cost.params(a, 10)) for a in archs), strict=True)
    )

    def standard(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    parts = [standard(values) for values in (blocks, np.log(macs), np.log(params))]
    for weight in (-0.7, 0.7):
        truth = weight * parts[0] + 0.5 * parts[1] + 0.2 * parts[2] + rng.normal(0, 0.3, 120)
        found = depth.depth(5 + 2 * truth, blocks, macs, params)
        of = found.coefficients["blocks"]
        assert of.value * truth.std() == pytest.approx(weight, abs=0.3)
        assert of.low < of.value < of.high and (of.low > 0 if weight > 0 else of.high < 0)
        assert 0.3 < of.error / ((of.high - of.low) / 3.92) < 3
    pairs = [
        (i, j)
        for i in range(120)
        for j in range(120)
        if blocks[i] > blocks[j] and 1 / depth.EQUAL < macs[i] / macs[j] < depth.EQUAL
    ]
    assert found.pairs == len(pairs)
    assert found.wins.value == pytest.approx(np.mean([truth[i] > truth[j] for i, j in pairs]))
    assert found.wins.low <= found.wins.value <= found.wins.high


def test_the_coefficients_of_structure_are_those_of_each_stages_depth_and_mean_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    archs = subnets(TRACK1, 60)
    blocks = np.array([float(arch.depths[2]) for arch in archs])
    last = [arch.blocks[-arch.depths[3] :] for arch in archs]
    width = np.array([np.mean([*(b.c_mid for b in of), *(b.c_out for b in of)]) for of in last])
    truth = 2 * (blocks - blocks.mean()) / blocks.std() - (width - width.mean()) / width.std()
    found = depth.structure(truth, archs)
    assert list(found) == [f"{what} of stage {stage}" for what in ("blocks", "width") for stage in (1, 2, 3, 4)]
    for name, weight in zip(found, (0, 0, 2, 0, 0, 0, 0, -1), strict=True):
        of = found[name]
        assert of.value * truth.std() == pytest.approx(weight, abs=1e-9) and of.error == pytest.approx(0, abs=1e-9)
        assert of.low <= of.value + 1e-9 and of.value - 1e-9 <= of.high


def test_depth_needs_subnets_of_equal_cost() -> None:
    with pytest.raises(UserError, match="differs in depth"):
        depth.depth(np.arange(3.0), np.array([1, 2, 3]), np.array([1.0, 10, 100]), np.array([1.0, 10, 100]))


def test_the_committed_document_says_what_the_committed_figures_say() -> None:
    kept = json.loads((HOME / "figures.json").read_text(encoding="utf-8"))
    text = (HOME / "README.md").read_text(encoding="utf-8")
    made = figures.tables(kept)
    for name, table in made.items():
        assert f"<!-- begin {name} -->\n{table}\n<!-- end {name} -->" in text
    assert kept["subnets"] == 30 and not re.search(r"\d{40}", json.dumps(kept))


def test_the_published_accuracies_give_the_committed_figures() -> None:
    path = REPOSITORY.parent / "shared" / "data" / "track1_standalone30.json"
    if not path.exists():
        pytest.skip("the published accuracies are not at ../shared")
    kept = json.loads((HOME / "figures.json").read_text(encoding="utf-8"))
    entries = json.loads(path.read_text(encoding="utf-8")).values()
    archs, truth = [TRACK1.parse(entry["arch"]) for entry in entries], np.array([entry["acc"] for entry in entries])
    for name, values in figures.rankings(archs, TRACK1, 224, 1000).items():
        assert kendall(truth, values) == pytest.approx(kept["rankings"][name]["kendall"][0])
