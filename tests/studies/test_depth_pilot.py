"""The pairs of equal cost and what their trainings are condensed into."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_json
from paddle_pgonas.priors.cost import macs, params
from studies.depth_pilot import pilot


def test_a_pair_differs_in_depth_and_not_in_cost() -> None:
    pairs = pilot.pairs()
    assert len(pairs) == pilot.PAIRS == len({arch for pair in pairs for arch in pair}) / 2
    for deep, shallow in pairs:
        assert sum(deep.depths) - sum(shallow.depths) >= pilot.DEEPER
        assert macs(deep, 16, 10) / macs(shallow, 16, 10) == pytest.approx(1, abs=0.031)
        assert params(deep, 10) / params(shallow, 10) == pytest.approx(1, abs=0.052)


def test_the_committed_table_is_that_of_the_results() -> None:
    home = REPOSITORY / "studies" / "depth_pilot"
    codes = [[arch.code for arch in pair] for pair in pilot.pairs()]
    for path in (home / "results").glob("*.json"):
        trained = json.loads(path.read_text(encoding="utf-8"))["pairs"]
        assert [[one["arch"] for one in pair] for pair in trained] == codes[: len(trained)]
    assert f"<!-- begin pairs -->\n{pilot.table()}\n<!-- end pairs -->" in (home / "README.md").read_text(encoding="utf-8")


def test_a_change_is_measured_by_pair(tmp_path: Path) -> None:
    for name, gain in (("none", -2.0), ("wide", 1.0)):
        pairs = [
            [{"acc": [0.5 + (gain + noise) / 100] * 2}, {"acc": [0.5 + noise / 100] * 2}] for noise in np.arange(pilot.PAIRS) / 7
        ]
        write_json(tmp_path / "results" / f"{name}.json", {"pairs": pairs})
    write_json(tmp_path / "results" / "decay.json", {"pairs": []})  # begun
    lines = pilot.table(tmp_path).splitlines()[2:]
    assert [line.split(" | ")[-2:] for line in lines] == [
        ["-2.00 [-2.00, -2.00]", " |"],
        ["+1.00 [+1.00, +1.00]", "+3.00 [+3.00, +3.00] |"],
    ]


def test_an_interrupted_run_goes_on_and_another_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    class Trainer:
        def __init__(self, config: object, seeds: list[int], smoothing: float, closed: bool) -> None:
            assert smoothing == 0.1 and not closed

        def train(self, arch: object) -> dict[str, object]:
            trained.append(str(arch))
            if len(trained) == 4:
                raise KeyboardInterrupt
            return {"acc": [0.5, 0.5], "loss": [1.0, 1.0], "seconds": 1.0}

    monkeypatch.setattr(pilot, "HOME", tmp_path)
    monkeypatch.setattr(pilot, "Trainer", Trainer)
    with pytest.raises(KeyboardInterrupt):
        pilot.run(tmp_path, ["smoothing"])
    pilot.run(tmp_path, ["smoothing"])
    codes = [arch.code for pair in pilot.pairs() for arch in pair]
    assert trained == codes[:4] + codes[2:]
    path = tmp_path / "results" / "smoothing.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, record | {"recipe": record["recipe"] | {"smoothing": 0.2}})
    with pytest.raises(UserError, match="another recipe"):
        pilot.run(tmp_path, ["smoothing"])
