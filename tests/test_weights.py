"""Weights are read under every published name, and unexpected entries are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import fill_golden

from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.nn.building import build_untrained
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import convert_weights, load_weights, read_weights, save_weights
from paddle_pgonas.space.arch import MINI, TRACK1


@pytest.fixture(scope="module")
def trained() -> Supernet:
    net = Supernet(MINI, 10, "prelu")
    fill_golden(net)
    return net


def plain(net: Supernet) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net.weights().items()}


def converted(net: Supernet) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def published(net: Supernet) -> dict[str, np.ndarray]:
    """As PGONAS checkpoints are: every prefix, PReLU under another name, and the teacher's copy."""
    students = {f"_layers.{name}".replace(".act._weight", ".relu2._weight"): value for name, value in converted(net).items()}
    return students | {f"ofa_teacher_model.{name}": value * 0 for name, value in plain(net).items()}


@pytest.mark.parametrize("names", [plain, converted, published])
def test_published_names_load(trained: Supernet, tmp_path: Path, names: Callable[[Supernet], dict[str, np.ndarray]]) -> None:
    paddle.save(names(trained), str(tmp_path / "w.pdparams"))
    net = Supernet(MINI, 10, "prelu")
    load_weights(net, tmp_path / "w.pdparams")
    for name, value in plain(trained).items():
        assert (plain(net)[name] == value).all(), name


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "Student.", "_layers.module.model."])
def test_a_prefix_of_all_names_is_removed_whatever_it_is(trained: Supernet, tmp_path: Path, prefix: str) -> None:
    paddle.save({prefix + name: value for name, value in converted(trained).items()}, str(tmp_path / "w.pdparams"))
    assert read_weights(tmp_path / "w.pdparams")[0].keys() == plain(trained).keys()


def test_names_of_several_prefixes_are_shown_as_they_are(trained: Supernet, tmp_path: Path) -> None:
    both = {prefix + name: value for prefix in ("Student.", "Teacher.") for name, value in plain(trained).items()}
    paddle.save(both, str(tmp_path / "w.pdparams"))
    with pytest.raises(UserError, match=r"holds no weights of this network, but arrays such as Student\.blocks\.0"):
        read_weights(tmp_path / "w.pdparams")
    records.write(tmp_path / "w.safetensors", {}, {"blocks.0.stem": np.ones(1, np.float32)})
    with pytest.raises(UserError, match=r"lacks blocks\.0\.bn\._mean \(its first array is blocks\.0\.stem\)"):
        load_weights(Supernet(MINI, 10), tmp_path / "w.safetensors")


def test_a_path_without_its_extension_suggests_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.pdparams").write_bytes(b"")
    with pytest.raises(UserError, match=r"w: no such weight file; did you mean .*/w\.pdparams\?"):
        read_weights(tmp_path / "w")


def test_a_state_dict_of_tensors_loads(trained: Supernet, tmp_path: Path) -> None:
    paddle.save(trained.state_dict(), str(tmp_path / "w.pdparams"))
    load_weights(Supernet(MINI, 10, "prelu"), tmp_path / "w.pdparams")


def test_safetensors_keep_values_and_record(trained: Supernet, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", trained, {"space": "mini", "step": 3})
    arrays, record = read_weights(tmp_path / "w.safetensors")
    assert record == {"space": "mini", "step": 3}
    assert all((arrays[name] == value).all() for name, value in plain(trained).items())


def test_relu_weights_start_a_prelu_supernet_and_cannot_score_as_one(tmp_path: Path) -> None:
    relu = Supernet(MINI, 10)
    fill_golden(relu)
    save_weights(tmp_path / "w.safetensors", relu, {})
    net = Supernet(MINI, 10, "prelu")
    load_weights(net, tmp_path / "w.safetensors", pretrained=True)
    assert float(net.weights()["blocks.1.act._weight"]) == 0.25
    with pytest.raises(UserError, match=r"model\.activation"):
        load_weights(net, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: Supernet(TRACK1, 10, "prelu"), "not weights of space 'track1'"),
        (lambda: Supernet(MINI, 10, "mish"), "model.activation is 'mish'"),
        (lambda: Supernet(MINI, 12, "prelu"), "model.num_classes=10"),
    ],
)
def test_weights_of_another_supernet_are_refused(
    trained: Supernet, tmp_path: Path, net: Callable[[], Supernet], message: str
) -> None:
    save_weights(tmp_path / "w.safetensors", trained, {"activation": "prelu"})
    with pytest.raises(UserError) as caught:
        load_weights(net(), tmp_path / "w.safetensors")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("activation", ["relu", "prelu", "mish"])
