"""One job of a kind per folder: a second one is refused in one line, and a lock ends with its process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, TINY, Fork, tiny_config

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting import export as exporting
from paddle_pgonas.exporting.export import export
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.io.locks import exclusive, turn
from paddle_pgonas.io.records import Store
from paddle_pgonas.scores.files import Candidate
from paddle_pgonas.scoring.session import Session
from paddle_pgonas.searching.latency import Latency
from paddle_pgonas.searching.search import search
from paddle_pgonas.training import trainer
from paddle_pgonas.training.standalone import identity, make_truth
from paddle_pgonas.training.trainer import train_supernet

HOLD = """
import sys, time
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.io.locks import exclusive
with exclusive(*sys.argv[1:]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(folder: Path, job: str) -> Iterator[int]:
    """Another process that holds the lock; its id."""
    command = [sys.executable, "-c", HOLD, str(folder), job]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            holder.kill()


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(tmp_path / "run", "training") as pid:
        with (
            pytest.raises(UserError, match=f"in use by another training .process {pid} on"),
            exclusive(tmp_path / "run", "training"),
        ):
            pass
        with exclusive(tmp_path / "run", "search"):
            pass
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
        monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
        with exclusive(tmp_path / "run", "training"):  # another rank, as of the same launch
            pass
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    for _ in range(2):
        with exclusive(tmp_path / "run", "training"):
            pass
    assert not list((tmp_path / "run").iterdir())


def test_a_process_waits_for_its_turn_until_the_other_ends_even_by_a_kill(tmp_path: Path) -> None:
    """Each adds its number when its turn begins and when it ends; the first is killed in between."""
    done, running = tmp_path / "done", tmp_path / "running"

    def work(number: int) -> None:
        with turn(tmp_path / "folder", "decoding"):
            with done.open("a") as file:
                file.write(f"{number}")
            running.touch()
            time.sleep(60 if number == 0 else 0.05)
            with done.open("a") as file:
                file.write(f"{number}")

    first = Fork(lambda: work(0), tmp_path / "0.log")
    while not running.exists():
        time.sleep(0.01)
    others = [Fork(lambda number=number: work(number), tmp_path / f"{number}.log") for number in (1, 2, 3)]
    for other in others:
        while not (other.log.exists() and "waiting for the decoding by process" in other.output):
            time.sleep(0.01)
    assert done.read_text() == "0"
    first.kill()
    assert [child.wait() for child in (first, *others)] == [-9, 0, 0, 0]
    turns = done.read_text()[1:]
    assert sorted(turns) == list("112233")
    assert turns[::2] == turns[1::2]  # nobody began before the other had ended


@pytest.mark.parametrize("job", ["training", "standalone", "search", "export"])
def test_every_job_that_keeps_files_refuses_a_second_of_its_kind(tmp_path: Path, tiny_weights: Path, job: str) -> None:
    config = tiny_config(tmp_path, "train.max_steps=1", "score.bn=running")
    recipe = tiny_config(tmp_path, "train.max_steps=1", "method=null")
    candidates = [Candidate("a", TINY.smallest, TINY.smallest.code, None)]
    jobs: dict[str, tuple[Path, Callable[[], object]]] = {
        "training": (tmp_path, lambda: train_supernet(config)),
        "standalone": (
            Store(tmp_path / "standalone", identity(recipe)).folder,
            lambda: make_truth(recipe, candidates, tmp_path / "t.json"),
        ),
        "search": (tmp_path, lambda: search(config, weights=tiny_weights, population=4, generations=1)),
        "export": (tmp_path / "out", lambda: export(config, tiny_weights, TINY.smallest, tmp_path / "out", images=2)),
    }
    folder, start = jobs[job]
    with held(folder, job), pytest.raises(UserError, match=f"in use by another {job}"):
        start()
    start()


@pytest.mark.parametrize("again", [False, True], ids=["removed", "removed, and another run has begun"])
def test_a_run_whose_folder_was_removed_is_told_and_leaves_the_lock_of_the_next_one(tmp_path: Path, again: bool) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="run: was removed while this training"), exclusive(folder, "training") as check:
        check()
        shutil.rmtree(folder)
        if again:
            with held(folder, "training"):
                check()
        check()
    assert [path.name for path in folder.glob(".*")] == [".training-0.lock"] * again


@pytest.mark.parametrize("job", ["search", "latencies", "export", "training"])
def test_a_job_whose_folder_was_removed_meanwhile_writes_nothing_there(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """It is removed while the job measures or reads, and another run has begun there."""
    folder, config = tmp_path / "run", tiny_config(tmp_path / "run", "score.bn=running")

    def removes(*arguments: object) -> Any:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "of another run").touch()
        return {"search": np.zeros([4, 4]), "latencies": 1.0, "export": {}, "training": None}[job]

    for place in (Session, "measure"), (Latency, "_measure"), (exporting, "_compare"), (trainer, "check_processes"):
        monkeypatch.setattr(*place, removes)
    few = {"population": 4, "generations": 1}
    jobs: dict[str, Callable[[], object]] = {
        "search": lambda: search(config, weights=tiny_weights, **few),
        "latencies": lambda: search(config, prior="params", limits={"latency_ms": 9.0}, **few),
        "export": lambda: export(config, tiny_weights, TINY.smallest, folder, images=2),
        "training": lambda: train_supernet(config),
    }
    with pytest.raises(UserError, match="run: was removed while this"):
        jobs[job]()
    assert [path.name for path in folder.iterdir()] == ["of another run"]


def test_a_training_whose_folder_was_taken_by_another_ends_without_touching_it(tmp_path: Path) -> None:
    def work(*options: str) -> Fork:
        config = tiny_config(tmp_path / "run", "train.batch_size=4", "train.lr_per_256=0.00001", *options)
        return Fork(lambda: cli.run(lambda: train_supernet(config)), tmp_path / f"{options[0]}.log")

    def files() -> dict[Path, bytes]:  # but those of VisualDL, which opens its file anew for every part
        every = (path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.parent.name != "visualdl")
        return {path: path.read_bytes() for path in every}

    old = work("seed=0", "train.epochs=40")
    while len(read_json_lines(tmp_path / "run" / "metrics.jsonl")) < 2:
        time.sleep(0.01)
    os.kill(old.id, signal.SIGSTOP)
    shutil.rmtree(tmp_path / "run")
    assert (new := work("seed=1", "train.max_steps=2")).wait() == 0, new.output
    kept = files()
    os.kill(old.id, signal.SIGCONT)
    assert old.wait() == 2
    assert "was removed while this training was using it" in old.output.strip().rpartition("\n")[2]
    assert files() == kept
