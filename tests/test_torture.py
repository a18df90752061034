"""A short run of the torture: jobs are killed and damaged and end as if nothing had been. ``make torture`` runs it for longer."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import REPOSITORY


def test_disturbed_jobs_end_as_the_undisturbed_ones() -> None:
    command = [sys.executable, str(REPOSITORY / "tests" / "torture.py"), "--seed", "0", "--seconds", "60", "--rounds", "8"]
    command += ["--only", "stand-alone", "scoring", "--modes", "write", "moment", "full", "flip"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "failures 0" in done.stdout, done.stdout + done.stderr
