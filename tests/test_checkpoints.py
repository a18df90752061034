"""A resumed run equals an uninterrupted one; a damaged checkpoint or an impossible resume is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from short_runs import CONFIGS, config, equal, plain, weights

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.methods import sampling
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import OPTIMIZER, read_weights
from paddle_pgonas.scores.files import Candidate, read_candidates, write_scores
from paddle_pgonas.training import trainer
from paddle_pgonas.training.checkpoints import checkpoints, load_latest
from paddle_pgonas.training.run import make_optimizer
from paddle_pgonas.training.trainer import train_supernet as train


@pytest.mark.parametrize("method", ["uniform", "pgonas"])
def test_resume_is_bit_identical_to_an_undisturbed_run(tmp_path: Path, method: str) -> None:
    """The uniform method leaves blocks without a gradient in a step, whose momentum must go on all the same."""

    def run(name: str, steps: int, resume: bool = False) -> Path:
        return train(config(tmp_path / name, method=method, max_steps=steps, random_subnets=1), resume)

    whole = weights(run("whole", 8))
    run("parts", 4)
    with pytest.raises(UserError, match="resume=True"):
        run("parts", 8)
    assert equal(weights(run("parts", 8, resume=True)), whole)
    assert [line["step"] for line in read_json_lines(tmp_path / "parts" / "metrics.jsonl")] == list(range(8))


def test_parameters_that_no_step_has_used_stay_as_they_are_also_after_a_resume(tmp_path: Path) -> None:
    def run(name: str, steps: int, resume: bool = False, unused: str = "no_gradient") -> dict[str, np.ndarray]:
        settings = {"method": "uniform", "random_subnets": 1, "weight_decay": 0.1, "unused_parameters": unused}
        return weights(train(config(tmp_path / name, max_steps=steps, **settings), resume))

    start, one, whole = run("start", 1, unused="zero_gradient"), run("parts", 1), run("whole", 6)
    kept = weights(checkpoints(tmp_path / "parts" / "checkpoints")[0])
    unused = [name for name in one if OPTIMIZER + name not in kept and not name.endswith(("_mean", "_variance"))]
    assert unused and any((start[name] != one[name]).any() for name in unused)  # weight decay has shrunk them
    run("parts", 2, resume=True)
    assert equal(run("parts", 6, resume=True), whole)
    fresh = {name: array for name, array in weights(train(config(tmp_path / "still", max_steps=1, lr_per_256=0.0))).items()}
    assert all((fresh[name] == one[name]).all() for name in unused)


def test_checkpoints_hold_the_momentum_and_only_the_last_are_kept(tmp_path: Path) -> None:
    for last in (1, 2, 3):
        train(config(tmp_path, max_steps=last, keep_checkpoints=2), resume=last > 1)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-00000002.safetensors", "step-00000003.safetensors"]
    assert any(name.startswith(OPTIMIZER) and value.any() for name, value in weights(kept[0]).items())


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = weights(train(config(tmp_path / "whole", max_steps=3)))
    for last in (1, 2):
        train(config(tmp_path / "cut", max_steps=last), resume=last > 1)
    newest = max((tmp_path / "cut" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert equal(weights(train(config(tmp_path / "cut", max_steps=3), resume=True)), whole)
    assert f"skipped: {newest}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for last in (1, 2):
        train(config(folder, max_steps=last), resume=last > 1)
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def target() -> tuple[Supernet, Any]:
    net = Supernet(TINY, 10, "prelu")
    return net, make_optimizer(config(Path()).train, net.model.parameters())


def flip(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 0.999999), in_header=st.booleans())
def test_a_flipped_bit_falls_back_to_the_checkpoint_before(
    two_checkpoints: Path, target: tuple[Supernet, Any], capsys: pytest.CaptureFixture[str], place: float, in_header: bool
) -> None:
    older, newest = checkpoints(two_checkpoints)
    whole = newest.read_bytes()
    newest.write_bytes(flip(whole, int(place * 8 * (20_000 if in_header else len(whole)))))
    try:
        record = load_latest(two_checkpoints, *target, check=lambda record: None)
    finally:
        newest.write_bytes(whole)
    assert record is not None and record["step"] == 1
    assert f"skipped: {newest}" in capsys.readouterr().err
    assert equal(plain(target[0]), read_weights(older)[0])


@pytest.mark.parametrize("change", ["no config", "no tensor", "shape", "momentum", "no checksum", "empty", "folder"])
def test_whatever_is_wrong_with_a_checkpoint_the_one_before_is_taken(
    two_checkpoints: Path, target: tuple[Supernet, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    arrays, record = records.read(newest)
    [name, *_], [momentum, *_] = (sorted(n for n in arrays if n.startswith(OPTIMIZER) == kind) for kind in (False, True))
    if change == "no config":
        records.write(newest, {key: value for key, value in record.items() if key != "config"}, arrays)
    elif change == "no tensor":
        records.write(newest, record, {key: array for key, array in arrays.items() if key != name})
    elif change in ("shape", "momentum"):
        wrong = name if change == "shape" else momentum
        records.write(newest, record, arrays | {wrong: np.zeros((3, 2), np.float32)})
    elif change == "no checksum":
        save_file(arrays, newest, metadata={"record": json.dumps(record)})
    else:
        newest.unlink()
        newest.write_bytes(b"") if change == "empty" else newest.mkdir()
    found = load_latest(tmp_path / "checkpoints", *target, check=lambda record: None)
    assert found is not None and found["step"] == 1
    assert f"skipped: {newest}" in capsys.readouterr().err


def test_without_any_whole_checkpoint_a_resume_is_refused(two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    for path in checkpoints(tmp_path / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"all checkpoints are damaged.*output_dir"):
        train(config(tmp_path), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_lost_its_checkpoints_is_not_overwritten(two_checkpoints: Path, tmp_path: Path, resume: bool) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints.parent, run)
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"}
    for missing in (None, "supernet.safetensors"):
        if missing:
            del before[run / missing]
            (run / missing).unlink()
            (run / "metrics.jsonl").write_text('{"step": 41, "epoch": 1}\n')
            before[run / "metrics.jsonl"] = (run / "metrics.jsonl").read_bytes()
        with pytest.raises(UserError, match="checkpoints are missing; choose another output_dir"):
            train(config(run), resume)
        assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("options", [{"resume": True}, {"other_data": True}])
def test_there_must_be_a_run_to_resume(tmp_path: Path, options: dict[str, bool]) -> None:
    """A mistyped folder would begin days of training again."""
    (tmp_path / "notes.txt").write_text("the user's")
    with pytest.raises(UserError, match=f"{tmp_path} holds no run to continue; correct output_dir"):
        train(config(tmp_path), **options)
    assert not list(tmp_path.rglob("*.safetensors"))
    train(config(tmp_path, max_steps=1))
    shutil.rmtree(tmp_path / "checkpoints")
    for name in ("metrics.jsonl", "supernet.safetensors"):  # as if killed before all of these
        (tmp_path / name).unlink()
    train(config(tmp_path, max_steps=1), **options)


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_with_resume_only(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0, "epoch": 0}\n\xff\xfe\n[1]\n{"step": "x"}\n{"step": 1, "ep')
    with pytest.raises(UserError, match="resume=True"):
        train(config(tmp_path, max_steps=2))
    train(config(tmp_path, max_steps=2), resume=True)
    assert [line["step"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [0, 1]


def test_resuming_another_configuration_names_the_key(tmp_path: Path) -> None:
    train(config(tmp_path, max_steps=1))
    with pytest.raises(UserError, match=r"train\.lr_per_256=0\.2, now it is 0\.3"):
        train(config(tmp_path, max_steps=2, lr_per_256=0.3), resume=True)


def test_more_steps_trained_than_asked_for_are_refused(tmp_path: Path) -> None:
    train(config(tmp_path, max_steps=2))
    with pytest.raises(UserError, match=r"step 2 is trained, .* train\.max_steps=1"):
        train(config(tmp_path, max_steps=1), resume=True)


def test_a_measurement_that_was_interrupted_is_made_after_the_resume(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, max_steps=2, watch_images=10, watch_at=[0, 0.5, 1])

    def dies(net: Supernet, step: int) -> dict[str, float]:
        if step == 2:
            raise KeyboardInterrupt
        return {"seen": step}

    with pytest.raises(KeyboardInterrupt):
        train(settings, watch=dies)
    train(settings, resume=True, watch=lambda net, step: {"seen": step})
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert [line["seen"] for line in lines if "seen" in line] == [0, 1, 2]


def test_another_candidate_file_or_teacher_at_the_same_path_is_refused(tmp_path: Path) -> None:
    teacher = train(config(tmp_path / "teacher", max_steps=1))
    settings = {"method": "uniform", "random_subnets": 1, "teacher": str(teacher), "sampler": "candidates"}
    settings |= {"candidates": str(tmp_path / "candidates.json")}
    listed = [Candidate("arch1", TINY.smallest, TINY.smallest.code, None)]
    write_scores(tmp_path / "candidates.json", listed, [0.0])
    train(config(tmp_path / "run", max_steps=1, **settings))
    for changed, write in (
        ("candidates", lambda: write_scores(tmp_path / "candidates.json", listed, [1.0])),
        ("teacher", lambda: train(config(tmp_path / "teacher", max_steps=2), resume=True)),
    ):
        kept = Path(settings[changed]).read_bytes()
        write()
        with pytest.raises(UserError, match=rf"contents of method\.{changed} have changed"):
            train(config(tmp_path / "run", max_steps=2, **settings), resume=True)
        Path(settings[changed]).write_bytes(kept)
    train(config(tmp_path / "run", max_steps=2, **settings), resume=True)


def test_a_candidate_file_that_changes_after_it_was_read_is_not_recorded_as_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "candidates.json", Candidate("arch1", TINY.largest, TINY.largest.code, None)
    write_scores(path, [Candidate("arch1", TINY.smallest, TINY.smallest.code, None)], [0.0])

    def read_and_changed(*arguments: Any) -> list[Candidate]:
        found = read_candidates(*arguments)
        write_scores(path, [other], [0.0])
        return found

    monkeypatch.setattr(sampling, "read_candidates", read_and_changed)
    settings = {"method": "uniform", "random_subnets": 1, "sampler": "candidates", "candidates": str(path)}
    with pytest.raises(UserError, match=r"method\.candidates: the file was changed while it was read"):
        train(config(tmp_path / "run", max_steps=1, **settings))


def test_a_teacher_has_the_activation_that_it_was_trained_with(tmp_path: Path) -> None:
    base = config(tmp_path / "teacher", max_steps=1)
    teacher = train(base.changed(model={"activation": "prelu"}))
    train(config(tmp_path / "run", max_steps=1, method="uniform", random_subnets=1, teacher=str(teacher)))


def images_config(folder: Path, images: Path, steps: int) -> Config:
    base = load_config(
        CONFIGS / "mini" / "folder.yaml",
        [f"data.root={images}", "model.num_classes=3", "train.watch_images=0", "train.watch_subnets=0"],
    )
    return base.changed(output_dir=str(folder), train={"batch_size": 4, "epochs": 5, "max_steps": steps})


def test_other_training_images_are_refused_and_named(tmp_path: Path, image_folder: Path) -> None:
    def resume(**options: Any) -> Path:
        return train(images_config(tmp_path, image_folder, 3), **(options or {"resume": True}))

    train(images_config(tmp_path, image_folder, 1))
    moved = image_folder.rename(tmp_path / "moved")
    train(images_config(tmp_path, moved, 2), resume=True)  # the same images elsewhere
    image_folder = moved
    image = image_folder / "train" / "dark" / "1.png"
    whole = image.read_bytes()
    image.write_bytes((image_folder / "train" / "dark" / "5.png").read_bytes())
    with pytest.raises(UserError, match=r"contents of the 12 training images of 2 classes have changed"):
        resume()
    image.unlink()
    with pytest.raises(UserError, match="12 training images of 2 classes, now there are 11 training images of 2 classes;"):
        resume()
    image.write_bytes(whole)
    for split in ("train", "val"):
        (image_folder / split / "black").mkdir()
        (image_folder / split / "black" / "0.png").write_bytes(whole)
    with pytest.raises(
        UserError, match=r"now there are 13 training images of 3 classes \(label 0 was 'bright', now it is 'black'\)"
    ):
        resume()
    resume(other_data=True)


def test_a_checkpoint_that_names_no_images_is_resumed_only_on_request(tmp_path: Path) -> None:
    train(config(tmp_path, max_steps=1))
    [path] = checkpoints(tmp_path / "checkpoints")
    arrays, record = records.read(path)
    del record["training_images"]
    records.write(path, record, arrays)
    with pytest.raises(UserError, match=r"does not say which images.*other_data=True"):
        train(config(tmp_path, max_steps=2), resume=True)
    train(config(tmp_path, max_steps=2), resume=True, other_data=True)


def test_a_run_begun_anew_leaves_nothing_of_the_earlier_one_and_touches_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(run, max_steps=3))
    for mine in ("notes.txt", "checkpoints/best.safetensors", "visualdl/notes.log"):
        (run / mine).write_text("mine")
    again = train(config(run, max_steps=1, lr_per_256=0.3), overwrite=True)
    assert equal(weights(again), weights(train(config(tmp_path / "other", max_steps=1, lr_per_256=0.3))))
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-00000001.safetensors"]
    assert [line["step"] for line in read_json_lines(run / "metrics.jsonl")] == [0]
    assert len(list(run.glob("visualdl/vdlrecords.*.log"))) == 1  # the new run's
    assert len(list(run.rglob("*notes*"))) == 2 and (run / "checkpoints" / "best.safetensors").exists()
    train(config(tmp_path / "new", max_steps=1), overwrite=True)  # a folder without a run is no mistake


def test_a_run_is_not_removed_before_the_new_one_can_begin_nor_if_it_is_needed(two_checkpoints: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints.parent, run)
    kept = str(checkpoints(run / "checkpoints")[-1])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    mistakes = {
        "no such": config(run).changed(model={"pretrained": str(tmp_path / "nowhere.safetensors")}),
        "is read and would be": config(run).changed(model={"pretrained": kept}),
    }
    for message, changed in mistakes.items():
        with pytest.raises(UserError, match=message):
            train(changed, overwrite=True)
    with pytest.raises(UserError, match="give one of the two"):
        trainer.train(config(run), resume=True, overwrite=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_no_training_wrote_into_this_folder_is_not_removed(two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"step-.*exists, and is of no run"):
        train(config(tmp_path), overwrite=True)
    assert len(checkpoints(tmp_path / "checkpoints")) == 2
