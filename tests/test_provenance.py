"""Where a report's images, classes, commands, configurations and versions come from."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Tool
from pages import Elements
from safetensors.numpy import save

from paddle_pgonas.config.loading import CONFIGS, load_config, save_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.priors.cost import macs
from paddle_pgonas.report.comparison import compare
from paddle_pgonas.report.page import write_page
from paddle_pgonas.report.plots import TRAINING, pictures
from paddle_pgonas.report.provenance import read_provenance, run_config
from paddle_pgonas.scores.files import sample_candidates, write_scores
from paddle_pgonas.space.named import find_space

SPACE_FILE = str(REPOSITORY / "studies" / "demo" / "space.yaml")
DEMO = find_space(SPACE_FILE)
pytestmark = pytest.mark.usefixtures("few_resamples")


def safetensors_file(record: str) -> bytes:
    """A file without arrays that says it is a run's weights."""
    return save({}, metadata={"record": record})


def demo_files(folder: Path) -> list[str]:
    """Two score files of the demo's space, whose runs have 10 classes and images of 8 pixels."""
    candidates, rng = sample_candidates(DEMO, 12, seed=0), np.random.default_rng(0)
    for name in ("truth.json", "s.json"):
        write_scores(folder / name, candidates, rng.random(12).tolist())
    return [str(folder / "truth.json"), str(folder / "s.json")]


def chain(folder: Path, method: str) -> Path:
    """A run whose supernet began with the weights of a stand-alone training, with the records that tools leave."""
    config = load_config(CONFIGS / "demo.yaml", [f"space={SPACE_FILE}", f"method={method}", f"output_dir={folder}/run"])
    pretrained, weights = folder / "largest.safetensors", folder / "run" / "supernet.safetensors"
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "loss/random": 2.0}\n{"step": 2, "loss/random": 3.0}\n')
    foreign = {"model": {"pretrained": str(folder / "foreign.pdparams")}, "data": {"root": "some/images"}}
    records.write(pretrained, {"command": "python train_largest", "config": foreign})
    config = config.model_copy(update={"model": config.model.model_copy(update={"pretrained": str(pretrained)})})
    training, versions = config.model_dump(mode="json"), {"paddle": "9.8.7", "commit": "abc123"}
    records.write(weights, {"command": "python train_supernet", "config": training, "step": 7, "versions": versions})
    scoring = {"weights": [str(weights)], "training": [training], "trained_steps": [7], "prior": None, "amp": True}
    scoring |= {"command": "python score", "candidate_file": "c.json", "config": {"data": {"image_size": 12}}, "seconds": 1.5}
    scoring |= {"versions": versions, "sample": {"seed": 3, "names": ["a"]}, "model": {"num_classes": 3}}
    (folder / "s.record.json").write_text(json.dumps(scoring))
    save_config(config, folder / "run" / "config.yaml")
    return folder / "run"


@pytest.mark.parametrize("with_run", [True, False])
def test_all_commands_are_told_in_the_order_of_their_use_and_what_has_none_is_named(tmp_path: Path, with_run: bool) -> None:
    truth, scores = demo_files(tmp_path)
    run = chain(tmp_path, "progressive")
    found = read_provenance(run if with_run else None, [scores, truth], "python compare", run_config(run) if with_run else None)
    largest, supernet, *others = found.commands
    assert (largest, others) == ("python train_largest", ["python score", "python compare"])
    assert supernet == "python train_supernet" or (with_run and f"-c {run}/config.yaml" in supernet)
    assert set(found.missing) == {truth, str(tmp_path / "foreign.pdparams"), "the images in some/images", "the candidates c.json"}
    assert len(found.configs) == 1 and "progressive" in next(iter(found.configs.values()))
    assert (found.image_size, found.num_classes) == ((8, 10) if with_run else (12, None))


