"""Real processes share a scoring job, one is killed, and nothing of the result shows it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import REPOSITORY, fill_golden

from paddle_pgonas.arch import MINI
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights


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
    while not list(tmp_path.rglob("killed/scores/*/chunk-*.npz")):
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
