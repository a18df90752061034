"""One training per folder: a second one is refused in one line, and a lock ends with its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from paddle_pgonas.errors import UserError
from paddle_pgonas.locks import exclusive

HOLD = """
import sys, time
from paddle_pgonas.locks import exclusive
with exclusive(sys.argv[1], "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    holder = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"in use by another training .process {holder.pid} on"),
            exclusive(tmp_path / "run", "training"),
        ):
            pass
        with exclusive(tmp_path / "run", "search"):
            pass
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
        monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
        with exclusive(tmp_path / "run", "training"):  # another rank, as of the same launch
            pass
    finally:
        holder.kill()
        holder.wait()
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    for _ in range(2):
        with exclusive(tmp_path / "run", "training"):
            pass