def test_the_page_holds_no_spellings_of_python(tmp_path: Path) -> None:
    truth, scores = demo_files(tmp_path)
    run = chain(tmp_path, "progressive")
    found = compare([scores], truth, space=DEMO)
    provenance = read_provenance(run, [scores, truth], "it", run_config(run))
    write_page(tmp_path / "report.html", found, pictures(found, provenance.metrics), provenance)
    words = Elements((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert not re.search(r"\b(None|True|False)\b|\['|\{'| object at |\bnan\b", words)
    assert found.rows[0].name == "progressive" in words
    assert "trained steps 7" in words and "abc123" in words


@pytest.mark.parametrize(("method", "rises"), [("progressive", True), ("phases", True), ("sandwich", False)])
def test_a_loss_that_rises_by_the_method_is_explained_beside_the_curve(tmp_path: Path, method: str, rises: bool) -> None:
    truth, scores = demo_files(tmp_path)
    run = chain(tmp_path, method)
    found, provenance = compare([scores], truth, space=DEMO), read_provenance(run, [scores], "it", run_config(run))
    shown = [picture for picture in pictures(found, provenance.metrics) if picture.section == TRAINING]
    write_page(tmp_path / "report.html", found, shown, provenance)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert shown and ("<p>" in page.split(f"<h2>{TRAINING}</h2>")[1].split("<svg")[0]) == rises


def test_costs_are_not_drawn_against_themselves(tmp_path: Path) -> None:
    truth, scores = demo_files(tmp_path)
    candidates = sample_candidates(DEMO, 12, seed=0)
    write_scores(tmp_path / "cost.json", candidates, [macs(entry.arch, 16, 10) for entry in candidates])
    found = compare([scores, tmp_path / "cost.json"], truth, space=DEMO, image_size=8, num_classes=10)
    stems = [picture.stem for picture in pictures(found)]
    assert "rank_2_cost" in stems and "cost_1_s" in stems
    assert not [stem for stem in stems if stem.startswith("cost_2")]


def test_an_empty_run_folder_is_fine_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert read_provenance(tmp_path, [], "it").commands == ["it"]
    with pytest.raises(UserError, match=r"nowhere: no such folder; --run takes"):
        read_provenance(tmp_path / "nowhere", [], "it")


def test_files_of_one_name_and_several_trainings_of_a_file_are_all_told(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        record = {"acc": folder, "training": [{"seed": 0, "of": folder}, {"seed": 1, "of": folder}]}
        (tmp_path / folder / "s.record.json").write_text(json.dumps(record))
    found = read_provenance(None, [tmp_path / folder / "s.json" for folder in "ab"], "it")
    assert [facts["acc"] for facts in found.facts.values()] == ["a", "b"]
    assert len(found.configs) == 4


@pytest.mark.parametrize(
    "damage",
    [
        {"metrics.jsonl": b'{"step": 1, "lr": 2}\n\xff\xfe\n[1]\n{"step": "x", "lr": 1}\n{"lr": 1e999, "step": 2}\n'},
        {"metrics.jsonl": b'{"step": 1, "lr": 1' + b"0" * 400 + b', "accuracy": "high"}\n{"step": 1e308, "lr": -1e308}\n'},
        {"config.yaml": b"seed: \xff"},
        {"config.yaml": b"data: &a {data: *a}"},
        {"config.yaml": b"[" * 5000},
        {"supernet.safetensors": b"\xff" * 100},
        {"supernet.safetensors": safetensors_file("[1]")},
        {"supernet.safetensors": safetensors_file('{"versions": 3}')},
        {"s.record.json": b'{"config": [1], "versions": "x", "command": null}'},
        {"s.record.json": b'{"command": ["python"], "weights": [null]}'},
    ],
    ids=range(10),
)
def test_damaged_files_of_a_run_are_left_out_or_named(tmp_path: Path, damage: dict[str, bytes]) -> None:
    truth, scores = demo_files(tmp_path)
    found = compare([scores], truth, space=DEMO)
    for name, content in damage.items():
        (tmp_path / name).write_bytes(content)
    provenance = read_provenance(tmp_path, [str(tmp_path / "s.json")], "it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_page(tmp_path / "report.html", found, pictures(found, provenance.metrics)[-2:], provenance)
    assert provenance.commands[-1] == "it"


def test_costs_are_those_of_the_runs_images_and_classes(tmp_path: Path) -> None:
    truth, scores = demo_files(tmp_path)
    found = compare([scores], truth, space=DEMO, image_size=8, num_classes=10)
    shown = {picture.stem: picture for picture in pictures(found)}
    for arch, point in zip(found.rows[0].archs, shown["cost_1_s"].points, strict=True):
        millions = macs(arch, 8, 10) / 1e6
        assert point.x == millions
        assert f"{millions:.3g} million multiply-accumulates" in point.text
    assert f"{macs(found.rows[0].archs[0], 8, 10) / 1e6:.3g} million" in shown["rank_1_s"].points[0].text
    assert "at 8 pixels with 10 classes" in shown["cost_1_s"].caption
    assert shown["cost_1_s"].figure.axes[0].get_xlabel() == "million MACs at 8 pixels with 10 classes"
    write_page(tmp_path / "report.html", found)
    assert "assumed" not in Elements((tmp_path / "report.html").read_text(encoding="utf-8")).words


def test_where_nobody_tells_images_and_classes_the_page_says_what_is_assumed(tmp_path: Path) -> None:
    truth, scores = demo_files(tmp_path)
    assert compare([scores], truth, space=DEMO, image_size=12).setting == (12, 1000, "1,000 classes")
    write_page(tmp_path / "report.html", compare([scores], truth, space=DEMO))
    words = "assumed are images of 8 pixels, as is usual for space demo, and 1,000 classes"
    assert words in Elements((tmp_path / "report.html").read_text(encoding="utf-8")).words


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (["--run", "run"], (8, 10)),
        (["--run", "run", "--classes", "7"], (8, 7)),
        (["-c", "run/config.yaml", "--image-size", "16"], (16, 10)),
        (["--space", SPACE_FILE, "--image-size", "16", "--classes", "7"], (16, 7)),
        (["--space", SPACE_FILE], (8, 1000)),
    ],
)
def test_the_tool_takes_images_and_classes_from_options_a_configuration_or_the_run(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], setting: tuple[int, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    truth, scores = demo_files(tmp_path)
    save_config(load_config(CONFIGS / "demo.yaml", [f"space={SPACE_FILE}"]), tmp_path / "run" / "config.yaml")
    status, out, err = tool("compare", scores, "--truth", truth, "--output", "report.html", "--labels", "mine", *options)
    assert status == 0, err
    assert out.startswith("mine ")
    page = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"at {setting[0]} pixels with {setting[1]:,} classes" in page.words
    assert ("assumed" in page.words) == (setting == (8, 1000))


def test_a_runs_configuration_that_cannot_be_used_is_named_and_its_images_are_not(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    truth, scores = demo_files(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: {image_size: 9, no_such_key: 1}\n")
    status, _, err = tool("compare", scores, "--truth", truth, "--output", "report.html", "--run", "run", "--space", SPACE_FILE)
    assert status == 0 and "not used: run/config.yaml" in err and "no_such_key" in err
    assert "assumed" in (tmp_path / "report.html").read_text(encoding="utf-8")
