"""The runs of a study: on a few tiny images to the end, and what they start from."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, assert_one_line
from small_study import BASE, CANDIDATES, STUDY, TABLES, runner_of, written

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.scores.files import read_candidates, read_scores
from paddle_pgonas.space.arch import MINI
from paddle_pgonas.training.standalone import results_store
from studies import document, runner
from studies.runner import Runner
from studies.study import read_study

pytest_plugins = ["small_study"]


@pytest.mark.slow
def test_a_study_runs_to_its_end_goes_on_from_what_is_there_and_fills_its_document(
    file: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    study = read_study(file)
    results = [Path(path).name for path in runner_of(study, tmp_path).run(["no_training", "sandwich"], range(1), 1)]
    assert results == ["no_training-seed0.json", "sandwich-calibrated-seed0.json", "sandwich-published-seed0.json"]
    assert [Path(command[0]).stem for command in commands[:3]] == ["train_standalone", "write_submission", "write_submission"]
    list(runner_of(study, tmp_path).run(None, range(1), 1))
    list(runner_of(study, tmp_path).run(["sandwich", "no_training"], range(2), 1))
    done = len(commands)
    names = sorted(path.stem for path in study.results.glob("*seed*.json"))
    twice = [f"{name}-seed{seed}" for name in ("no_training", *map("sandwich-{}".format, study.regimes)) for seed in range(2)]
    assert names == sorted([*twice, "few_shot-calibrated-seed0", "few_shot-published-seed0"])
    list(runner_of(study, tmp_path).run(None, range(1), 1))
    assert len(commands) == done  # nothing is computed twice
    folders = [word for command in commands if "train_" in command[0] for word in command if word.startswith("output_dir=")]
    largest = [f"output_dir={tmp_path / 'runs' / 'largest'}"] * 2
    assert folders.count(largest[0]) == 2
    assert len(folders) - 2 == len(set(folders) - set(largest))  # each run trained once, also those that others start from
    rates = json.loads((study.results / "rates.json").read_text())
    assert list(rates) == ["few_shot-calibrated", "sandwich-calibrated"]
    assert rates["sandwich-calibrated"]["lr_per_256"] == 0.01 and rates["sandwich-calibrated"]["losses"]["1e+30"] is None
    probes = read_candidates(tmp_path / "runs" / "probes.json", MINI)
    assert not {entry.arch for entry in probes} & {entry.arch for entry in CANDIDATES}

    detailed, one = (json.loads((study.results / f"sandwich-calibrated-seed{seed}.json").read_text()) for seed in range(2))
    assert set(detailed["scores"]) == {"running", "calibrated"} and list(detailed["watched"]) == ["0", "4"]
    assert set(one["scores"]) == {"calibrated"} and one["watched"] == {}
    rows_of = [*detailed["scores"].values(), *detailed["watched"].values(), *one["scores"].values()]
    assert all(list(rows) == [entry.name for entry in CANDIDATES] for rows in rows_of)
    untrained = json.loads((study.results / "no_training-seed1.json").read_text())
    assert set(untrained["scores"]) == {"running", "calibrated"}  # it belongs to both regimes
    assert one["seed"] == 1 and one["commit"] == "1234-dirty" and one["config"]["train"]["lr_per_256"] == 0.01
    assert one["config"]["model"]["pretrained"] == "largest1.safetensors"
    assert str(tmp_path) not in json.dumps(one)
    document.write_report(study)
    page = (tmp_path / "README.md").read_text()
    assert all(f"<!-- begin {name} -->\n|" in page for name in TABLES)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"tau-calibrated.svg", "training-published.svg"}
    differences = page.partition("<!-- begin differences -->")[2].partition("<!-- end")[0].splitlines()[3:]
    assert len(differences) == 5 and "(published)" in differences[-1]

    [lost] = (tmp_path / "runs" / "sandwich-published").glob("**/seed1")
    known = (study.results / "sandwich-published-seed1.json").read_text()
    lost.rename(tmp_path / "lost")
    list(replace(runner_of(study, tmp_path), weights=True).run(["sandwich"], range(2), 1))
    weights = "supernet.safetensors"
    assert (lost / weights).read_bytes() == (tmp_path / "lost" / weights).read_bytes() and len(commands) == done + 1
    assert (study.results / "sandwich-published-seed1.json").read_text() == known


def test_a_truth_takes_only_results_of_its_own_recipe(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an older recipe lie in the same folder; a truth that was made by another one is not added to."""
    file = written(tmp_path, STUDY | {"truth": "base.yaml"})

    def train(self: Runner, log: str, name: str, *arguments: object) -> None:
        _, config, _, *overrides = map(str, arguments[: arguments.index("--candidates")])
        for epochs in (1, 2, 3):
            settings = load_config(config, [*overrides, f"train.epochs={epochs}"])
            record = {"acc": epochs / 10, "seconds": 1.0, "versions": {}, "config": settings.model_dump(mode="json")}
            for entry in CANDIDATES:
                results_store(settings).put(entry.arch.code, record)

    monkeypatch.setattr(Runner, "_tool", train)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE | {"train": BASE["train"] | {"epochs": 2}}))
    study = read_study(file)
    for path in runner_of(study, tmp_path).run(["truth"], range(1), 1):
        assert set(read_scores(path, MINI).values()) == {0.2}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    with pytest.raises(UserError, match=r"truth-seed0\.json: was made with train\.epochs=2, now it is 1"):
        list(runner_of(study, tmp_path).run(["truth"], range(1), 1))


