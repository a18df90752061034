"""The tests themselves on a machine with a GPU, which is simulated: only those marked gpu see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

FAKE_GPU = """
import paddle
paddle.is_compiled_with_cuda = lambda: True
paddle.device.cuda.device_count = lambda: 1
devices = []
paddle.set_device = lambda name: devices.append(name) or name
"""
TESTS = """
import os, subprocess, sys
import pytest
from fake_gpu import devices
from paddle_pgonas import runtime

@pytest.fixture(scope="session")
def made():
    return devices[-1]

def selected(monkeypatch):
    for name in ("_search_convolutions", "_allow_tf32", "_check_kernels"):
        monkeypatch.setattr(runtime, name, lambda value: None)
    return runtime.select_device("auto")

@pytest.mark.gpu
def test_marked_first(made, monkeypatch):
    assert made == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert selected(monkeypatch) == devices[-1] == "gpu:0"

def test_unmarked(monkeypatch):
    assert devices[-1] == "cpu"
    assert selected(monkeypatch) == "cpu"
    child = [sys.executable, "-c", "import os; print(len(os.environ['CUDA_VISIBLE_DEVICES']))"]
    assert int(subprocess.check_output(child)) == 0

@pytest.mark.gpu
def test_marked_again(monkeypatch):
    assert selected(monkeypatch) == "gpu:0"
"""


def test_only_tests_marked_gpu_use_one_in_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "fake_gpu.py").write_text(FAKE_GPU)
    (tmp_path / "test_devices.py").write_text(TESTS)
    path = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", tmp_path)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "fake_gpu", "-p", "conftest", "-p", "no:cacheprovider"]
    command += ["-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(tmp_path), "test_devices.py"]
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
