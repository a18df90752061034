"""Jobs are killed and damaged and end as if nothing had been. ``make torture`` does it for longer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPOSITORY

EVERY = ["--rounds", "30"]
FEW = ["--rounds", "4", "--only", "stand-alone", "scoring", "--modes", "write", "full"]


@pytest.mark.parametrize("which", [FEW, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["few", "every"])
def test_disturbed_jobs_end_as_the_undisturbed_ones(which: list[str]) -> None:
    """In a process that itself computes nothing: what it forked of one that has computed could wait for a lock for ever."""
    command = [sys.executable, str(REPOSITORY / "tests" / "torture.py"), "--seed", "0", "--seconds", "60", *which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "failures 0" in done.stdout, done.stdout + done.stderr
