"""A .pdparams file is read without running code: Paddle's files come back equal, hostile ones are refused within bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import REPOSITORY
from hostile_pickles import array, content, dtype, hostile_pickles, number, one, saved, text, values

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.pdparams import read_pdparams

READ_EACH = """
import json, os, resource, sys
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.pdparams import read_pdparams

def read(path):
    address_space = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = address_space + 4 * os.path.getsize(path) + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    sys.addaudithook(lambda event, _: event in FORBIDDEN and os._exit(3))
    try:
        read_pdparams(path)
    except UserError as error:
        return os._exit(0 if str(path) in str(error) else 4)
    except BaseException as error:
        os.write(2, f"{path}: {error!r}".encode())
        os._exit(5)
    os._exit(1)

FORBIDDEN = {"import", "exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "ctypes.dlopen"}
results = {}
for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        read(path)
    results[path] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(results))
"""
HARMLESS = {
    "claimed frame",
    "deep nesting",
    "doubled dictionary",
    "doubled tuple as a value",
    "long names of wide characters",
    "memory for numbers",
    "one array under many names",
    "scalar of an object",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's")
def test_hostile_files_run_nothing_within_four_times_their_size_and_two_seconds(tmp_path: Path) -> None:
    paths = {}
    for index, (name, attack) in enumerate(hostile_pickles(str(tmp_path / "touched")).items()):
        paths[name] = tmp_path / f"{index}.pdparams"
        paths[name].write_bytes(attack)
    command = [sys.executable, "-c", READ_EACH, *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    results = json.loads(done.stdout)
    # 0 is a refusal that names the file, 1 a file that is read although it was made to attack.
    assert {name: results[str(path)] for name, path in paths.items()} == {name: int(name in HARMLESS) for name in paths}, (
        done.stderr
    )
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_comes_back_equal(tmp_path: Path, protocol: int) -> None:
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10)
    optimizer = paddle.optimizer.Adam(rate, parameters=net.parameters())
    net(paddle.ones([1, 3, 8, 8])).sum().backward()
    optimizer.step()
    arrays = {
        "float64": np.linspace(-1, 1, 7),
        "half": np.ones((2, 3), np.float16),
        "bool": np.array([True, False]),
        "bytes": np.arange(256, dtype=np.uint8),
        "by columns": np.asfortranarray(np.arange(12).reshape(3, 4)),
        "big-endian": np.arange(5, dtype=">i4"),
        "empty": np.zeros((0, 3), np.float32),
        "one number": np.array(2.5),
    }
    others = {"epoch": 3, "seed": 1 << 40, "rate": 0.1, "best": np.float64(2), "note": "ü" * 500, "list": [1, (2, None)]}
    path = str(tmp_path / "w.pdparams")
    paddle.save(
        {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "arrays": arrays, **others}, path, protocol=protocol
    )
    tree = read_pdparams(path)
    assert set(tree) == {"model", "optimizer", "arrays"}
    tensors = {**tree["model"], **{name: value for name, value in tree["optimizer"].items() if isinstance(value, np.ndarray)}}
    for name, tensor in {**net.state_dict(), **optimizer.state_dict()}.items():
        if isinstance(tensor, paddle.Tensor):
            np.testing.assert_array_equal(tensors[name], tensor.numpy(), strict=True)
    for name, value in arrays.items():
        np.testing.assert_array_equal(tree["arrays"][name], value, strict=True)


def test_a_tensor_saved_in_slices_comes_back_whole(tmp_path: Path) -> None:
    """As protocols 2 and 3 keep a tensor of more than 1 GB."""
    pieces = {"w@@.0": np.arange(4, dtype=np.float32), "w@@.1": np.arange(4, 6, dtype=np.float32)}
    record = {"UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3), "slices": list(pieces)}}}
    paddle.save({**pieces, **record, "StructuredToParameterName@@": {"w": "w_0"}}, str(tmp_path / "w.pdparams"))
    tree = read_pdparams(tmp_path / "w.pdparams")
    assert (tree["w"] == np.arange(6).reshape(2, 3)).all() and not set(pieces) & set(tree)


def test_arrays_of_numpy_2_load(tmp_path: Path) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(one(array([2], content(np.float32([1, 2]).tobytes()), module="numpy._core.multiarray")))
    assert read_pdparams(path)["blocks.0.conv.weight"].tolist() == [1, 2]


def test_one_tensor_under_two_names_is_one_array(tmp_path: Path) -> None:
    tied = np.ones([100, 100])
    paddle.save({"a": tied, "b": tied}, str(tmp_path / "w.pdparams"))
    tree = read_pdparams(tmp_path / "w.pdparams")
    assert tree["a"] is tree["b"] and tree["a"].shape == (100, 100)


@pytest.mark.parametrize(
    "attack",
    [
        array([3], content(bytes(8))),
        array([1], content(bytes(8))),
        array([2], content(bytes(8)), dtype("m8")),
        array([2], text("abcdefgh")),
        array([2], values(number(1))),
    ],
)
def test_arrays_are_made_of_exactly_their_bytes(tmp_path: Path, attack: bytes) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(saved((text("x"), attack)))
    with pytest.raises(UserError, match="not a safe"):
        read_pdparams(path)
