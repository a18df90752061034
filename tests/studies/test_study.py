"""A study from its file: all its runs on a few tiny images, its tables, and what it refuses."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import subprocess
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, assert_one_line, some_archs
from PIL import Image
from scipy.stats import spearmanr

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_json
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.priors.by_name import with_prior
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import Candidate, read_candidates, read_scores, write_scores
from paddle_pgonas.space.arch import MINI
from paddle_pgonas.training.standalone import results_store
from studies import document, intervals, runner, tables
from studies.results import read_results
from studies.runner import Runner
from studies.study import Study, read_study

CANDIDATES = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(some_archs(MINI, 6), start=1)]
TABLES = [
    "truth",
    "power",
    "rates",
    "methods calibrated",
    "methods published confirmation",
    "differences",
    "differences choice",
    "readings calibrated choice",
    "recipes confirmation",
]
BASE = {
    "space": "mini",
    "data": {"image_size": 8, "resize": 8, "augment": "shift", "workers": 0},
    "model": {"num_classes": 2},
    "train": {"epochs": 1, "batch_size": 4, "warmup_epochs": 0},
}
STUDY: dict[str, Any] = {
    "tables": TABLES,
    "pictures": ["tau calibrated", "training published"],
    "largest": "base.yaml",
    "largest_seeds": 2,
    "seeds": 2,
    "halves": 0,
    "narrowest_codes": [3, 5, 7],
    "watch_images": 4,
    "watch_at": [0, 1],
    "detailed_seeds": 1,
    "controls": ["flops", "blocks"],
    "regimes": {
        "calibrated": {"rates": [0.01, 1e30], "rate_options": ["train.max_steps=2"]},
        "published": {"bn": "running", "options": ["model.bn=frozen", "score.bn=running"]},
    },
    "methods": {
        "no_training": {"label": "no training", "config": "base.yaml", "trained": False},
        "sandwich": {"label": "sandwich"},
        "few_shot": {
            "label": "few-shot",
            "teacher": True,
            "after": "sandwich",
            "groups": {"a": "[[1, 2], [1, 4], [1, 4]]", "b": "[[1, 4], [1, 4], [1, 4]]"},
        },
    },
    "comparisons": [["sandwich", "no_training"], ["sandwich", "flops"], ["few_shot-published", "no_training-calibrated"]],
    "recipes": {
        "best": {"label": "sandwich and FLOPs", "variant": "sandwich-calibrated", "metric": "probability", "prior": "flops"},
        "start": {"label": "the start", "variant": "no_training-published"},
        "few": {"label": "few-shot", "variant": "few_shot-published", "metric": "likelihood"},
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study of three methods in two regimes, with images, candidates and a made-up truth."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "images" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    own = {"sandwich": {"method": "sandwich"}, "few_shot": {"method": "uniform", "train": {"narrowest_codes": [3, 5, 7]}}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    for name, values in own.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"base": "base.yaml"} | values))
    write_scores(tmp_path / "candidates.json", CANDIDATES, [0.0] * len(CANDIDATES))
    accs = {entry.name: {"arch": entry.arch.code, "acc": list(rng.random(2))} for entry in CANDIDATES}
    write_json(tmp_path / "accuracies.json", {"seeds": [0, 1], "results": accs})
    (tmp_path / "README.md").write_text("\n".join(f"<!-- begin {name} -->\n<!-- end {name} -->" for name in TABLES))
    return written(tmp_path, STUDY)


def written(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return folder / "study.yaml"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tools' command lines; they run in this process, which is faster."""
    listed: list[list[str]] = []

    def run(command: list[str], stdout: Any = None, **_: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "git":
            return subprocess.CompletedProcess(command, 0, "1234-dirty\n")
        listed.append(command[1:])
        output = io.StringIO()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as left, redirect_stdout(output), redirect_stderr(output):
            patch.setattr(sys, "argv", command[1:])
            runpy.run_path(command[1], run_name="__main__")
        stdout.write(output.getvalue())
        stdout.flush()
        return subprocess.CompletedProcess(command, int(left.value.code or 0))

    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(run=run))
    serial = nullcontext(SimpleNamespace(map=map))  # signals, which trainings handle, need the main thread
    monkeypatch.setattr(runner, "ThreadPoolExecutor", lambda processes: serial)
    monkeypatch.setattr(runner, "PROBES", 2)
    monkeypatch.setattr(runner, "EXTENSIONS", 0)
    monkeypatch.setattr(intervals, "RESAMPLES", 20)
    monkeypatch.setattr(intervals, "SIMULATIONS", 5)
    return listed