def test_a_method_may_start_from_a_largest_network_of_its_own(file: Path, tmp_path: Path, commands: list[list[str]]) -> None:
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "train": {"epochs": 2}}))
    start = {"label": "longer", "config": "base.yaml", "trained": False, "largest": "longer.yaml"}
    study = read_study(written(tmp_path, STUDY | {"methods": {**STUDY["methods"], "longer": start}}))
    list(runner_of(study, tmp_path).run(["no_training", "longer"], range(1), 1))
    trained = [command for command in commands if "train_standalone" in command[0]]
    assert sorted(Path(command[2]).name for command in trained) == ["base.yaml", "longer.yaml"]
    starts = {
        json.loads((study.results / f"{name}-seed0.json").read_text())["config"]["model"]["pretrained"]
        for name in ("no_training", "longer")
    }
    assert starts == {"largest.safetensors", "largest-longer-.safetensors"}
    kept, done = tmp_path / "largest" / "largest.safetensors", len(commands)
    assert str(tmp_path) not in kept.read_bytes().decode("latin-1")  # no path of the machine
    elsewhere = Runner(study, REPOSITORY, "nowhere", tmp_path / "other")._largest(2, "base.yaml")
    assert Path(elsewhere).read_bytes() == kept.read_bytes() and len(commands) == done  # another seed with the same network


