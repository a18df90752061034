"""The demo's truth: its subnets are those that `make demo` scores, and its figures follow from the accuracies of all seeds."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from paddle_pgonas.arch import MINI
from paddle_pgonas.config import load_config
from paddle_pgonas.data.sources import open_source
from paddle_pgonas.submission import read_scored, sample_candidates

HOME = REPOSITORY / "benchmarks" / "demo"


def script(name: str) -> ModuleType:
    """One of the folder's scripts as a module."""
    specification = importlib.util.spec_from_file_location(f"demo_{name}", HOME / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_demo_scores_the_subnets_of_its_truth() -> None:
    truth = read_scored(HOME / "truth.json", MINI)
    assert len(truth) >= 48 and all(entry.std_error for entry in truth)
    assert {entry.arch for entry in sample_candidates(MINI, len(truth), 1)} == {entry.arch for entry in truth}


def test_the_truth_is_the_mean_of_its_seeds() -> None:
    with (HOME / "accuracies.csv").open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    table = np.array([[float(acc) for acc in row[2:]] for row in rows]).T
    rounded = script("collect").truth([(row[1], row[0]) for row in rows], table)
    kept = json.loads((HOME / "truth.json").read_text(encoding="utf-8"))
    for name, entry in kept.items():
        assert rounded[name]["arch"] == entry["arch"]
        assert [entry["acc"], entry["std_error"]] == pytest.approx([rounded[name]["acc"], rounded[name]["std_error"]], abs=2e-6)


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
    for name, value in script("collect").summary().items():
        assert holds(rows[name][0], value)


def test_the_document_holds_the_results_figures() -> None:
    rows, result = documented(), json.loads((HOME / "result.json").read_text(encoding="utf-8"))
    for row in result["rows"]:
        name = row["file"].removesuffix(".json")
        shown = rows[f"`{name}`"][-1].replace("[", "").replace("]", "").replace(",", "").split()
        assert all(holds(text, row["kendall"][key]) for text, key in zip(shown, ("value", "low", "high"), strict=True))


def test_the_demos_images_are_the_same_wherever_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = script("make_images")
    monkeypatch.setattr(sys, "argv", ["make_images.py", str(tmp_path)])
    make.main()
    config = load_config(HOME / "supernet.yaml", [f"data.root={tmp_path}", f"output_dir={tmp_path}/run"])
    train, val = (open_source(config.data, split, config.model.num_classes) for split in ("train", "val"))
    assert (len(train.labels), len(val.labels)) == (make.TRAIN, 1797 - make.TRAIN)
    pixels, digits = make.images()
    assert int(pixels.astype(np.int64).sum()) == 10_781_875  # the sum when the truth was measured
    for path in (tmp_path / "val" / "7").iterdir():
        assert digits[int(path.stem)] == 7
        assert (np.asarray(Image.open(path)) == pixels[int(path.stem)]).all()


def test_the_readmes_figures_are_those_of_the_demo() -> None:
    result = json.loads((HOME / "result.json").read_text())
    truth = len(json.loads((HOME / "truth.json").read_text()))
    taus = {row["file"].removesuffix(".json"): f"{row['kendall']['value']:.3f}" for row in result["rows"]}
    readme = (REPOSITORY / "README.md").read_text()
    figures = [taus[name] for name in ("progressive", "flops", "zen")] + [f"{result['ceiling']:.3f}"]
    figures = [figure.replace("0.", ".", 1) for figure in figures] + [f"{truth} subnets"]
    assert all(figure in readme for figure in figures), figures
