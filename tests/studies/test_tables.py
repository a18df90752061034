"""Tables, pictures and truth of a study follow from its results; README.md says what those of the committed studies say."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, flops

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json, write_json
from paddle_pgonas.io.records import Store
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import read_candidates, read_scores, write_scores
from paddle_pgonas.space.arch import MINI
from studies import collecting, document, intervals
from studies.results import read_results
from studies.study import Study, read_study
from studies.tables import TABLES

HOME = REPOSITORY / "studies" / "wide"
STUDY = read_study(HOME / "study.yaml")
CANDIDATES = read_candidates(HOME / "candidates.json", MINI)
DOCUMENT = "\n".join(f"# {name}\n<!-- begin {name} -->\nold\n<!-- end {name} -->" for name in STUDY.tables)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results that were made up: the truth is cost and noise, the sandwich knows the cost exactly, the baseline its opposite."""
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    for path in (HOME / "candidates.json", *HOME.glob("*.yaml")):
        shutil.copy(path, tmp_path)
    rng = np.random.default_rng(0)
    macs = np.array([flops(entry.arch) for entry in CANDIDATES]) / 1e7
    for seed in range(2):
        write_scores(tmp_path / "results" / f"truth-seed{seed}.json", CANDIDATES, list(macs + rng.normal(0, 0.01, len(macs))))
        write_json(tmp_path / "results" / f"truth-seed{seed}.record.json", {"seconds": {}})
    for method, sign in (("baseline", -1), ("sandwich_relu", 1)):
        for seed in range(2):
            rows = {
                e.name: {"top1": sign * m, "probability": sign * m, "loss": -sign * m}
                for e, m in zip(CANDIDATES, macs, strict=True)
            }
            result = {"method": method, "seed": seed, "scores": dict.fromkeys(collecting.BN, rows)}
            result |= {"curve": [{"progress": 0.5}], "train_seconds": 60}
            write_json(tmp_path / "results" / f"{method}-seed{seed}.json", result)
    return tmp_path


@pytest.fixture
def study(home: Path) -> Study:
    """The committed study on these results."""
    return read_study(home / "study.yaml")


def test_the_candidates_are_spread_and_every_method_has_a_configuration() -> None:
    archs = [entry.arch for entry in CANDIDATES]
    assert len(archs) >= 48 and archs[0] == MINI.smallest and archs[-1] == MINI.largest
    for name, method in STUDY.methods.items():
        config = load_config(STUDY.config_of(name))
        assert (config.method.name in ("uniform", "progressive")) == method.teacher
        shared = load_config(STUDY.path("supernet.yaml" if method.pretrained else "random.yaml"))
        equal = ("epochs", "batch_size", "lr_per_256", "warmup_epochs")
        assert [getattr(config.train, key) for key in equal] == [getattr(shared.train, key) for key in equal]
        assert config.data == shared.data


def test_tables_tell_agreement_noise_and_differences(study: Study) -> None:
    tables = document.tables(read_results(study))
    baseline, sandwich = (line for line in tables["methods"].splitlines() if line.startswith(("| official", "| sandwich")))
    flops = next(line for line in tables["methods"].splitlines() if line.startswith("| flops alone"))
    assert sandwich.split("|")[3] == flops.split("|")[3]  # the sandwich's scores are the cost itself
    assert tables["rules"].count(sandwich.split("|")[3].split()[0]) >= 3
    tau = float(sandwich.split("|")[3].split()[0])
    assert 0.8 < tau < 1 and float(baseline.split("|")[3].split()[0]) == -tau
    [difference] = [line for line in tables["differences"].splitlines() if line.startswith("| sandwich, ReLU")]
    assert float(difference.split("|")[4].split()[0]) == pytest.approx(2 * tau, abs=2e-3)
    assert "noise ceiling" in tables["truth"]


def test_resampled_tau_is_the_tau_of_each_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 20)
    rng = np.random.default_rng(3)
    truth = rng.normal(size=15).round(1)
    runs = (truth + rng.normal(size=(2, 15))).round(1)
    subnets = [np.repeat(np.arange(15), times) for times in intervals.draws(15)]
    for run, found in zip(runs, intervals.resampled_tau(runs, truth), strict=True):
        assert found == pytest.approx([kendall(truth[at], run[at]) for at in subnets])


def test_runs_of_the_same_seed_are_compared_with_each_other() -> None:
    """Seeds that raise both methods alike do not widen the interval of the difference; seeds of one method only do not count."""
    rng = np.random.default_rng(0)
    subnets, seeds = rng.normal(0, 0.05, 2000), np.array([[-0.2], [0.0], [0.3]])
    first = 0.6 + seeds + np.concatenate([[0], subnets])
    more = np.concatenate([first - 0.1, first[:1] - 3])
    paired = intervals.Taus(first, (0, 1, 2)).minus(intervals.Taus(more[[3, 2, 1, 0]], (7, 2, 1, 0)))
    assert paired == pytest.approx((0.1, 0.1, 0.1, 0))
    apart = intervals.Taus(first).minus(intervals.Taus(first[[2, 0]] - 0.1))
    assert apart.high - apart.low > 0.5
    assert apart.value == pytest.approx(0.1 + seeds.mean() - seeds[[2, 0]].mean())
    for others in ((3, 4, 5), (2, 1, 4)):  # no pair, and two, which tell little about how much seeds differ
        independent = intervals.Taus(first, (0, 1, 2)).minus(intervals.Taus(first, others))
        assert independent == intervals.Taus(first).minus(intervals.Taus(first))