def test_a_run_names_the_same_largest_network_wherever_that_is_kept(
    file: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    """It could not be continued otherwise; it may have begun before the network was in the study's folder, or moved with it."""
    runner_of(read_study(file), tmp_path)._largest(0, "base.yaml")
    trained, named = len(commands), set()
    kept, working = tmp_path / "largest" / "largest.safetensors", tmp_path / "runs" / "largest.safetensors"
    for missing in (tmp_path / "none", kept, working):
        missing.unlink(missing_ok=True)
        named.add(runner_of(read_study(file), tmp_path)._largest(0, "base.yaml"))
        assert kept.exists() and working.exists() and len(commands) == trained
    assert named == {str(working)}


@pytest.mark.parametrize(("status", "diverged"), [(3, True), (2, False)])
def test_a_rate_with_which_a_training_diverges_is_known_by_the_exit_status(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, diverged: bool
) -> None:
    def run(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        stdout.write("the remedy is to lower train.lr_per_256" if status == 2 else "another wording")
        stdout.flush()
        return subprocess.CompletedProcess(command, status)

    study = read_study(file)
    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(Runner, "_largest", lambda *_: "weights")
    with nullcontext() if diverged else pytest.raises(UserError, match="status 2"):
        assert runner_of(study, tmp_path)._probe_loss(study.variants["sandwich-calibrated"], 1e30) is None


def test_a_method_runs_in_its_regimes_only(file: Path, tmp_path: Path) -> None:
    few_shot = STUDY["methods"]["few_shot"] | {"regimes": ["published"]}
    study = read_study(written(tmp_path, STUDY | {"methods": STUDY["methods"] | {"few_shot": few_shot}}))
    assert [name for name in study.variants if "few_shot" in name] == ["few_shot-published"]


@pytest.mark.parametrize(
    ("losses", "best", "after"),
    [
        ({"0.1": 2.0, "0.4": 1.0, "1.6": 1.5}, 0.4, ()),
        ({"0.1": 2.0, "0.4": 1.5, "1.6": 1.0}, 1.6, (6.4,)),
        ({"0.1": 1.0, "0.4": 1.5, "1.6": None}, 0.1, (0.025,)),
        ({"0.1": None, "0.4": None}, None, ()),
    ],
)
def test_the_best_rate_has_a_worse_one_on_both_sides(
    losses: dict[str, Any], best: float | None, after: tuple[float, ...]
) -> None:
    assert (runner.best_rate(losses), runner.beyond(losses)) == (best, after)


def test_a_rate_is_chosen_once_even_if_a_higher_one_would_be_better(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.Runner, "_probe_loss", lambda self, variant, rate: 1 / rate)
    study = read_study(file)
    job = Runner(study, file.parent, "images", file.parent / "runs")
    regime = study.regimes["calibrated"].model_copy(update={"rates": (1.0, 4.0)})
    variant = replace(study.variants["sandwich-calibrated"], regime=regime)
    assert [job._rate(variant) for _ in range(3)] == [4.0 * 4**runner.EXTENSIONS] * 3


def test_a_method_takes_the_rate_of_another_one(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"methods": {**STUDY["methods"], "long": {"label": "long", "config": "sandwich.yaml", "rate_of": "sandwich"}}}
    study = read_study(written(tmp_path, STUDY | changed))
    monkeypatch.setattr(Runner, "_probe_loss", lambda self, variant, rate: {0.01: 2.0, 1e30: None}.get(rate, 1.0))
    chosen = {name: runner_of(study, tmp_path)._rate(study.variants[f"{name}-calibrated"]) for name in ("long", "sandwich")}
    assert chosen["long"] == chosen["sandwich"]
    assert list(json.loads((study.results / "rates.json").read_text())) == ["sandwich-calibrated"]


def test_the_seeds_of_the_runs_are_the_studys_or_those_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def run(_: Runner, only: object, seeds: range, processes: int) -> list[str]:
        asked.append(list(seeds))
        return []

    monkeypatch.setattr(Runner, "run", run)
    written(file.parent, STUDY | {"first_seed": 3, "seeds": 2})
    for options in ([], ["--first-seed", "1"], ["--seeds", "1"]):
        monkeypatch.setattr(sys, "argv", ["run.py", "run", "--study", str(file), "--root", "images", *options])
        with pytest.raises(SystemExit):
            runpy.run_path(str(REPOSITORY / "studies" / "run.py"), run_name="__main__")
    assert asked == [[3, 4], [1, 2], [3]]


@pytest.mark.parametrize("option", ["--processes", "--seeds"])
def test_no_runs_and_no_processes_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "run", "--study", str(file), "--root", "x", option, "0"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(REPOSITORY / "studies" / "run.py"), run_name="__main__")
    assert_one_line(int(left.value.code or 0), capsys.readouterr().err, "at least 1")


def test_rates_cannot_be_chosen_without_subnets_beside_the_candidates(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PROBE_DRAWS", 8)
    with pytest.raises(UserError, match="too few subnets beside the candidates"):
        runner_of(read_study(file), tmp_path)._probes()


def test_a_failed_run_is_one_line_with_the_last_line_of_its_log(file: Path, tmp_path: Path) -> None:
    study = read_study(file)
    with pytest.raises(
        UserError, match=r"train_standalone failed with status 2: .*nowhere.*largest\.log; .*move .*/largest away"
    ):
        list(Runner(study, REPOSITORY, str(tmp_path / "nowhere"), tmp_path / "runs").run(["no_training"], range(1), 1))
    with exclusive(tmp_path / "runs", "study"):
        command = [
            sys.executable,
            "studies/run.py",
            "run",
            "--study",
            str(file),
            "--root",
            "x",
            "--runs",
            str(tmp_path / "runs"),
        ]
        second = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert_one_line(second.returncode, second.stderr, "in use by another study")
