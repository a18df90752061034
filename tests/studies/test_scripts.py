"""The scripts of the studies start from any folder, as their documents write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

SCRIPTS = [path for path in sorted(REPOSITORY.glob("studies/**/*.py")) if "arse_args(" in path.read_text(encoding="utf-8")]


def test_every_script_explains_itself(tmp_path: Path) -> None:
    """One process asks them all, because Paddle's import takes seconds; each begins with modules and a path of its own."""
    code = f"""
import runpy, sys
paths = sys.path[1:]
for script in {[str(path) for path in SCRIPTS]!r}:
    sys.argv, sys.path = [script, "--help"], [script.rpartition("/")[0], *paths]
    for name in [name for name in sys.modules if name.partition(".")[0] == "studies"]:
        del sys.modules[name]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage:") == len(SCRIPTS) > 5