def test_a_file_that_holds_no_weights_of_the_network_is_called_that(tmp_path: Path, activation: str) -> None:
    """Such as a cache's table of digests, which is a safetensors file with a record too."""
    records.write(tmp_path / "file-digests.safetensors", {"activation": 3}, {"stamps": np.zeros([2, 32], np.uint8)})
    with pytest.raises(UserError, match=r"file-digests\.safetensors: holds no weights of this network, but .* stamps"):
        load_weights(Supernet(MINI, 10, activation), tmp_path / "file-digests.safetensors")
    settings = {"pretrained": str(tmp_path / "file-digests.safetensors"), "reorder": False}
    with pytest.raises(UserError, match="holds no weights of this network"):
        build_untrained(MINI, 10, activation, **settings)  # type: ignore[arg-type]


class Hostile:
    def __init__(self, action: tuple[object, tuple[object, ...]]) -> None:
        self.action = action

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.action


@pytest.mark.parametrize("function", [eval, exec, print, getattr, __import__, Path, open])
def test_a_pickle_that_calls_anything_is_refused_unrun(tmp_path: Path, function: Callable[..., object]) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"blocks.0.conv.weight": Hostile((function, (str(tmp_path / "touched"),)))}))
    with pytest.raises(UserError, match="not a safe"):
        read_weights(path)
    assert not (tmp_path / "touched").exists()


def test_a_pickle_hidden_in_an_object_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"x": np.array([Hostile((eval, ("1",)))], dtype=object)}))
    with pytest.raises(UserError, match="not a safe"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps({"a": "b"})])
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_other_files_give_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_refused(trained: Supernet, tmp_path: Path) -> None:
    """ReLU would turn a NaN into a plausible 0."""
    broken = plain(trained)
    broken["blocks.0.bn.weight"] = np.full_like(broken["blocks.0.bn.weight"], np.nan)
    paddle.save(broken, str(tmp_path / "w.pdparams"))
    with pytest.raises(UserError, match=r"blocks\.0\.bn\.weight holds values that are not numbers"):
        load_weights(Supernet(MINI, 10, "prelu"), tmp_path / "w.pdparams")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda array: np.full(array.shape, 1e300), "not numbers in float32"),
        (lambda array: np.full(array.shape, 16256, np.uint16), "bfloat16"),
        (lambda array: np.ones(array.shape, np.int32), "int32"),
    ],
)
def test_weights_that_float32_cannot_hold_are_refused(
    trained: Supernet, tmp_path: Path, values: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    broken = plain(trained)
    broken["blocks.0.bn.weight"] = values(broken["blocks.0.bn.weight"])
    paddle.save(broken, str(tmp_path / "w.pdparams"))
    with pytest.raises(UserError, match=message):
        load_weights(Supernet(MINI, 10, "prelu"), tmp_path / "w.pdparams")


def test_two_arrays_for_one_name_are_refused(trained: Supernet, tmp_path: Path) -> None:
    twice = plain(trained) | {f"model.{name}": value + 1 for name, value in plain(trained).items()}
    paddle.save(twice, str(tmp_path / "w.pdparams"))
    with pytest.raises(UserError, match="two different arrays"):
        read_weights(tmp_path / "w.pdparams")


def test_a_cut_safetensors_file_is_refused(trained: Supernet, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, trained, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a complete safetensors"):
        read_weights(path)


def test_converted_weights_come_back_the_same_and_paddle_reads_them(tmp_path: Path) -> None:
    net = Supernet(MINI, 10, "prelu")
    fill_golden(net)
    save_weights(tmp_path / "w.safetensors", net, {"activation": "prelu"}, extra={"optimizer/x": np.ones(2, np.float32)})
    count = convert_weights(tmp_path / "w.safetensors", tmp_path / "w.pdparams")
    assert count == len(net.weights()) == convert_weights(tmp_path / "w.pdparams", tmp_path / "again.safetensors")
    theirs = paddle.load(str(tmp_path / "w.pdparams"))
    again, _ = read_weights(tmp_path / "again.safetensors")
    for name, tensor in net.weights().items():
        assert (theirs[name].numpy() == tensor.numpy()).all() and (again[name] == tensor.numpy()).all()
    with pytest.raises(UserError, match=r"\.safetensors or \.pdparams"):
        convert_weights(tmp_path / "w.pdparams", tmp_path / "w.onnx")
