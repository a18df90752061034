"""The library: light to import, complete when installed; its example runs and its API reference is up to date."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

import paddle_pgonas as pg


def test_importing_loads_nothing_heavy_and_names_are_loaded_on_demand() -> None:
    code = """
import sys
import paddle_pgonas as pg
heavy = {"paddle", "numpy", "scipy", "matplotlib", "yaml"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(pg.__all__) <= set(dir(pg))
flops = pg.make_prior("flops", pg.MINI, 32, 10)
assert flops(pg.MINI.largest) > flops(pg.MINI.smallest)
assert pg.load_config(pg.CONFIGS / "demo.yaml").space == "mini"
assert "paddle" not in sys.modules
pg.score
assert "paddle" in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", pg.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(pg, name)
    assert value is getattr(pg, name)
    if callable(value):
        assert value.__doc__


def test_no_public_name_is_a_module_of_the_package() -> None:
    """Importing such a module would put it in the name's place."""
    modules = {path.stem for path in (REPOSITORY / "paddle_pgonas").iterdir()}
    assert not modules & set(pg.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = pg.nothing_of_this_name


def test_every_package_and_configuration_is_installed() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "paddle_pgonas").rglob("__init__.py")}
    assert set(settings["packages"]) == {".".join(folder.parts) for folder in folders} | {
        "paddle_pgonas.configs",
        "paddle_pgonas.tools",
    }
    assert pg.CONFIGS == REPOSITORY / "configs"
    assert "*.pyi" in settings["package-data"]["paddle_pgonas"]  # the public names are read from it


RESULTS = ("supernet.safetensors", "submission.json", "report.html", "front.svg", "best/record.json")


@pytest.mark.usefixtures("few_resamples")
def test_the_example_runs_with_two_steps_and_few_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["train.max_steps=2", "train.watch_images=0", "train.watch_subnets=0", "data.val_limit=20"]
    whole = pg.load_config
    monkeypatch.setattr(pg, "load_config", lambda path, changes: whole(path, [*changes, *few]))
    monkeypatch.setattr(sys, "argv", ["example.py", str(tmp_path / "run")])
    runpy.run_path(str(REPOSITORY / "docs" / "example.py"))
    assert "logits (2, 10)" in capsys.readouterr().out
    assert all((tmp_path / "run" / name).stat().st_size > 0 for name in RESULTS)


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    """As a user runs it: in a process and a folder of its own."""
    example = REPOSITORY / "docs" / "example.py"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(example), "run"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "logits (2, 10)" in result.stdout
    assert all((tmp_path / "run" / name).stat().st_size > 0 for name in RESULTS)


def test_each_metric_is_its_column() -> None:
    from paddle_pgonas.scoring.session import metric_values

    measured = np.array([[0.5, 0.9, 0.4, 2.0]])
    values = [metric_values(measured, name)[0] for name in ("top1", "top5", "probability", "likelihood")]
    np.testing.assert_allclose(values, [0.5, 0.9, 0.4, np.exp(-2)])
