"""The demo's truth: its subnets are those that `make demo` scores, and its figures follow from the accuracies of all seeds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.data.images import open_source
from paddle_pgonas.scores.files import read_scored, sample_candidates
from paddle_pgonas.space.named import find_space

HOME = REPOSITORY / "studies" / "demo"
SPACE = find_space(str(HOME / "space.yaml"))


def script(path: str) -> ModuleType:
    """A script of ``studies`` as a module."""
    name = path.replace("/", "_")
    specification = importlib.util.spec_from_file_location(name, REPOSITORY / "studies" / f"{path}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_demo_scores_the_subnets_of_its_truth() -> None:
    truth = read_scored(HOME / "truth.json", SPACE)
    assert len(truth) >= 48 and all(entry.std_error for entry in truth)
    assert {entry.arch for entry in sample_candidates(SPACE, len(truth), 1)} == {entry.arch for entry in truth}


def test_the_truth_is_the_mean_of_its_seeds() -> None:
    results = json.loads((HOME / "accuracies.json").read_text(encoding="utf-8"))["results"]
    kept = json.loads((HOME / "truth.json").read_text(encoding="utf-8"))
    assert list(kept) == list(results)
    for name, entry in kept.items():
        accs = np.array(results[name]["acc"])
        assert entry["arch"] == results[name]["arch"]
        assert [entry["acc"], entry["std_error"]] == pytest.approx([accs.mean(), accs.std(ddof=1) / len(accs) ** 0.5], abs=2e-6)


def documented() -> dict[str, list[str]]:
    """The rows of the document's tables by their first cell."""
    lines = (HOME / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def holds(shown: str, value: float) -> bool:
    """Whether a number is shown as rounding gives it."""
    return abs(float(shown) - value) <= 0.5 * 10 ** -len(shown.partition(".")[2]) + 1e-9


def test_the_document_holds_the_truths_figures() -> None:
    rows = documented()
    for name, value in script("truth_trainer/summary").summary(HOME).items():
        assert name not in rows or holds(rows[name][0], value)


def test_the_document_holds_the_results_figures() -> None:
    rows, result = documented(), json.loads((HOME / "result.json").read_text(encoding="utf-8"))
    for row in result["rows"]:
        name = row["file"].removesuffix(".json")
        shown = rows[f"`{name}`"][-1].replace("[", "").replace("]", "").replace(",", "").split()
        assert all(holds(text, row["kendall"][key]) for text, key in zip(shown, ("value", "low", "high"), strict=True))


def test_the_demos_images_are_the_same_wherever_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = script("demo/make_images")
    monkeypatch.setattr(sys, "argv", ["make_images.py", str(tmp_path)])
    make.main()
    config = load_config(HOME / "supernet.yaml", [f"data.root={tmp_path}", f"output_dir={tmp_path}/run"])
    train, val = (open_source(config.data, split, config.model.num_classes) for split in ("train", "val"))
    made = list(make.images())
    assert [len(train.labels), len(val.labels)] == [sum(one[0] == split for one in made) for split in ("train", "val")]
    assert sum(int(pixels.astype(np.int64).sum()) for _, _, pixels, _ in made) == 74_237_445  # when the truth was measured
    written = {(split, number): pixels for split, number, pixels, digit in made if digit == 7}
    for path in (tmp_path / "val" / "7").iterdir():
        assert (np.asarray(Image.open(path)) == written["val", int(path.stem)]).all()
