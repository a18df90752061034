"""A short run of the fuzzer, and that it notices what no reader may do. ``make fuzz`` runs it for longer."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest
from conftest import REPOSITORY
from fuzz import Finding, attempt, mutated
from fuzz_targets import Target

from paddle_pgonas.errors import UserError


def test_some_hundred_inputs_give_only_documented_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "EXAMPLES", 20)
    counts, findings = fuzz.watch(tmp_path, 0, [], 100, 500)
    assert findings == 0, "".join(path.read_text() for path in (tmp_path / "findings").glob("*.txt"))
    assert sum(count > 0 for count in counts.values()) > 12  # slow readers take part in few rounds


@pytest.mark.slow
def test_some_thousand_inputs_give_only_documented_errors(tmp_path: Path) -> None:
    """As `make fuzz` starts it."""
    command = [sys.executable, str(REPOSITORY / "tests" / "fuzz.py"), "--inputs", "3000", "--seconds", "100", "--seed", "0"]
    done = subprocess.run([*command, "--findings", str(tmp_path)], capture_output=True, text=True)
    stories = "".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + stories
    assert "findings 0" in done.stdout


def raises(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("read", "noticed"),
    [
        (lambda: None, None),
        (lambda: raises(UserError("a line")), None),
        (lambda: raises(KeyError("a")), KeyError),
        (lambda: raises(AssertionError("other contents")), AssertionError),
        (lambda: raises(UserError("x" * 9000)), Finding),
    ],
    ids=["returns", "documented", "another exception", "other contents", "a long line"],
)
def test_what_no_reader_may_do_is_noticed(tmp_path: Path, read: object, noticed: type[Exception] | None) -> None:
    target = Target(tmp_path / "file", [b"seed"], read, megabytes=0)  # type: ignore[arg-type]
    if noticed is None:
        attempt(target, b"data")
    else:
        with pytest.raises(noticed):
            attempt(target, b"data")
    assert target.path.read_bytes() == b"data"


def test_what_takes_memory_is_noticed(tmp_path: Path) -> None:
    """In a new process, as the largest memory that this one ever held says nothing."""
    target = Target(tmp_path / "file", [b"seed"], lambda: np.ones(1 << 25).sum(), megabytes=0)
    child = os.fork()
    if not child:
        try:
            attempt(target, b"data")
        except Finding:
            os._exit(3)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_an_input_depends_on_its_seed_alone() -> None:
    seeds = [b"one file", bytes(range(256))]
    inputs = [[mutated(seeds, random.Random(f"{run} {number}")) for number in range(300)] for run in (1, 1, 2)]
    assert inputs[0] == inputs[1] != inputs[2]
    assert len(set(inputs[0])) > 200
