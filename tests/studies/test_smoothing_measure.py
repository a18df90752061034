"""What studies/smoothing computes from two submissions of the same candidates, and its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from paddle_pgonas.io.files import read_json, write_json
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import write_scores
from studies import intervals
from studies.results import read_results
from studies.smoothing import measure
from studies.study import read_study


def test_a_sample_is_held_against_scoring_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    candidates = read_study(REPOSITORY / "studies" / "similar_cost" / "study.yaml").read_candidates()
    every = np.random.default_rng(0).random(len(candidates))
    sampled = every + np.random.default_rng(1).normal(0, 0.02, len(candidates))
    chosen = [entry.name for entry in candidates[:20]]
    for name, scores, seconds in (("all", every, 600), ("sample500", sampled, 60)):
        write_scores(tmp_path / f"{name}.json", candidates, scores.tolist())
        record = {"acc": "probability", "images": 500, "seconds": seconds, "sample": {"names": chosen, "held_out": {}}}
        write_json(tmp_path / f"{name}.record.json", record)
    found = measure.of_many(tmp_path)
    assert found["agreement"].value == kendall(every[20:], sampled[20:])
    results = read_results(read_study(REPOSITORY / "studies" / "similar_cost" / "study.yaml"))
    long = results.part(None, "", "long")
    rows = [candidates.index(entry) for entry in long.candidates]
    taus = [kendall(scores[rows], long.mean_truth) for scores in (every, sampled)]
    row = found["truths"]["long"]
    assert (row["all"], row["sample"]) == pytest.approx(tuple(taus)) and row["gain"][0] == pytest.approx(
        taus[1] - taus[0], abs=1e-4
    )
    page = measure.tables(json.loads(json.dumps({"many": found})))["many"]
    assert "| minutes | 10.0 | 1.0 | |" in page and f"| {taus[0]:.3f} | {taus[1]:.3f} |" in page


def test_a_difference_fits_into_its_cell() -> None:
    one, other = (intervals.Taus(np.array([[tau, tau, tau]])) for tau in (0.5, 0.25))
    row = {
        "runs": 1,
        "held_out": dict.fromkeys(measure.models(), 0.5),
        "tau": {"scores": 0.25, "smoothed": 0.5, "not scored": 0.5},
    }
    row["gain"] = dict.fromkeys(("smoothed", "not scored"), measure.gain(one, other))
    made = measure.tables({"studies": {"wide": {"top1": row}}})["truths"]
    assert "| 0.250 | 0.500: +0.250 [+0.250, +0.250] |" in made


def test_the_document_shows_what_was_measured() -> None:
    home = REPOSITORY / "studies" / "smoothing"
    results, text = read_json(home / "results.json", "results"), (home / "README.md").read_text(encoding="utf-8")
    for name, table in measure.tables(results).items():
        assert f"<!-- begin {name} -->\n{table}\n<!-- end {name} -->" in text
    assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**results["many"]["held_out"]) in text
    prose = re.sub(r"<!-- begin.*?<!-- end [^>]*>", "", text, flags=re.S)
    in_tables = "".join(re.findall(r"<!-- begin.*?<!-- end", text, re.S)) + str(results["many"]["held_out"])
    assert all(figure in in_tables for figure in re.findall(r"[+-]\d\.\d{3}", prose))
