"""The measurement of scoring_choices, image by image, on a few images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json
from paddle_pgonas.scoring.plan import FEWER_IMAGES
from studies.scoring_choices import image_numbers

HOME = REPOSITORY / "studies" / "scoring_choices"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.slow
def test_a_supernet_is_measured_image_by_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 3)):
        for name in CLASSES:
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    largest = REPOSITORY / "studies" / "similar_cost" / "largest" / "largest3.safetensors"
    monkeypatch.setattr(image_numbers, "supernets", lambda *_: {"no_training-seed3": ("no_training", largest, True)})
    monkeypatch.setattr(image_numbers, "NUMBERS", (10, 30))
    monkeypatch.setattr(image_numbers, "HOME", tmp_path)
    monkeypatch.setattr(image_numbers, "QUOTED", tmp_path / "quoted.json")
    monkeypatch.setattr(sys, "argv", ["image_numbers.py", "--root", str(tmp_path / "images"), "--work", str(tmp_path / "work")])
    (tmp_path / "README.md").write_text("<!-- begin images -->\nold\n<!-- end images -->\n")
    image_numbers.main()
    row = read_json(tmp_path / "images.json", "results")["supernets"]["no_training-seed3"]
    assert row["top1"]["30"]["with_all"] == 1 > row["top1"]["10"]["with_all"] > 0
    monkeypatch.setattr(image_numbers, "measure_images", None)  # what was measured is kept
    image_numbers.main()
    monkeypatch.setattr(image_numbers, "supernets", lambda *_: {"another": ("no_training", largest, True)})
    with pytest.raises(UserError, match=r"has 1 supernets that are not below .* no_training-seed3"):
        image_numbers.main()
    (tmp_path / "images.json").unlink()
    monkeypatch.setattr(image_numbers, "NUMBERS", (10, 31))
    with pytest.raises(UserError, match="has 30 validation images, fewer than the 31"):
        image_numbers.main()
    text = (tmp_path / "README.md").read_text()
    assert (
        f"| 30 | {row['top1']['30']['tau']:.3f} |" in text and text.count("trained: ") == 3 and "| 1 not trained: top1 |" in text
    )


def test_the_documents_and_the_tools_show_what_was_measured() -> None:
    measured = read_json(HOME / "images.json", "images")["supernets"]
    text = (HOME / "README.md").read_text(encoding="utf-8")
    assert f"<!-- begin images -->\n{image_numbers.images_table(measured)}\n<!-- end images -->" in text
    assert image_numbers.agreement(measured) == FEWER_IMAGES["kendall"]
    shown = [line.split() for line in text.splitlines() if line.startswith(("| 1,000 |", "| 10,000 |"))]
    guide = (REPOSITORY / "docs" / "score.md").read_text(encoding="utf-8")
    assert all(f" {row[at]}" in guide for row, places in zip(shown, ((3, 7), (3, 5)), strict=True) for at in places)
