"""The measurement of scoring_choices, image by image, on a few images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from paddle_pgonas.io.files import read_json
from studies.scoring_choices import image_numbers

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.slow
def test_a_supernet_is_measured_image_by_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    monkeypatch.setattr(sys, "argv", ["image_numbers.py", "--root", str(tmp_path / "images"), "--work", str(tmp_path / "work")])
    image_numbers.main()
    row = read_json(tmp_path / "images.json", "results")["supernets"]["no_training-seed3"]
    assert row["top1"]["30"]["with_all"] == 1 > row["top1"]["10"]["with_all"] > 0
    monkeypatch.setattr(image_numbers, "measure_images", None)  # what was measured is kept
    image_numbers.main()
    assert "1 supernets" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["image_numbers.py"])
    image_numbers.main()
    assert read_json(tmp_path / "images.json", "results")["supernets"]["no_training-seed3"] == row
    monkeypatch.setattr(sys, "argv", ["image_numbers.py", "--truth", "unseen"])
    with pytest.raises(SystemExit):
        image_numbers.main()
    assert "of the long truth, not of" in capsys.readouterr().err
