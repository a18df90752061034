"""Several processes: sharing a scoring job, one of them killed, and training together, with the result of one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.distributed as dist
import pytest
from conftest import REPOSITORY, TINY, TINY_CONFIG, Fork, Tool, assert_one_line, tiny_config
from paddle.distributed.fleet.utils import hybrid_parallel_util

from paddle_pgonas import cli, peers, processes
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.methods.base import Metrics
from paddle_pgonas.nn.weights import read_arrays
from paddle_pgonas.scores.files import read_scored, sample_candidates, write_scores
from paddle_pgonas.scoring import scorer
from paddle_pgonas.scoring.submission import write_submission
from paddle_pgonas.searching.search import search
from paddle_pgonas.training import trainer


def started(folder: Path, *works: Callable[[], object]) -> list[Fork]:
    """Connected processes, one per work, started by hand as on several machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoints = [f"127.0.0.1:{port + rank}" for rank in range(len(works))]
    shared = {"PADDLE_TRAINERS_NUM": str(len(works)), "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints)}
    shared |= {"PADDLE_DISTRI_BACKEND": "gloo"}
    children = []
    for rank, work in enumerate(works):
        own = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": endpoints[rank]}
        children.append(Fork(lambda work=work: cli.run(work), folder / f"{rank}.log", shared | own))
    return children


def ended(children: list[Fork]) -> list[tuple[int, str]]:
    """Exit status and last line of each."""
    return [(child.wait(), child.output.strip().rpartition("\n")[2]) for child in children]


def together(folder: Path, *works: Callable[[], object]) -> list[tuple[int, str]]:
    """Exit status and last line of connected processes."""
    return ended(started(folder, *works))


def test_a_training_on_the_cpu_stays_there_on_a_machine_with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paddle's launcher assigns a GPU to each process, and Paddle then takes it unless the processes connect with gloo."""
    monkeypatch.delenv("PADDLE_DISTRI_BACKEND", raising=False)

    def work(rank: int) -> None:
        del os.environ["PADDLE_DISTRI_BACKEND"]
        os.environ["FLAGS_selected_gpus"] = str(rank)  # noqa: SIM112 (Paddle's spelling)
        trainer.train_supernet(tiny_config(tmp_path, "train.max_steps=1"))
        assert paddle.get_device() == "cpu"
        print(processes.connected(), dist.get_backend())

    assert together(tmp_path, *(lambda rank=rank: work(rank) for rank in range(2))) == [(0, "2 GLOO")] * 2


def train_together(folder: Path, *options: list[str]) -> list[tuple[int, str]]:
    """A training by one process per list of options."""
    return together(folder, *(lambda own=own: trainer.train_supernet(tiny_config(folder, *own)) for own in options))


def test_a_killed_job_of_two_processes_ends_byte_identical(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = sample_candidates(TINY, 60, 0)
    write_scores(tmp_path / "c.json", candidates, [0.0] * len(candidates))
    monkeypatch.setattr(scorer, "CHUNK", 4)

    def start(run: str, rank: int, world: int) -> Fork:
        config = tiny_config(tmp_path / run, "score.bn=running", f"data.cache_dir={tmp_path / 'cache'}")
        files = tiny_weights, tmp_path / "c.json", tmp_path / f"{run}.json"
        ranks = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(world)}
        return Fork(lambda: write_submission(config, *files), tmp_path / f"{run}-{rank}.log", ranks)

    def finish(*children: Fork) -> None:
        for child in children:
            assert child.wait() == 0, child.output

    children = [start("killed", rank, 2) for rank in range(2)]
    while not list(tmp_path.rglob("killed/scores/*/chunk-*.safetensors")):
        time.sleep(0.001)
    for child in children:
        child.kill()
    assert {child.wait() for child in children} == {-9}
    assert not (tmp_path / "killed.json").exists()

    finish(start("killed", 1, 2), start("killed", 0, 2))
    finish(start("whole", 0, 1))
    for suffix in (".json", ".metrics.json"):
        assert (tmp_path / f"killed{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


LAUNCH = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir"]


def launched(folder: Path, tool: str, *arguments: str) -> None:
    """A tool by two processes of Paddle's launcher. It fails where an empty variable hides all GPUs; the device does so, too."""
    command = [*LAUNCH, str(folder / "log"), f"tools/{tool}.py", "-c", str(TINY_CONFIG), *arguments, "-o", "device=cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("launcher", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["by hand", "launcher"])
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path, launcher: bool) -> None:
    """A PGONAS step with BatchNorm over all processes: gradients (as momentum), weights and statistics agree.

    Later steps agree less and less: rounding decides about a ReLU here and there, and training amplifies it.
    """
    options = ["train.max_steps=1", "train.watch_images=0", "train.watch_subnets=0", "model.bn=sync"]
    options += ["method.rank_lambda=constant", "method.rank_gradient=both", "method.pairs=3"]
    two = [*options, "train.batch_size=16"]
    if launcher:
        launched(
            tmp_path, "train_supernet", "-o", f"output_dir={tmp_path / 'two'}", *two, "data.train_limit=64", "train.epochs=2"
        )
    else:
        (tmp_path / "two").mkdir()
        assert [status for status, _ in train_together(tmp_path / "two", two, two)] == [0, 0]
    trainer.train_supernet(tiny_config(tmp_path / "one", *options, "train.batch_size=32"))
    [ours], [theirs] = ((tmp_path / name / "checkpoints").iterdir() for name in ("two", "one"))
    ours, theirs = read_arrays(ours)[0], read_arrays(theirs)[0]
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=2e-4 * np.abs(theirs[name]).max(), err_msg=name)


def test_processes_that_were_started_differently_all_stop_and_name_the_key(tmp_path: Path) -> None:
    for status, line in train_together(tmp_path, ["train.max_steps=1"], ["train.max_steps=1", "data.train_limit=50"]):
        assert status == 2
        assert "data.train_limit is 64 in process 0 and 50 in process 1" in line


def test_a_loss_that_is_no_number_in_one_process_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_step = trainer.Run.step

    def step(run: trainer.Run, index: int, *batch: object) -> Metrics:
        metrics = whole_step(run, index, *batch)
        if processes.rank() == 1 and index == 2:
            metrics.losses[0] = ("largest", metrics.losses[0][1] * float("inf"))
        return metrics

    monkeypatch.setattr(trainer.Run, "step", step)
    for status, line in train_together(tmp_path, ["train.max_steps=4"], ["train.max_steps=4"]):
        assert status == 3
        assert "diverged" in line
    assert len(read_json_lines(tmp_path / "metrics.jsonl")) == 2


def test_processes_meet_before_an_exchange_of_gloo_which_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 30 seconds, and another process may read, measure or pause for longer."""
    events: list[str] = []
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "GLOO")
    monkeypatch.setattr(processes, "_peers", [SimpleNamespace(meet=lambda: events.append("meet"))])
    for name in ("all_reduce", "all_gather_object"):
        monkeypatch.setattr(dist, name, lambda *_, name=name: events.append(name))
    monkeypatch.setattr(hybrid_parallel_util, "fused_allreduce_gradients", lambda *_: events.append("gradients"))
    processes.total(paddle.ones([1]))
    processes.gather(1)
    processes.average_gradients([])
    processes.barrier()
    assert events == ["meet", "all_reduce", "meet", "all_gather_object", "meet", "gradients", "meet"]


def test_a_waiting_process_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "QUIET", 0.2)
    monkeypatch.setattr(peers, "wait", lambda lines, timeout, wait=peers.wait: wait(lines, 0.05))

    def work(seconds: float) -> None:
        paddle.set_device("cpu")
        with processes.together():
            time.sleep(seconds)
            processes.barrier()

    children = started(tmp_path, *(lambda rank=rank: work(rank) for rank in range(3)))
    assert [child.wait() for child in children] == [0, 0, 0]
    assert "waiting for process 1, 2 of 3\n" in children[0].output
    assert "waiting for process 0 of 3\n" in children[1].output


def test_a_process_that_does_not_start_is_named_after_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "START", 0.3)
    for rank in range(2):
        works = [lambda: None, lambda: None]
        works[rank] = lambda: trainer.train_supernet(tiny_config(tmp_path))
        status, line = together(tmp_path, *works)[rank]
        assert status == 2 and f"process {1 - rank} of 2 did not start" in line


RUNS = ["train.batch_size=4", "train.epochs=300", "train.unused_parameters=zero_gradient", "train.lr_per_256=0.00001"]


def steps(folder: Path, count: int, child: Fork) -> None:
    """Wait until the log of a run has so many lines."""
    while len(read_json_lines(folder / "metrics.jsonl")) < count:
        assert os.waitid(os.P_PID, child.id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, child.output
        time.sleep(0.01)


def test_a_process_that_refuses_before_the_first_exchange_ends_all(tmp_path: Path) -> None:
    trainer.train_supernet(tiny_config(tmp_path / "taken", "train.max_steps=1"))
    folders = [tmp_path / "free", tmp_path / "taken"]
    (first, reason), (second, _) = together(tmp_path, *(lambda to=to: trainer.train_supernet(tiny_config(to)) for to in folders))
    assert (first, second) == (2, 2)
    assert f"process 1 has ended: {folders[1]} already holds a run" in reason


def test_a_killed_process_ends_the_others_in_one_line(tmp_path: Path) -> None:
    first, second = started(tmp_path, *2 * [lambda: trainer.train_supernet(tiny_config(tmp_path, *RUNS))])
    steps(tmp_path, 2, first)
    second.kill()
    assert second.wait() == -9
    [(status, line)] = ended([first])
    assert status == 2 and ("process of this job has ended" in line.replace("process 1", "process"))


@pytest.mark.slow
def test_a_process_that_pauses_for_longer_than_gloo_waits_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_step = trainer.Run.step

    def step(run: trainer.Run, index: int, *batch: object) -> Metrics:
        if processes.rank() == 1 and index == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return whole_step(run, index, *batch)

    monkeypatch.setattr(trainer.Run, "step", step)
    first, second = started(tmp_path, *2 * [lambda: trainer.train_supernet(tiny_config(tmp_path, *RUNS, "train.max_steps=4"))])
    steps(tmp_path, 2, first)
    time.sleep(33)
    os.kill(second.id, signal.SIGCONT)
    assert [status for status, _ in ended([first, second])] == [0, 0], first.output
    assert "waiting for process 1 of 2" in first.output


def test_a_request_to_stop_that_the_launcher_repeats_writes_a_checkpoint(tmp_path: Path) -> None:
    children = started(tmp_path, *2 * [lambda: trainer.train_supernet(tiny_config(tmp_path, *RUNS))])
    steps(tmp_path, 2, children[0])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.kill(children[0].id, number)
        time.sleep(0.05)
    for status, line in ended(children):
        assert status == 2 and "stopped after step" in line
    [kept] = (tmp_path / "checkpoints").iterdir()
    assert f"stopped after step {int(kept.stem[5:])};" in line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_paddles_launcher_writes_a_checkpoint(tmp_path: Path, number: int) -> None:
    few = ["train.watch_images=0", "train.watch_subnets=0", "data.train_limit=64", "train.log_every=1", "device=cpu", *RUNS]
    command = [*LAUNCH, str(tmp_path / "log"), "tools/train_supernet.py", "-c", str(TINY_CONFIG), "-o", f"output_dir={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    with subprocess.Popen([*command, *few], cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL) as launcher:
        while len(read_json_lines(tmp_path / "metrics.jsonl")) < 2:
            assert launcher.poll() is None
            time.sleep(0.1)
        launcher.send_signal(number)
    [kept] = (tmp_path / "checkpoints").iterdir()
    assert f"stopped after step {int(kept.stem[5:])};" in (tmp_path / "log" / "workerlog.0").read_text()


@pytest.mark.parametrize("left", [{"PADDLE_TRAINERS_NUM": "2"}, {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "1"}])
def test_variables_that_a_launcher_left_are_named(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, tool: Tool, left: dict[str, str]
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    few = ["device=cpu", "data.train_limit=64", "data.val_limit=30"]
    options = ["-c", TINY_CONFIG, "-o", f"output_dir={tmp_path / 'run'}", *few]
    status, _, err = tool("train_supernet", *options)
    assert_one_line(status, err, f"PADDLE_TRAINERS_NUM=2 and PADDLE_TRAINER_ID={left.get('PADDLE_TRAINER_ID', 0)}")
    write_scores(tmp_path / "c.json", candidates := sample_candidates(TINY, 4, 0), [0.0] * len(candidates))
    files = ["--weights", tiny_weights, "--candidates", tmp_path / "c.json", "--output", tmp_path / "s.json"]
    status, out, err = tool("write_submission", *options, "score.bn=running", *files)
    assert status == 0 and "unset them if there is no other" in err and out
    assert (tmp_path / "s.json").exists() == ("PADDLE_TRAINER_ID" not in left)


@pytest.mark.parametrize(("pair_losses", "disagree"), [("per_process", True), ("all_processes", False)])
def test_processes_disagree_about_a_pair_only_if_each_decides_alone(tmp_path: Path, pair_losses: str, disagree: bool) -> None:
    """With one pair a step, the share of pairs out of order is a half where one of two processes finds it so and one does not."""
    options = [f"method.pair_losses={pair_losses}", "method.pairs=1", "method.rank_lambda=constant", "train.epochs=3"]
    assert [status for status, _ in train_together(tmp_path, options, options)] == [0, 0]
    shares = [line["pairs_out_of_order"] for line in read_json_lines(tmp_path / "metrics.jsonl")]
    assert len(shares) == 12
    assert set(shares) <= {0.0, 0.5, 1.0}
    assert (0.5 in shares) == disagree, shares


@pytest.mark.parametrize("launcher", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["by hand", "launcher"])
def test_two_processes_search_as_one(tmp_path: Path, tiny_weights: Path, launcher: bool) -> None:
    limits = {"population": 8, "generations": 2, "limits": {"macs": 2e6}}

    def searching(name: str) -> None:
        search(tiny_config(tmp_path / name, "score.bn=running"), weights=tiny_weights, **limits).write(tmp_path / f"{name}.json")

    if launcher:
        arguments = ["--weights", str(tiny_weights), "--population", "8", "--generations", "2", "--max-macs", "2e6"]
        arguments += ["--output", str(tmp_path / "two.json")]
        launched(tmp_path, "search", *arguments, "-o", f"output_dir={tmp_path / 'two'}", "data.val_limit=30", "score.bn=running")
    else:
        assert [status for status, _ in together(tmp_path, *(lambda: searching("two") for _ in range(2)))] == [0, 0]
    searching("one")
    assert read_scored(tmp_path / "two.json", TINY) == read_scored(tmp_path / "one.json", TINY)
