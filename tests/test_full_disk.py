"""A full disk is one line and status 2; what was whole stays whole, and after space is made the job goes on.

A limit on the size of files (``ulimit -f``) takes the disk's place: a write beyond it fails midway, in Paddle's own code too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, fill_golden, tiny_config

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.data.images import open_images
from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting.export import export, load_subnet
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.io.outputs import NOTES
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import convert_weights, read_weights, save_weights
from paddle_pgonas.space.arch import MINI
from paddle_pgonas.training.runlog import RunLog
from paddle_pgonas.training.trainer import train

DEMO = REPOSITORY / "configs" / "demo.yaml"


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes (pytest's own files must stay smaller)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != NOTES]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_log_that_cannot_be_written_keeps_its_lines_and_goes_on_later(tmp_path: Path) -> None:
    with RunLog(tmp_path, 10, 0) as log:
        log.log(0, {"loss": 0.5, "padding": 1e99})
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written .*resume=True"), RunLog(tmp_path, 10, 1) as log:
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with file_size_limit(1 << 16):
            for step in range(1, 1 << 14):
                log.log(step, {"loss": step})
    assert (tmp_path / "metrics.jsonl").stat().st_size > size
    with RunLog(tmp_path, 10, 1) as log:
        log.log(1, {"loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 0, "loss": 0.5, "padding": 1e99}, {"step": 1, "loss": 0.25}]


def test_a_lock_holds_without_its_owners_name(tmp_path: Path) -> None:
    with file_size_limit(0), exclusive(tmp_path, "training"):
        assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    net, path = Supernet(MINI, 10, "prelu"), tmp_path / "w.safetensors"
    fill_golden(net)
    save_weights(path, net, {"step": 7})
    return path


def test_an_export_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path, weights: Path) -> None:
    config = load_config(DEMO, [f"output_dir={tmp_path}", "score.bn=running", "data.val_limit=20"])
    folder = tmp_path / "out"
    export(config, weights, MINI.smallest, folder, images=2)
    before = contents(folder)
    (size,) = {len(data) for name, data in before.items() if name.endswith(".pdiparams")}
    with file_size_limit(1 << 16), pytest.raises(UserError, match=r"out: cannot be written|safetensors: cannot be written"):
        assert size < 1 << 16 < weights.stat().st_size
        export(config, weights, MINI.largest, folder, images=2)
    assert contents(folder) == before
    assert load_subnet(folder).arch == MINI.smallest
    export(config, weights, MINI.largest, folder, images=2)
    assert load_subnet(folder).arch == MINI.largest


@pytest.mark.parametrize("suffix", [".safetensors", ".pdparams"])
def test_a_conversion_that_does_not_fit_leaves_the_old_file(tmp_path: Path, weights: Path, suffix: str) -> None:
    target = tmp_path / f"converted{suffix}"
    target.write_bytes(b"old")
    with file_size_limit(1 << 16), pytest.raises(UserError, match=r"converted.*cannot be written"):
        convert_weights(weights, target)
    assert target.read_bytes() == b"old"
    convert_weights(weights, target)
    assert read_weights(target)[0].keys() == read_weights(weights)[0].keys()


def test_decoded_images_that_do_not_fit_are_decoded_again_later(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "data.image_size=16", "data.resize=16", "data.val_limit=null")
    with file_size_limit(1 << 16), pytest.raises(UserError, match=r"pixels\.npy: cannot be written"):
        _ = open_images(config).validation
    assert not [name for name in contents(tmp_path) if "pixels" in name]
    assert len(open_images(config).validation.images) == 500


def tool(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "tools" / f"{name}.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*map(str, command)], cwd=REPOSITORY, env=environment, text=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_cannot_be_written_is_status_2(tmp_path: Path, stream: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open("/dev/full", "w") as full:
        done = tool("compare", "--validate", tmp_path / "none.json", **(streams | {stream: full}))
        assert done.returncode == 2
        done = tool("sample_candidates", "--count", 2, "--output", tmp_path / "a.json", **(streams | {stream: full}))
    assert done.returncode == (2 if stream == "stdout" else 0)
    assert "Traceback" not in f"{done.stdout}{done.stderr}"
    assert (tmp_path / "a.json").exists()


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    script = REPOSITORY / "tools" / "sample_candidates.py"
    line = f"{sys.executable} {script} --count 2 --output {tmp_path}/a.json >&- 2>&-"
    assert subprocess.run(line, shell=True, cwd=REPOSITORY).returncode == 0


def test_training_on_a_full_disk_goes_on_after_space_is_made(tmp_path: Path) -> None:
    def run(name: str, *more: str, resume: bool = False) -> Path:
        return train(tiny_config(tmp_path / name, "train.batch_size=32", f"data.cache_dir={tmp_path / 'c'}", *more), resume)

    whole = run("whole")
    run("run", "train.max_steps=2").unlink()
    kept = contents(tmp_path / "run" / "checkpoints")
    with file_size_limit(1 << 16), pytest.raises(UserError, match=r"step-00000004\.safetensors: cannot be written"):
        run("run", resume=True)
    assert contents(tmp_path / "run" / "checkpoints") == kept
    arrays = [read_weights(path)[0] for path in (whole, run("run", resume=True))]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
