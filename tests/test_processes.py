"""Real processes share a scoring job, one is killed, and nothing of the result shows it; two train together as one would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import REPOSITORY, fill_golden

from paddle_pgonas.arch import MINI
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import read_arrays, save_weights


def start(folder: Path, run: str, rank: int, world: int) -> subprocess.Popen[str]:
    """One rank of a scoring job, with the environment that paddle.distributed.launch would give it."""
    command = [sys.executable, "tools/write_submission.py", "-c", "configs/demo.yaml"]
    command += ["-o", f"output_dir={folder / run}", "data.val_limit=20", "score.bn=running", f"data.cache_dir={folder / 'cache'}"]
    command += ["--weights", str(folder / "w.safetensors"), "--candidates", str(folder / "c.json")]
    command += ["--output", str(folder / f"{run}.json")]
    ranks = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(world), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | ranks, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.wait(timeout=300) == 0, process.stderr and process.stderr.read()


def test_a_killed_job_of_two_processes_ends_byte_identical(tmp_path: Path) -> None:
    net = Supernet(MINI, 10, "prelu")
    fill_golden(net)
    save_weights(tmp_path / "w.safetensors", net, {})
    sample = ["tools/sample_candidates.py", "--space", "mini", "--count", "400", "--output", str(tmp_path / "c.json")]
    subprocess.run([sys.executable, *sample], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)

    ranks = [start(tmp_path, "killed", rank, 2) for rank in range(2)]
    while not list(tmp_path.rglob("killed/scores/*/chunk-*.safetensors")):
        assert all(process.poll() in (None, 0) for process in ranks)
        time.sleep(0.01)
    for process in ranks:
        process.kill()
        process.wait()
    assert not (tmp_path / "killed.json").exists()

    finish(start(tmp_path, "killed", 1, 2), start(tmp_path, "killed", 0, 2))
    finish(start(tmp_path, "whole", 0, 1))
    for suffix in (".json", ".metrics.json"):
        assert (tmp_path / f"killed{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    """A PGONAS step with BatchNorm over all processes: gradients (as momentum), weights and statistics agree.

    Later steps agree less and less: rounding decides about a ReLU here and there, and training amplifies it.
    """

    def command(name: str, batch: int) -> list[str]:
        options = [f"output_dir={tmp_path / name}", f"train.batch_size={batch}", "train.max_steps=1", "train.watch_images=0"]
        options += ["model.bn=sync", "train.rank_lambda=constant", "train.rank_gradient=both", "train.pairs=3"]
        return ["tools/train_supernet.py", "-c", "configs/demo.yaml", "-o", *options]

    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for arguments in ([*launch, *command("two", 16)], command("one", 32)):
        done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    [two], [one] = ((tmp_path / name / "checkpoints").iterdir() for name in ("two", "one"))
    ours, theirs = read_arrays(two)[0], read_arrays(one)[0]
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=2e-4 * np.abs(theirs[name]).max(), err_msg=name)