def runner_of(study: Study, folder: Path) -> Runner:
    return Runner(study, REPOSITORY, str(folder / "images"), folder / "runs")


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


def test_tables_of_a_regime_and_a_half_use_its_statistics_and_its_candidates(file: Path, commands: list[list[str]]) -> None:
    study = read_study(file)
    rng = np.random.default_rng(1)
    for name in ("sandwich-calibrated", "sandwich-published"):
        rows = {bn: {e.name: {"top1": float(rng.random()), "loss": 1.0} for e in CANDIDATES} for bn in ("running", "calibrated")}
        write_json(study.results / f"{name}-seed0.json", {"scores": rows, "train_seconds": 1})
    results = read_results(study)
    halves = [results.part("published", half) for half in ("choice", "confirmation")]
    assert all(list(half.runs) == ["sandwich-published"] and len(half.archs) == 3 for half in halves)
    assert {arch for half in halves for arch in half.archs} == {entry.arch for entry in CANDIDATES}
    for half in halves:
        rows = results.runs["sandwich-published"][0]["scores"]["running"]
        assert half.scores("sandwich-published")[0].tolist() == [rows[entry.name]["top1"] for entry in half.candidates]
        assert half.truth.shape == (2, 3)
        assert half.mean_truth.tolist() == [results.mean_truth[results.candidates.index(entry)] for entry in half.candidates]


def test_the_head_of_a_table_over_several_regimes_names_no_ones_statistics(file: Path, commands: list[list[str]]) -> None:
    study = read_study(file)
    rows = {bn: {e.name: {"top1": float(n)} for n, e in enumerate(CANDIDATES)} for bn in ("running", "calibrated")}
    for name in ("sandwich-calibrated", "sandwich-published"):
        write_json(study.results / f"{name}-seed0.json", {"scores": rows, "train_seconds": 1, "seed": 0})
    everything = read_results(study)
    heads = [tables.TABLES["methods"](everything.part(of, "")).splitlines()[0] for of in (None, "calibrated", "published")]
    assert "tau, the regime's statistics [95 %] | tau, the other statistics" in heads[0]
    assert "tau, calibrated [95 %] | tau, running" in heads[1] and "tau, running [95 %] | tau, calibrated" in heads[2]


def test_tables_of_a_further_truth_show_its_candidates(file: Path, commands: list[list[str]]) -> None:
    known = json.loads((file.parent / "accuracies.json").read_text())
    few = {name: {**row, "acc": [1 - acc for acc in row["acc"]]} for name, row in list(known["results"].items())[1:5]}
    write_json(file.parent / "long" / "accuracies.json", {**known, "results": few})
    study = read_study(
        written(file.parent, STUDY | {"further_truths": {"long": ["long/accuracies.json"]}, "tables": ["leanings long"]})
    )
    rows = {bn: {e.name: {"top1": float(n), "loss": 1.0} for n, e in enumerate(CANDIDATES)} for bn in ("running", "calibrated")}
    write_json(study.results / "sandwich-calibrated-seed0.json", {"seed": 0, "scores": rows, "train_seconds": 1})
    results = read_results(study)
    long = results.part("calibrated", "", "long")
    assert [entry.name for entry in long.candidates] == list(few)
    assert np.allclose(long.mean_truth, 1 - results.mean_truth[1:5])
    leaning = spearmanr(long.prior("flops"), long.mean_truth).statistic
    assert f"{leaning:+.2f}" in document.tables(results)["leanings long"].splitlines()[2].split(" | ")[3]
    assert document.tables(results)["leanings long"] == tables.TABLES["leanings"](results.part(None, "", "long"))
    same = tables.TABLES["truths"](results).splitlines()
    assert same[0] == "|  | first truth | long truth | first truth of 4 of long | Track 1, published |"
    apart = f"{kendall(1 - long.mean_truth, long.mean_truth):.3f}"
    assert next(line for line in same if "tau with the first" in line).split(" | ")[1:] == ["1.000", apart, "1.000", " |"]
    both = [part.tau("sandwich-calibrated").value for part in (results.part("calibrated", ""), long)]
    assert both == [kendall(range(6), results.mean_truth), kendall(range(4), long.mean_truth)]