def test_p_values_agree_with_the_intervals_and_are_corrected_by_holm() -> None:
    rng = np.random.default_rng(2)
    one, two = (intervals.Taus(rng.normal(0.6, 0.05, (3, 500))) for _ in range(2))
    difference = one.minus(two)
    edge = intervals.Taus(one.values - difference.low)  # so that the interval begins at 0
    assert edge.minus(two).p_value == pytest.approx(0.05)
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_tests_fixed_in_advance_count_also_where_their_runs_are_missing(study: Study, home: Path) -> None:
    pairs = (("sandwich_relu", "baseline"), ("sandwich_relu+params", "flops"), ("sandwich_mish", "baseline"))
    results = read_results(study.model_copy(update={"hypotheses": pairs}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLES["hypotheses"](results).splitlines()[2:]]
    assert [row[-1] for row in rows] == ["shown", "not shown", "not tested"] and rows[2][2] == "none"
    assert float(rows[0][-2]) == pytest.approx(3 * float(rows[0][-3]), abs=2e-3)
    reversed_pair = study.model_copy(update={"hypotheses": (pairs[0][::-1],)})
    assert TABLES["hypotheses"](read_results(reversed_pair)).endswith("| shown to be worse |")
    unknown = study.model_copy(update={"hypotheses": (("sandwich_relu+blocks", "nothing"),)})
    assert len(list(unknown.unknown_names())) == 2


@pytest.mark.parametrize("between", [0.0, 0.03, 0.1])
def test_nine_of_ten_intervals_and_more_hold_the_exact_value(between: float) -> None:
    """Three runs, subnets with a deviation of .045, and seeds with one of ``between``."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        runs = 0.6 + rng.normal(0, 0.045) + rng.normal(0, between, (3, 1))
        found = intervals.Taus(runs + np.concatenate([[0], rng.normal(0, 0.045, 200)])).estimate()
        held += found.low <= 0.6 <= found.high
    assert held >= 0.92 * 400


def test_only_pairs_of_similar_cost_count_where_asked() -> None:
    costs, truth, scores = np.array([1, 1.2, 10, 11.0]), np.array([1, 2, 3, 4]), np.array([2, 1, 3, 4.0])
    pairs = intervals.similar(costs, 1.5)
    assert pairs.sum() == 4 and pairs[0, 1] and pairs[3, 2]
    assert intervals.resampled_tau(scores[None], truth, pairs=pairs)[0, 0] == 0  # one in order, one not


def test_the_noise_of_a_truth_bounds_the_attainable_tau() -> None:
    exact = np.linspace(0, 1, 30)
    assert intervals.attainable_tau(np.stack([exact, exact])) == pytest.approx(1)
    pairs = np.triu(np.ones((30, 30), bool), 1)
    assert intervals.share_ordered_alike(exact, exact, pairs) == 1 and intervals.share_ordered_alike(-exact, exact, pairs) == 0
    assert 0.5 < intervals.attainable_tau(np.stack([exact - 0.05, exact + 0.05])) < 0.97


def test_the_report_fills_tables_and_draws_pictures_and_nothing_else_changes(study: Study, home: Path) -> None:
    first, *others = DOCUMENT.split("# ")[1:]
    (home / "README.md").write_text(f"# {first}")
    (home / "more.md").write_text("# " + "# ".join(others))
    (home / "plan.md").write_text("old\n")
    assert document.write_report(study) == [home / "README.md", home / "more.md"]
    texts = [path.read_text() for path in (home / "README.md", home / "more.md")]
    assert not any("old" in text for text in texts) and texts[0].startswith("# truth\n<!-- begin truth -->\n|")
    document.write_report(study)
    assert [path.read_text() for path in (home / "README.md", home / "more.md", home / "plan.md")] == [*texts, "old\n"]
    assert sorted(path.name for path in (home / "pictures").iterdir()) == ["curves.svg", "ranks.svg", "tau.svg"]


@pytest.mark.parametrize(("text", "problem"), [("no places", "none"), (f"# truth\n{2 * '<!-- begin truth -->'}\n", "once each")])
def test_a_table_needs_one_place(study: Study, home: Path, text: str, problem: str) -> None:
    (home / "README.md").write_text(text)
    with pytest.raises(UserError, match=rf"README\.md: .*truth.*{problem}"):
        document.write_report(study)
    (home / "README.md").write_text(DOCUMENT)
    (home / "more.md").write_text(DOCUMENT)
    with pytest.raises(UserError, match=r"truth needs one place.*2, in README\.md, more\.md"):
        document.write_report(study)


def test_the_truth_is_a_table_for_people_and_a_file_for_the_tools(study: Study, home: Path) -> None:
    found = read_results(study)
    document.write_truth(found)
    rows = list(csv.DictReader((home / "truth.csv").open()))
    means = read_scores(home / "truth.json", MINI)
    assert [row["name"] for row in rows] == [entry.name for entry in CANDIDATES]
    for number, row in enumerate(rows):
        seeds = found.truth[:, number]
        assert [float(row["seed0"]), float(row["seed1"])] == pytest.approx(list(seeds), abs=1e-4)
        assert means[row["arch"]] == pytest.approx(seeds.mean()) == pytest.approx(float(row["mean"]), abs=1e-4)
        assert float(row["deviation"]) == pytest.approx(abs(seeds[0] - seeds[1]) / math.sqrt(2), abs=1e-4)


def test_truth_grows_by_what_was_trained_and_keeps_no_place_of_the_machine(study: Study, home: Path, tmp_path: Path) -> None:
    (home / "results" / "truth-seed0.json").unlink()
    assert len(collecting.missing_truth(study, 0, {})) == len(CANDIDATES)
    config = {"seed": 0, "output_dir": "/here", "data": {"root": "/there", "cache_dir": None}}
    config |= {"model": {"pretrained": None}, "method": None, "train": {}}
    store, other = (Store(tmp_path / "work" / "standalone", {"seed": seed}) for seed in range(2))
    for number, entry in enumerate(CANDIDATES[:3]):
        one = {"acc": number / 10, "seconds": 1.5, "versions": {}, "config": config | {"seed": number % 2}}
        (store, other)[number % 2].put(entry.arch.code, one)
    collecting.collect_truth(study, store, 0)
    assert [entry.name for entry in collecting.missing_truth(study, 0, {})] == [
        e.name for e in CANDIDATES if e.name not in ("arch1", "arch3")
    ]
    record = (home / "results" / "truth-seed0.record.json").read_text()
    assert json.loads(record)["seconds"] == {"arch1": 1.5, "arch3": 1.5}
    assert "here" not in record


def test_results_for_other_candidates_are_refused(study: Study, home: Path) -> None:
    path = home / "results" / "baseline-seed0.json"
    result = json.loads(path.read_text())
    for rows in result["scores"].values():
        rows.pop("arch1")
    path.write_text(json.dumps(result))
    with pytest.raises(UserError, match="other candidates"):
        read_results(study)


def shown(tau: float) -> str:
    return f"{tau:.3f}".lstrip("0")


def test_recipes_and_truth_say_what_the_committed_results_say() -> None:
    """The pictures are not compared: their bytes depend on the version of matplotlib."""
    results = read_results(STUDY)
    assert document.truth_csv(results) == (HOME / "truth.csv").read_text(encoding="utf-8")
    assert list(results.runs) == list(STUDY.methods)
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    similar = read_results(read_study(REPOSITORY / "studies" / "similar_cost" / "study.yaml")).part(None, "", "long")
    recipes = {
        "`sandwich`": ("sandwich_relu", "sandwich-calibrated"),
        "`zero_step`": (None, "no_training-calibrated"),
        "`official_baseline` with `model.bn": ("baseline", "baseline-calibrated"),
        "`pgonas_prelu_flops`": ("pgonas_flops_warmup", "pgonas_flops-calibrated"),
        "`pgonas_mish_zen`": ("pgonas_zen", "pgonas_zen-calibrated"),
        "`as_published": (None, "pgonas_flops-published"),
        "`official_baseline` with the same": ("progressive", "progressive-calibrated"),
    }
    found: list[str] = []
    table, readme = (
        [
            cells
            for line in text.splitlines()
            if len(cells := [cell.strip() for cell in line.split("|")]) == columns + 2 and "---" not in line
        ]
        for text, columns in ((page, 7), ((REPOSITORY / "README.md").read_text(encoding="utf-8"), 6))
    )
    for recipe, (method, variant) in recipes.items():
        [row] = [row for row in table if row[2].startswith(recipe)]
        assert row[5].startswith(shown(results.tau(method).value)) if method else not row[5]
        assert row[6] == shown(similar.tau(variant, metric="probability").value)
        found += [short[2] for short in readme if short[2].startswith(recipe) and short[5] == row[6]]
    assert len(found) == len(readme) - 3  # all but the head and the costs
    real = read_json(REPOSITORY / "studies" / "real_track1" / "figures.json", "figures")
    labels = {"flops": "log FLOPs", "params": "log parameters", "zen": "Zen-score", "flops+params": "log FLOPs + log parameters"}
    for prior, label in labels.items():
        [row] = [row for row in table if f"--prior {prior}`" in row[2]]
        assert row[5] == (shown(results.tau(prior).value) if prior in results.study.controls else "")
        assert row[6:8] == [shown(similar.tau(prior).value), shown(real["rankings"][label]["kendall"][0])]
        assert [short[5:7] for short in readme if f"--prior {prior}`" in short[2]] in ([], [row[6:8]])
    assert shown(results.tau("sandwich_prelu").value) in page
