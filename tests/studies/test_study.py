"""A study's file, the tables that follow from its results, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr
from small_study import CANDIDATES, STUDY, written

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_json
from paddle_pgonas.priors.by_name import with_prior
from paddle_pgonas.scores.correlation import kendall
from studies import document, intervals, tables
from studies.pictures import FIGURES
from studies.results import read_results
from studies.study import read_study

pytest_plugins = ["small_study"]


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table below its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


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
    rows = cells(tables.TABLES["truths"](results))
    apart = f"{kendall(1 - long.mean_truth, long.mean_truth):.3f}"
    assert [[row[0], *row[-2:]] for row in rows] == [["first truth", "", f"{apart} (4)"], ["long truth", apart, ""]]
    assert [row[:2] for row in cells(tables.TABLES["costs"](results))][1::2] == [
        ["long truth", "4"],
        ["Track 1, published", "30"],
    ]
    both = [part.tau("sandwich-calibrated").value for part in (results.part("calibrated", ""), long)]
    assert both == [kendall(range(6), results.mean_truth), kendall(range(4), long.mean_truth)]


def test_truths_of_several_lengths_are_compared_on_their_common_subnets(file: Path, commands: list[list[str]]) -> None:
    for name, numbers, epochs in (("", range(6), 2), ("long", (0, 1, 2, 3), 4), ("whole", (1, 2, 3, 5), 8), ("closed", (0,), 4)):
        accs = {CANDIDATES[n].name: {"arch": CANDIDATES[n].arch.code, "acc": [n / 8, (n + epochs) / 16]} for n in numbers}
        recipe = {"train": {"epochs": epochs}} | ({"closed": True} if name == "closed" else {})
        write_json(file.parent / name / "accuracies.json", {"recipe": recipe, "results": accs})
    further = {name: [f"{name}/accuracies.json"] for name in ("long", "whole")}
    results = read_results(read_study(written(file.parent, STUDY | {"further_truths": further})))
    wanted = [
        "first",
        "long",
        "first truth of 4 of long",
        "whole",
        "first truth of 4 of whole",
    ]  # the long one lacks one of these
    rows = cells(tables.TABLES["truths"](results))
    assert [row[:2] for row in rows] == [["first truth", "6 x 2"], ["long truth", "4 x 2"], ["whole truth", "4 x 2"]]
    assert [row[-1].partition(" ")[2] for row in rows] == ["(4)", "(3)", ""]
    labels = tuple(name if " " in name else f"{name} truth" for name in wanted)
    for name in ("costs", "structure"):
        rows = cells(tables.TABLES[name](results))
        assert tuple(row[0] for row in rows[:-1]) == labels and [row[1] for row in rows] == ["6", "4", "4", "4", "4", "30"]
    names = ("closed", "whole", "long")  # in any order; closed branches are of another kind
    study = read_study(written(file.parent, STUDY | {"further_truths": {name: [f"{name}/accuracies.json"] for name in names}}))
    [axes, _] = FIGURES["lengths"](read_results(study)).axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[2, 4, 8]] * 3
    assert axes.lines[0].get_ydata().tolist() == [100 * (1 / 8 + (1 + epochs) / 16) / 2 for epochs in (2, 4, 8)]


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
    seeds = [row[1] for row in cells(tables.TABLES["truths"](results))]
    assert seeds == ["6 x 2", "3 x 4, 2 x 2"], "a part of another truth has no row"
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
