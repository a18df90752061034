"""A published entry is repeated from its weights: a stand-in in the published form, with accuracies of a plain evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import TINY, TINY_CONFIG, Tool, assert_one_line, fill_golden, some_archs, tiny_config

from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.nn.supernet import Supernet, extract

ARCHS = some_archs(TINY, 12)
IMAGES = 300


def golden(activation: str) -> Supernet:
    net = Supernet(TINY, 10, activation)
    fill_golden(net)
    net.eval()
    return net


@pytest.fixture(scope="module")
def accs(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Each subnet's top-1 on the images, of the PReLU network."""
    config, net = tiny_config(tmp_path_factory.mktemp("images"), f"data.val_limit={IMAGES}"), golden("prelu")
    images = open_images(config).validation
    x = to_network(np.asarray(images.images), config.data)
    with paddle.no_grad():
        return [float((extract(net, arch)(x).argmax(-1).numpy() == images.labels).mean()) for arch in ARCHS]


def save_as_published(path: Path, net: Supernet) -> None:
    """As several GPUs save it: every prefix, the slopes under another name, and a teacher's copy."""
    students = {f"_layers.{name}".replace(".act._weight", ".relu2._weight"): value for name, value in net.state_dict().items()}
    paddle.save(students | {f"_layers.ofa_teacher_model.{name}": value * 0 for name, value in net.weights().items()}, str(path))


def write_entry(path: Path, accs: list[float]) -> None:
    path.write_text(
        json.dumps({f"arch{n}": {"acc": acc, "arch": arch.code} for n, (acc, arch) in enumerate(zip(accs, ARCHS, strict=True))})
    )


@pytest.fixture
def arguments(tmp_path: Path, accs: list[float]) -> list[object]:
    save_as_published(tmp_path / "final.pdparams", golden("prelu"))
    write_entry(tmp_path / "entry.json", accs)
    files = ["--weights", tmp_path / "final.pdparams", "--submission", tmp_path / "entry.json"]
    return ["-c", TINY_CONFIG, *files, "-o", f"output_dir={tmp_path}", f"data.val_limit={IMAGES}", "device=cpu"]


def test_an_entry_agrees_with_its_weights_in_every_image(tool: Tool, arguments: list[object]) -> None:
    status, out, _ = tool("verify_entry", *arguments, "model.activation=mish")  # the slopes tell the activation
    assert status == 0
    assert "12 of 12 agree exactly" in out
    assert "tau of the two rankings: 1.0000" in out
    status, out, _ = tool("verify_entry", *arguments, "score.bn=calibrated", "--first", "3")  # as published in any case
    assert status == 0
    assert "3 of 3 agree exactly" in out


def test_one_falsified_accuracy_is_found(tool: Tool, tmp_path: Path, accs: list[float], arguments: list[object]) -> None:
    write_entry(tmp_path / "entry.json", [*accs[:7], accs[7] + 1 / IMAGES, *accs[8:]])
    status, out, _ = tool("verify_entry", *arguments)
    assert status == 1
    assert "11 of 12 agree exactly; largest difference in images: 1" in out
    assert f"arch7: {accs[7]:.5f} here" in out


def test_rounded_accuracies_agree_and_those_of_other_images_are_noted(
    tool: Tool, tmp_path: Path, accs: list[float], arguments: list[object]
) -> None:
    write_entry(tmp_path / "entry.json", [round(acc, 4) for acc in accs])
    status, out, _ = tool("verify_entry", *arguments)
    assert (status, "note" in out) == (0, False)
    status, out, _ = tool("verify_entry", *arguments, "data.val_limit=200")
    assert status == 1
    assert "no multiples of 1/200" in out


def test_an_activation_that_nothing_tells_must_be_given(tool: Tool, tmp_path: Path, arguments: list[object]) -> None:
    save_as_published(tmp_path / "final.pdparams", golden("mish"))
    status, _, err = tool("verify_entry", *arguments, "model.activation=prelu")
    assert_one_line(status, err, "model.activation=mish")
    status, out, _ = tool("verify_entry", *arguments, "model.activation=mish")
    assert "activation mish" in out


def test_percentages_are_refused_before_anything_is_scored(
    tool: Tool, tmp_path: Path, accs: list[float], arguments: list[object]
) -> None:
    write_entry(tmp_path / "entry.json", [100 * acc for acc in accs])
    status, _, err = tool("verify_entry", *arguments)
    assert_one_line(status, err, "must be in [0, 1]")
    assert not (tmp_path / "scores").exists()
