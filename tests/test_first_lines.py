"""Each long tool says what it is about to do before it reads an image, and what is odd about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY, TINY_CONFIG, TINY_SPACE, Tool

from paddle_pgonas.data.sources import Folder
from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records

COMMANDS = {
    "train_supernet {options} train.epochs=3 train.watch_images=2": [
        "12 images of 2 classes",
        "pgonas: 9 steps of 4",
        "cpu",
        "{out}",
    ],
    "train_standalone {options} method=null score.calibration_images=256 --arch {arch}": [
        *("12 images of 2 classes", "one subnet: 3 steps of 4", "cpu", "{out}"),
    ],
    "train_standalone {options} method=null score.calibration_images=256 --candidates {c} --output {new}": [
        *("6 subnets", "{new}", "12 images of 2 classes", "one subnet: 3 steps of 4", "cpu", "{out}"),
    ],
    "write_submission {options} --weights {w} --candidates {c} --output {new} --metric probability": [
        *("6 candidates by probability", "{new}", "8 images of 2 classes", "calibrating on 5", "cpu"),
    ],
    "search {options} --weights {w} --output {new} --max-macs 1e9": [
        *("20 generations of 64 subnets by top1", "macs at most 1,000,000,000", "{out}/search", "8 images of 2 classes", "cpu"),
    ],
    "export_subnet {options} --weights {w} --arch {arch} --output {new}": ["exporting from {w}", "cpu", "over 5 images", "{new}"],
    "score_prior {options} --prior near --candidates {c} --output {new}": ["near of 6 subnets", "cpu", "3 seeds of 64", "{out}"],
    "verify_entry {options} --weights {w} --submission {c}": ["6 candidates", "{w}", "8 images of 2 classes", "cpu"],
}


@pytest.fixture
def names(tool: Tool, image_folder: Path, tmp_path: Path, tiny_weights: Path) -> dict[str, object]:
    assert tool("sample_candidates", "--space", TINY_SPACE, "--count", 6, "--output", tmp_path / "c.json")[0] == 0
    few = "train.batch_size=4 train.epochs=1 train.watch_images=0 train.watch_subnets=0 score.calibration_images=5"
    images = f"data.source=folder data.root={image_folder} data.workers=0 data.max_unreadable=0.5 model.num_classes=10"
    options = f"-c {TINY_CONFIG} -o output_dir={tmp_path / 'out'} device=cpu {images} {few}"
    files = {"w": tiny_weights, "c": tmp_path / "c.json", "new": tmp_path / "new", "out": tmp_path / "out"}
    return {"options": options, "arch": TINY.smallest, **files}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_what_begins_is_said_before_an_image_is_read(
    tool: Tool, names: dict[str, object], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def end(*_: object) -> None:
        raise UserError("an image was read")

    for name in ("read", "fingerprint"):
        monkeypatch.setattr(Folder, name, end)
    status, out, error = tool(*command.format(**names).split())
    assert status == 2 and error.splitlines()[-1].endswith("an image was read"), error
    lines = out.splitlines()
    assert 1 <= len(lines) <= 3
    for words in COMMANDS[command]:
        assert words.format(**names) in out, out


def test_a_head_of_more_classes_than_folders_is_said(tool: Tool, names: dict[str, object], tmp_path: Path) -> None:
    command = "write_submission {options} --weights {w} --candidates {c} --output {new}"
    status, _, error = tool(*command.format(**names).split())
    assert status == 0 and "a network of 10 classes, of which data.root has 2" in error
    arrays, record = records.read(str(names["w"]))
    known = names | {"w": tmp_path / "known.safetensors"}
    records.write(str(known["w"]), record | {"classes": ["bright", "dark"]}, arrays)
    status, _, error = tool(*command.format(**known).split())
    assert status == 0 and "a network of 10 classes" not in error


def test_a_small_trial_ranks_the_first_candidates_by_probability(
    tool: Tool, names: dict[str, object], tmp_path: Path, few_resamples: None
) -> None:
    """On any folder, without any training, where every top-1 may be 0."""
    out = {name: tmp_path / f"{name}.json" for name in ("trial", "flops", "compared")}
    scoring = "write_submission {options} data.val_limit=6 model.pretrained={w} --untrained --candidates {c} --first 5"
    command = f"{scoring} --metric probability --output {out['trial']}".format(**names)
    status, _, error = tool(*command.split())
    assert status == 0, error
    scores = json.loads(out["trial"].read_text())
    assert len({entry["acc"] for entry in scores.values()}) == len(scores) == 5
    prior = f"score_prior -c {TINY_CONFIG} --prior flops --candidates {out['trial']} --output {out['flops']}"
    assert tool(*prior.split())[0] == 0
    files = [out["trial"], out["flops"], "--space", TINY_SPACE]
    status, _, error = tool("compare", *files, "--json", out["compared"], "--output", tmp_path / "report")
    assert status == 0 and "<svg" in (tmp_path / "report").read_text(), error
    assert -1 <= json.loads(out["compared"].read_text())["rows"][0]["kendall"]["value"] <= 1
    _, text, _ = tool("compare", "--validate", out["trial"], "--candidates", names["c"], "--space", TINY_SPACE)
    assert "by an untrained network, of the first 5 of the 6 candidates" in text
