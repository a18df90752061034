"""An exported subnet computes the same logits as the scorer, in every format."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import REPOSITORY, TINY, fill_golden, some_archs, tiny_config
from paddle import nn

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting import export as exporting
from paddle_pgonas.exporting.export import COMMAND, export, load_subnet, parity
from paddle_pgonas.exporting.inference import open_inference_model
from paddle_pgonas.io.files import write_text
from paddle_pgonas.io.outputs import NOTES, claim
from paddle_pgonas.nn.elastic import calibrate
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.nn.weights import read_weights, save_weights
from paddle_pgonas.scoring.scorer import score
from paddle_pgonas.space.arch import TRACK1_THIN

ARCH = some_archs(TINY, 3)[2]


@pytest.fixture
def supernet(tiny_weights: Path) -> tuple[Supernet, Path]:
    net = Supernet(TINY, 10, "prelu")
    fill_golden(net)
    return net, tiny_weights


@pytest.mark.parametrize("bn", ["calibrated", "running"])
def test_the_inference_model_gives_the_scorers_metrics(tmp_path: Path, supernet: tuple[Supernet, Path], bn: str) -> None:
    net, weights = supernet
    config = tiny_config(tmp_path, f"score.bn={bn}", "score.calibration_images=40")
    record = export(config, weights, ARCH, tmp_path / "out", images=30)
    assert all(figures["difference"] < 1e-5 for figures in record["parity"].values())
    assert all(figures["same_predictions"] == 1 for figures in record["parity"].values())
    assert json.loads((tmp_path / "out" / "record.json").read_text())["trained_steps"] == 7
    assert (tmp_path / "out" / "code.txt").read_text().strip() == ARCH.code

    # Independently of the export's own check: the model on all scoring images against the scorer's loss and top-1.
    data = open_images(config).for_scoring(config.score)
    [[top1, _, _, loss]] = score(net, [ARCH], data, config.data, config.score)
    x = to_network(paddle.to_tensor(data.images), config.data).numpy()
    for network in (open_inference_model(tmp_path / "out"), lambda x: load_subnet(tmp_path / "out")(paddle.to_tensor(x)).numpy()):
        logits = np.concatenate([network(x[:1]), network(x[1:14]), network(x[14:])])  # three batch sizes
        assert (logits.argmax(1) == data.labels).mean() == top1
        wanted = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), data.labels]
        assert wanted.mean() == pytest.approx(loss, rel=1e-4)


def test_a_killed_exports_files_are_removed_by_the_next(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    left = tmp_path / "out" / NOTES / "export" / "inference.json"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    export(tiny_config(tmp_path, "score.bn=running"), supernet[1], ARCH, tmp_path / "out", images=2)
    assert not left.parent.exists()
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [NOTES]


def test_the_two_statistics_are_not_the_same(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    """Else the test above could not tell a forgotten calibration."""
    for bn in ("calibrated", "running"):
        export(tiny_config(tmp_path, f"score.bn={bn}"), supernet[1], ARCH, tmp_path / bn, images=4)
    x = np.random.RandomState(0).standard_normal((4, 3, 8, 8)).astype("float32")
    calibrated, running = (open_inference_model(tmp_path / bn)(x) for bn in ("calibrated", "running"))
    assert parity(calibrated, running).difference > 0.01


def test_weights_keep_the_challenges_names(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    net, weights = supernet
    export(tiny_config(tmp_path, "score.bn=running"), weights, ARCH, tmp_path / "out", images=2)
    arrays, record = read_weights(tmp_path / "out" / "subnet.safetensors")
    assert record["arch"] == ARCH.code
    wanted = extract(net, ARCH).state_dict()
    assert set(arrays) == set(wanted)
    assert all((arrays[name] == tensor.numpy()).all() for name, tensor in wanted.items())


def test_an_export_says_what_it_is_and_takes_no_other_size(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    record = export(tiny_config(tmp_path, "score.bn=running"), supernet[1], ARCH, tmp_path / "out", images=2)
    assert json.loads((tmp_path / "out" / "record.json").read_text())["classes"] == [str(digit) for digit in range(10)]
    assert {"colours": "RGB", "value_range": [0, 1], "interpolation": "bilinear"}.items() <= record["input"].items()
    assert record["input"]["shape"] == [None, 3, 8, 8]
    network = open_inference_model(tmp_path / "out")
    assert network(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 10)
    with pytest.raises(UserError, match=r"takes images \[N, 3, 8, 8\], not \[2, 3, 16, 16\]"):
        network(np.zeros((2, 3, 16, 16), np.float32))


def test_exporting_again_leaves_nothing_of_the_last(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    config, out = tiny_config(tmp_path, "score.bn=running"), tmp_path / "out"
    stale = [out / name for name in ("inference.json", "inference.pdmodel", "inference.onnx")]
    export(config, supernet[1], ARCH, out, images=2)
    for path in stale:  # as other versions of Paddle leave them
        path.unlink(missing_ok=True)
        claim(COMMAND, path)
        write_text(path, "stale")
    export(config, supernet[1], ARCH, out, images=2)
    assert not any(path.exists() and path.read_bytes() == b"stale" for path in stale)


def test_a_users_files_in_an_exports_folder_stay_whatever_their_names(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    config, out = tiny_config(tmp_path, "score.bn=running"), tmp_path / "out"
    export(config, supernet[1], ARCH, out, images=2)
    kept = [out / name for name in ("inference.py", "inference.md", ".export-notes/a", ".export-my_notes/a", "inference.part")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("the user's")
    export(config, supernet[1], TINY.smallest, out, images=2)
    assert [path.read_text() for path in kept] == ["the user's"] * len(kept)
    assert load_subnet(out).arch == TINY.smallest
    for name in ("code.txt", "inference.onnx"):
        (out / name).write_text("edited")
        with pytest.raises(UserError, match=rf"{name}: exists, and is not what this command wrote"):
            export(config, supernet[1], ARCH, out, images=2)
        assert (out / name).read_text() == "edited"
        (out / name).unlink()


def test_a_configuration_in_the_exports_folder_stays(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    (out := tmp_path / "out").mkdir()
    (out / "config.yaml").write_text("# notes\nbase: ../other.yaml\n")
    with pytest.raises(UserError, match=r"config\.yaml"):
        export(tiny_config(tmp_path, "score.bn=running"), supernet[1], ARCH, out, images=2)
    assert [path.name for path in out.iterdir()] == ["config.yaml"]


def test_batch_statistics_cannot_be_exported(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    with pytest.raises(UserError, match=r"score\.bn=batch"):
        export(tiny_config(tmp_path, "score.bn=batch"), supernet[1], ARCH, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_computes_something_else_is_not_left_behind(
    tmp_path: Path, supernet: tuple[Supernet, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(subnet: ResNet, folder: Path, image_size: int) -> None:
        subnet.blocks["0"].bn.bias.set_value(paddle.zeros_like(subnet.blocks["0"].bn.bias))
        original(subnet, folder, image_size)

    original = exporting.save_inference_model
    monkeypatch.setattr(exporting, "save_inference_model", broken)
    with pytest.raises(UserError, match="differ"):
        export(tiny_config(tmp_path), supernet[1], ARCH, tmp_path / "out", images=8)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_without_images_running_statistics_are_checked_on_noise(tmp_path: Path) -> None:
    net = Supernet(TRACK1_THIN, 10)
    save_weights(tmp_path / "w.safetensors", net, {})
    config = load_config(
        REPOSITORY / "configs" / "mini" / "track1_thin.yaml", ["model.activation=relu", f"output_dir={tmp_path}"]
    )
    config = config.changed(score={"bn": "running"})
    record = export(config, tmp_path / "w.safetensors", TRACK1_THIN.smallest, tmp_path / "out", images=3)
    assert (record["images"], record["images_are"], record["top1"]) == (3, "noise", None)
    with pytest.raises(UserError, match=r"data\.root"):
        export(config.changed(score={"bn": "calibrated"}),
               tmp_path / "w.safetensors", TRACK1_THIN.smallest, tmp_path / "other")  # fmt: skip


def test_calibration_takes_the_images_own_statistics_and_nothing_else(supernet: tuple[Supernet, Path]) -> None:
    subnet = extract(supernet[0], ARCH)
    before = {name: tensor.numpy().copy() for name, tensor in subnet.state_dict().items()}
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal((9, 3, 8, 8)).astype("float32"))
    calibrate(subnet, [x])
    stem = subnet.blocks["0"]
    np.testing.assert_allclose(stem.bn._mean.numpy(), stem.conv(x).numpy().mean((0, 2, 3)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stem.bn._variance.numpy(), stem.conv(x).numpy().var((0, 2, 3)), rtol=1e-3)
    assert not subnet.training
    assert all(layer._momentum == 0.9 for layer in subnet.sublayers() if isinstance(layer, nn.BatchNorm2D))
    changed = {name.rsplit(".", 1)[1] for name, tensor in subnet.state_dict().items() if (before[name] != tensor.numpy()).any()}
    assert changed == {"_mean", "_variance"}


def test_onnx_computes_the_same(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    record = export(tiny_config(tmp_path), supernet[1], ARCH, tmp_path / "out", onnx=True, images=20)
    assert record["parity"]["onnxruntime / scorer"]["difference"] < 1e-5
    assert (tmp_path / "out" / "inference.onnx").stat().st_size > 1000


def test_a_missing_onnx_package_is_one_line_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install 'paddle2onnx"):
        export(tiny_config(tmp_path), "nowhere", ARCH, tmp_path / "out", onnx=True)


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path, supernet: tuple[Supernet, Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(tiny_config(tmp_path, "score.bn=running"), supernet[1], ARCH, tmp_path / "file", images=2)


@pytest.mark.parametrize("name", ["metrics.jsonl", "notes.txt"])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, supernet: tuple[Supernet, Path], name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text("kept")
    (folder / "config.yaml").write_text("kept")
    with pytest.raises(UserError, match=rf"{name}|config\.yaml"):
        export(tiny_config(tmp_path), supernet[1], TINY.smallest, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: "kept", "config.yaml": "kept"}
