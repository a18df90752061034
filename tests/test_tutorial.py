"""The tutorial: the notebook is what its source says, shows what ran, and runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

SOURCE = REPOSITORY / "docs" / "tutorial.py"


def notebook() -> dict[str, Any]:
    return json.loads(SOURCE.with_suffix(".ipynb").read_text(encoding="utf-8"))


def test_the_notebook_holds_the_cells_of_its_source() -> None:
    spec = importlib.util.spec_from_file_location("build_tutorial", REPOSITORY / "docs" / "build_tutorial.py")
    assert spec and spec.loader
    spec.loader.exec_module(builder := importlib.util.module_from_spec(spec))
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook()["cells"]]
    assert found == builder.cells(SOURCE.read_text(encoding="utf-8")), "run `make tutorial`"


def test_the_notebook_shows_what_ran_with_pictures_and_without_this_machine() -> None:
    code = [cell for cell in notebook()["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    text = SOURCE.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work|tmp|usr|Users)/|site-packages", text)
    assert len(text) < 300_000


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Its cells, in order, in a process and a folder of their own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [sys.executable, str(SOURCE)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    taus = {name: float(tau) for name, tau in re.findall(r"^(\w+) +Kendall tau (\S+) \[", result.stdout, re.M)}
    assert taus.keys() == {"supernet", "flops", "params", "zen", "channels"}
    assert taus["supernet"] > 0.3 and taus["flops"] == pytest.approx(0.484, abs=0.001)
    assert (tmp_path / "runs" / "tutorial" / "best" / "record.json").exists()
