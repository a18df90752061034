"""One job of a kind per folder: a second one is refused in one line, and a lock ends with its process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY, tiny_config

from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting.export import export
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.io.records import Store
from paddle_pgonas.scores.files import Candidate
from paddle_pgonas.searching.search import search
from paddle_pgonas.training.standalone import identity, make_truth
from paddle_pgonas.training.trainer import train_supernet

HOLD = """
import sys, time
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
