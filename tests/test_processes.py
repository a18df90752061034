"""Several processes: sharing a scoring job, one of them killed, and training together, with the result of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle.distributed as dist
import pytest
from conftest import REPOSITORY, fill_golden
from paddle.base import core

from paddle_pgonas import processes
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import read_arrays, save_weights
from paddle_pgonas.scores.files import read_scored
from paddle_pgonas.space.arch import MINI


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
        options = [
            f"output_dir={tmp_path / name}",
            f"train.batch_size={batch}",
            "train.max_steps=1",
            "train.watch_images=0",
            "train.watch_subnets=0",
        ]
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


TRAIN = """
import sys
from paddle_pgonas import cli
from paddle_pgonas import processes
from paddle_pgonas.config.loading import load_config
from paddle_pgonas.training import trainer

whole_step = trainer.Run.step

def step(run, index, x, y):
    metrics = whole_step(run, index, x, y)
    if processes.rank() == 1 and index == 2 and "broken" in sys.argv:
        metrics.losses[0] = ("largest", metrics.losses[0][1] * float("inf"))
    return metrics

trainer.Run.step = step
options = [option for option in sys.argv[1:] if "=" in option]
cli.run(lambda: trainer.train_supernet(load_config("configs/demo.yaml", options)))
"""


def train_together(folder: Path, *arguments: list[str]) -> list[tuple[int, str]]:
    """Exit status and last line of connected processes, one per list of arguments, started by hand as on several machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoints = [f"127.0.0.1:{port + rank}" for rank in range(len(arguments))]
    shared = {"PADDLE_TRAINERS_NUM": str(len(arguments)), "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints)}
    shared |= {"PADDLE_DISTRI_BACKEND": "gloo", "OMP_NUM_THREADS": "1"}
    common = [
        f"output_dir={folder}",
        "device=cpu",
        "train.batch_size=16",
        "train.watch_images=0",
        "train.watch_subnets=0",
        "train.log_every=1",
    ]
    processes = []
    for rank, own in enumerate(arguments):
        environment = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": endpoints[rank]}
        command = [sys.executable, "-c", TRAIN, *common, *own]
        processes.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | shared | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [(process.returncode, output.strip().rpartition("\n")[2]) for process, output in zip(processes, outputs, strict=True)]


def test_processes_that_were_started_differently_all_stop_and_name_the_key(tmp_path: Path) -> None:
    for status, line in train_together(tmp_path, ["train.max_steps=1"], ["train.max_steps=1", "data.train_limit=500"]):
        assert status == 2
        assert "data.train_limit is None in process 0 and 500 in process 1" in line


def test_a_loss_that_is_no_number_in_one_process_stops_all(tmp_path: Path) -> None:
    for status, line in train_together(tmp_path, ["train.max_steps=5"], ["train.max_steps=5", "broken"]):
        assert status == 3
        assert "diverged" in line
    assert len(read_json_lines(tmp_path / "metrics.jsonl")) == 2


def test_processes_wait_for_a_late_one_before_they_enter_a_barrier_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo's barrier fails after 30 seconds, and the first process may read or measure for longer."""
    events: list[str] = []

    class Counter:
        value = 0

        def add(self, key: str, count: int) -> int:
            self.value += count
            return self.value

    counter = Counter()

    def sleep(seconds: float) -> None:
        events.append("waits")
        if events.count("waits") % 5 == 0:
            counter.add("arrived", 1)  # the other process

    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lambda: events.append("enters"))
    monkeypatch.setattr(core, "create_or_get_global_tcp_store", lambda: counter)
    monkeypatch.setattr(time, "sleep", sleep)
    processes.barrier()
    processes.barrier()
    assert events == (["waits"] * 5 + ["enters"]) * 2


@pytest.mark.parametrize(("pair_losses", "disagree"), [("per_process", True), ("all_processes", False)])
def test_processes_disagree_about_a_pair_only_if_each_decides_alone(tmp_path: Path, pair_losses: str, disagree: bool) -> None:
    """With one pair a step, the share of pairs out of order is a half where one of two processes finds it so and one does not."""
    options = [f"train.pair_losses={pair_losses}", "train.pairs=1", "train.rank_lambda=constant", "train.max_steps=12"]
    assert [status for status, _ in train_together(tmp_path, options, options)] == [0, 0]
    shares = [line["pairs_out_of_order"] for line in read_json_lines(tmp_path / "metrics.jsonl")]
    assert len(shares) == 12
    assert set(shares) <= {0.0, 0.5, 1.0}
    assert (0.5 in shares) == disagree, shares


def test_two_processes_search_as_one(tmp_path: Path) -> None:
    net = Supernet(MINI, 10, "prelu")
    fill_golden(net)
    save_weights(tmp_path / "w.safetensors", net, {})
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    command = ["tools/search.py", "-c", "configs/demo.yaml", "--weights", str(tmp_path / "w.safetensors")]
    command += ["--population", "8", "--generations", "2", "--max-macs", "2e6", "-o", "data.val_limit=20", "score.bn=running"]
    results = []
    for name, start_with in (("two", launch), ("one", [])):
        files = [f"output_dir={tmp_path / name}", "--output", str(tmp_path / f"{name}.json")]
        done = subprocess.run([sys.executable, *start_with, *command, *files], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        results.append(read_scored(tmp_path / f"{name}.json", MINI))
    assert results[0] == results[1]