def test_a_further_truth_joins_files_with_different_numbers_of_seeds(file: Path) -> None:
    exact: dict[str, float] = {}
    for name, numbers, seeds in (("long", (0, 2, 3), 4), ("unseen", (4, 5), 2)):
        results = {
            CANDIDATES[n].name: {"arch": CANDIDATES[n].arch.code, "acc": [n / 8 + s / 64 for s in range(seeds)]} for n in numbers
        }
        exact |= {CANDIDATES[n].name: n / 8 + (seeds - 1) / 128 for n in numbers}
        write_json(file.parent / name / "accuracies.json", {"seeds": list(range(seeds)), "results": results})
    paths = ["long/accuracies.json", "unseen/accuracies.json"]
    written(file.parent, STUDY | {"further_truths": {"all": paths, "unseen": paths[1:]}})
    results = read_results(read_study(file))
    everything, unseen = (results.part(None, "", name) for name in ("all", "unseen"))
    assert [entry.name for entry in everything.candidates] == list(exact)
    assert everything.mean_truth.tolist() == list(exact.values())
    assert [entry.name for entry in unseen.candidates] == list(exact)[3:]
    assert unseen.truth.tolist() == [[4 / 8, 5 / 8], [4 / 8 + 1 / 64, 5 / 8 + 1 / 64]]
    row = next(line for line in tables.TABLES["truths"](results).splitlines() if "subnets x seeds" in line)
    assert row == "| subnets x seeds | 6 x 2 | 3 x 4, 2 x 2 | 5 x 2 | 30 x 1 |", "a part of another truth has no column"
    deviations = [float(np.std([s / 64 for s in range(seeds)], ddof=1)) for seeds in (4, 2)]
    pooled = ((deviations[0] ** 2 * 9 + deviations[1] ** 2 * 2) / 11) ** 0.5
    assert intervals.seed_deviation(everything.truth) == pytest.approx(pooled)

    write_json(file.parent / "unseen" / "accuracies.json", {CANDIDATES[4].name: {"arch": CANDIDATES[4].arch.code, "acc": 0.5}})
    with pytest.raises(UserError, match=r"unseen.accuracies\.json: holds no accuracies"):
        read_results(read_study(file))
    shutil.copy(file.parent / "long" / "accuracies.json", file.parent / "unseen" / "accuracies.json")
    with pytest.raises(UserError, match=f"unseen.accuracies.json: another file of the same truth holds {CANDIDATES[0].name}"):
        read_results(read_study(file))


def test_controls_of_width_and_of_two_priors(file: Path) -> None:
    results = read_results(read_study(file))
    assert results.prior("width").tolist() == [arch.out_width for arch in results.archs]
    flops, params = (np.log(results.prior(name)) for name in ("flops", "params"))
    both = (flops - flops.mean()) / flops.std() + (params - params.mean()) / params.std()
    assert kendall(results.prior("flops+params"), both) == pytest.approx(1)


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


def test_the_first_recipe_is_compared_with_the_others_and_the_controls(file: Path, commands: list[list[str]]) -> None:
    study, rng = read_study(file), np.random.default_rng(2)
    for name in ("no_training", "sandwich-calibrated"):
        rows = {e.name: {"top1": float(rng.random()), "probability": float(rng.random())} for e in CANDIDATES}
        write_json(
            study.results / f"{name}-seed0.json", {"seed": 0, "scores": {"running": rows, "calibrated": rows}, "train_seconds": 1}
        )
    results = read_results(study)
    cost, truth = results.prior("flops"), results.mean_truth
    mixed = with_prior(results.scores("sandwich-calibrated", metric="probability")[0], "flops", cost, 1)
    wanted = [kendall(values, truth) for values in (mixed, results.scores("no_training-published")[0], cost)]
    lines = [line.split(" | ") for line in tables.TABLES["recipes"](results).splitlines()[2:]]
    assert [line[0][2:] for line in lines] == ["sandwich and FLOPs", "the start", "flops alone", "blocks alone"]
    assert [float(line[1].split()[0]) for line in lines[:3]] == pytest.approx(wanted, abs=5e-4)
    assert float(lines[2][3].split()[0]) == pytest.approx(wanted[0] - wanted[2], abs=1e-3)


def test_recipes_may_be_those_of_another_study(file: Path, tmp_path: Path) -> None:
    recipes = read_study(file).recipes
    own = {name: value for name, value in STUDY.items() if name != "recipes"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(own | {"recipes_of": "study.yaml"}))
    assert read_study(tmp_path / "other.yaml").recipes == recipes
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(STUDY | {"recipes_of": "study.yaml"}))
    with pytest.raises(UserError, match="either recipes or recipes_of"):
        read_study(tmp_path / "other.yaml")
    few = own | {"recipes_of": "study.yaml", "methods": {"no_training": STUDY["methods"]["no_training"]}, "comparisons": []}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(few))
    with pytest.raises(UserError, match=r"recipes\.best: there is no variant sandwich-calibrated"):
        read_study(tmp_path / "other.yaml")


