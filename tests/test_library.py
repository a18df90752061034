"""The library: light to import, complete when installed; its example runs and its API reference is up to date."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, TINY, TINY_SPACE

import paddle_pgonas as pg
from paddle_pgonas.scores.correlation import correlate as statistics_of


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
    # The public names are read from the one, and the other tells type checkers to do so.
    assert {"*.pyi", "py.typed"} <= set(settings["package-data"]["paddle_pgonas"])
    assert settings["dynamic"]["version"] == {"attr": "paddle_pgonas.__version__"}


TYPED = """
import paddle_pgonas as pg
space = pg.load_space("mini")
reveal_type(pg.make_prior("flops", space, image_size=8, num_classes=10)(space.largest.code))
reveal_type(pg.correlate([1.0], [2.0]).kendall.low)
reveal_type(pg.load_config("mini/digits.yaml", {"train.epochs": 2}).train.epochs)
reveal_type(pg.__version__)
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_an_installed_package(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, "script.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    revealed = re.findall(r'Revealed type is "(?:builtins\.)?(\w+)"', result.stdout)
    assert revealed == ["float", "float", "int", "str"], result.stdout


def test_a_space_is_found_by_name_or_file() -> None:
    assert pg.load_space("mini") is pg.MINI
    assert pg.load_space(TINY_SPACE) == pg.load_space(str(TINY_SPACE)) == TINY
    with pytest.raises(pg.UserError, match=r"space: .*track1.*nowhere"):
        pg.load_space("nowhere")


def test_priors_take_codes_and_costs_take_architectures() -> None:
    code = TINY.middle.code
    flops, zen = (pg.make_prior(name, TINY, image_size=8, num_classes=10) for name in ("flops", "zen"))
    assert flops(code) == flops(TINY.middle) == pg.macs(TINY.middle, 8, 10)
    assert zen(code) == pg.zen_score(TINY.middle, 8)
    assert pg.make_prior("params", TINY, image_size=8, num_classes=10)(code) == pg.params(TINY.middle, 10)
    with pytest.raises(pg.UserError, match="a code of space"):
        flops(code + "1")


@pytest.mark.usefixtures("few_resamples")
def test_scores_in_memory_are_matched_by_name_or_by_position() -> None:
    archs = [candidate.arch for candidate in pg.sample_candidates(TINY, 12, 0)]
    truth = {arch.code: value for arch, value in zip(archs, np.random.default_rng(0).random(12), strict=True)}
    scores = {arch: value + 0.1 * place for place, (arch, value) in enumerate(zip(archs, truth.values(), strict=True))}
    ordered = pg.correlate(list(scores.values()), np.array(list(truth.values())))
    assert ordered == pg.correlate(dict(reversed(scores.items())), truth)
    assert (ordered.kendall, ordered.count, ordered.left_out) == (
        statistics_of(list(truth.values()), list(scores.values())).estimates()["kendall"], 12, 0
    )  # fmt: skip
    part = pg.correlate(dict(list(scores.items())[:8]), dict(list(truth.items())[3:]))
    assert (part.count, part.left_out) == (5, 7) and "7" in str(part)
    assert f"{ordered.kendall.value:.3f} [" in str(ordered)
    assert "undefined" in str(pg.correlate([1, 1, 1], [1, 2, 3]))


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([1, 2, 3], [1, 2], "3 scores, but 2"),
        ({"a": 1}, [1], "both as mappings"),
        ({"a": 1, "b": 2}, {"a": 1, "c": 2}, "share 1"),
        ([1, 2], [1, float("nan")], "truth must be finite"),
        ([1, None], [1, 2], "scores must be finite"),
        ([[1, 2], [3, 4]], [1, 2], "scores must be finite"),
        ([1, 1e200], [1, 2], "scores must be finite"),
    ],
)
def test_what_cannot_be_compared_is_named(scores: Any, truth: Any, message: str) -> None:
    with pytest.raises(pg.UserError, match=message):
        pg.correlate(scores, truth)


RESULTS = ("supernet.safetensors", "submission.json", "report.html", "front.svg", "best/record.json")


@pytest.mark.usefixtures("few_resamples")
def test_the_example_runs_with_two_steps_and_few_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {
        "train.max_steps": 2,
        "train.watch_images": 0,
        "train.watch_subnets": 0,
        "data.val_limit": 20,
        "score.calibration_images": 32,
    }
    whole = pg.load_config
    monkeypatch.setattr(pg, "load_config", lambda path, changes: whole(path, changes | few))
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