def test_a_method_runs_in_its_regimes_only(file: Path, tmp_path: Path) -> None:
    few_shot = STUDY["methods"]["few_shot"] | {"regimes": ["published"]}
    study = read_study(written(tmp_path, STUDY | {"methods": STUDY["methods"] | {"few_shot": few_shot}}))
    assert [name for name in study.variants if "few_shot" in name] == ["few_shot-published"]


def test_tables_of_an_unfinished_truth_show_the_subnets_that_it_holds(file: Path, tmp_path: Path) -> None:
    truth = json.loads((tmp_path / "accuracies.json").read_text())
    del truth["results"]["arch2"], truth["results"]["arch5"]
    write_json(tmp_path / "accuracies.json", truth)
    results = read_results(read_study(file))
    assert [entry.name for entry in results.part(None, "").candidates] == ["arch1", "arch3", "arch4", "arch6"]
    assert sum(len(results.part(None, half).candidates) for half in ("choice", "confirmation")) == 4
    write_json(tmp_path / "accuracies.json", truth | {"results": {}})
    with pytest.raises(UserError, match="no accuracies yet"):
        read_results(read_study(file))


@pytest.mark.parametrize("name", ["metods calibrated", "methods calibratd"])
def test_a_table_that_does_not_exist_is_refused(file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"there is no {name}"):
        document.tables(read_results(read_study(written(tmp_path, STUDY | {"tables": [name]}))))


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


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"tables": None}, "tables"),
        ({"metods": {}}, "did you mean methods"),
        ({"methods": {"sandwich": {"label": "x", "teached": True}}}, r"methods\.sandwich\.teacher"),
        ({"methods": {"sandwich": {}}}, r"methods\.sandwich\.label is missing"),
        ({"comparisons": [["sandwich", "sandwhich"]]}, "no method sandwhich"),
        ({"methods": {"sandwich": {"label": "x", "after": "y"}}, "comparisons": [], "recipes": {}}, r"sandwich\.after .*not y"),
        ({"methods": {"sandwich": {"label": "x", "options": {"z": []}}}, "comparisons": [], "recipes": {}}, "no regime z"),
        ({"recipes": {"best": {"label": "x", "variant": "sandwich"}}}, r"recipes\.best: there is no variant sandwich"),
        ({"recipes": {"best": {"label": "x", "variant": "sandwich-published", "metric": "top2"}}}, r"recipes\.best\.metric"),
        ({"recipes": {"best": {"label": "x", "variant": "sandwich-published", "prior": "flop"}}}, "no prior flop"),
        ({"recipes": {name: {"label": "x", "variant": "sandwich-published"} for name in "ab"}}, "another recipe has the label x"),
        (
            {"methods": {"sandwich": {"label": "x", "rate_of": "y"}}, "comparisons": [], "recipes": {}},
            r"sandwich\.rate_of .*not y",
        ),
        (
            {
                "methods": {"sandwich": {"label": "x", "after": "a"}, "a": {"label": "a", "regimes": ["published"]}},
                "comparisons": [],
                "recipes": {},
            },
            r"sandwich\.after",
        ),
        (
            {
                "methods": {"sandwich": {"label": "x", "rate_of": "a"}, "a": {"label": "a", "trained": False}},
                "comparisons": [],
                "recipes": {},
            },
            r"sandwich\.rate_of",
        ),
        (
            {"methods": {"sandwich": {"label": "x", "largest": "b.yaml", "pretrained": False}}, "comparisons": [], "recipes": {}},
            r"sandwich\.largest has no effect",
        ),
        ({"controls": ["flops+parms"]}, "controls: there is no prior parms"),
        ({"further_truths": {"choice": ["x"]}}, r"further_truths\.choice: needs a name"),
        ({"pictures": ["truths"]}, "truths needs further_truths"),
        ({"detailed_seeds": -1}, "detailed_seeds"),
        ({"methods": {"sandwich": {"label": "x", "regimes": ["z"]}}, "comparisons": [], "recipes": {}}, "no regime z"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(file: Path, tmp_path: Path, change: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=names) as refused:
        read_study(written(tmp_path, STUDY | change))
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
