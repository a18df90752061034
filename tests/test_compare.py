"""Comparison of score files: common and missing architectures, and which file agrees better."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from paddle_pgonas.errors import UserError
from paddle_pgonas.report.comparison import Comparison, compare
from paddle_pgonas.report.labels import labels_of
from paddle_pgonas.report.words import ALIKE, CHANCE, LEADS, table, verdict
from paddle_pgonas.scores.correlation import STATISTICS, correlate
from paddle_pgonas.scores.files import sample_candidates, write_scores
from paddle_pgonas.space.arch import MINI, TRACK1, SearchSpace

pytestmark = pytest.mark.usefixtures("few_resamples")
CODES = [MINI.sample(random.Random(seed)).code for seed in range(12)]
TRUTH = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.55, 0.15, 0.95]
CLOSE = [0.45, 0.2, 0.8, 0.35, 0.6, 0.1, 0.9, 0.5, 0.7, 0.52, 0.12, 0.91]


def scores(folder: Path, name: str, values: Sequence[float], codes: Sequence[str] = CODES) -> str:
    """A score file; entries are matched by code, so their names are of no account."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    entries = {f"{path.stem}{i}": {"acc": acc, "arch": code} for i, (acc, code) in enumerate(zip(values, codes, strict=False))}
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The truth names 10 of 12 architectures; one file lacks 2 of these, leaves out digit 0 and has an awkward name."""
    folder = tmp_path_factory.mktemp("scores")
    files = [scores(folder, "close.json", CLOSE), scores(folder, "lacking.json", TRUTH[2:], [code[1:] for code in CODES[2:]])]
    return compare(files, scores(folder, "truth.json", TRUTH[:10]))


def test_files_are_correlated_with_the_truth_on_what_it_names(comparison: Comparison) -> None:
    close, lacking = comparison.rows
    assert (comparison.reference_file, comparison.truth) == ("truth.json", True)
    assert comparison.space is MINI
    assert close.name == "close.json"
    assert [arch.code for arch in close.archs] == CODES[:10]
    assert list(close.reference) == TRUTH[:10]
    assert list(close.scores) == CLOSE[:10]
    assert close.estimates == correlate(close.reference, close.scores, comparison.k).estimates()
    assert lacking.estimates["pearson"].value == pytest.approx(1)


def test_codes_match_with_and_without_digit_0(comparison: Comparison) -> None:
    assert [arch.code for arch in comparison.rows[1].archs] == CODES[2:10]
    assert list(comparison.rows[1].scores) == TRUTH[2:10]


def test_architectures_that_one_side_lacks_are_counted_and_named(comparison: Comparison) -> None:
    assert comparison.notes == [
        "close.json has 2 architectures that the truth lacks, left out: close10, close11",
        "lacking.json lacks 2 of the 10 architectures of the truth: truth0, truth1",
        "lacking.json has 2 architectures that the truth lacks, left out: lacking8, lacking9",
    ]


def test_a_name_that_stands_for_another_code_is_noted_and_matched_by_code(tmp_path: Path) -> None:
    truth = scores(tmp_path, "arch.json", TRUTH)
    turned = [*CODES[1:7], CODES[0], *CODES[7:]]
    other = scores(tmp_path / "turned", "arch.json", [*TRUTH[1:7], TRUTH[0], *TRUTH[7:]], turned)
    found = compare([other], truth)
    assert found.notes == ["arch.json has another code than the truth under 7 names, matched by code: arch0, arch1, arch2, ..."]
    assert found.rows[0].estimates["kendall"].value == pytest.approx(1)


def test_the_figures_for_programs_hold_every_row_under_the_documented_keys(comparison: Comparison) -> None:
    figures = json.loads(json.dumps(comparison.as_json()))
    assert set(figures) == {"reference", "space", "k", "level", "ceiling", "rows", "notes"}
    assert (figures["reference"], figures["space"], figures["k"], figures["level"]) == ("truth.json", "mini", 1, 0.95)
    assert [(row["file"], row["count"], row["resamples"]) for row in figures["rows"]] == [
        ("close.json", 10, 100),
        ("lacking.json", 8, 100),
    ]
    for row, figure in zip(comparison.rows, figures["rows"], strict=True):
        assert set(figure) == {"file", "label", "count", "resamples", "difference", *STATISTICS}
        for name, estimate in row.estimates.items():
            assert figure[name] == {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    assert figures["rows"][0]["difference"] is None
    assert figures["rows"][1]["difference"]["to"] == "close.json"
    assert set(figures["rows"][1]["difference"]) == {"to", *STATISTICS}
    assert figures["notes"] == comparison.notes


def test_differences_to_the_first_file_are_paired_and_of_the_architectures_that_both_have(comparison: Comparison) -> None:
    first, second = comparison.rows
    close, lacking = correlate(first.reference[2:], first.scores[2:], 1), correlate(second.reference, second.scores, 1)
    assert first.difference is None
    assert second.difference == lacking.minus(close)
    assert second.difference["kendall"].value == pytest.approx(1 - close.values["kendall"])


def test_a_file_is_no_better_than_itself_and_a_worse_one_is_worse(tmp_path: Path) -> None:
    files = [
        scores(tmp_path, "close.json", CLOSE),
        scores(tmp_path, "same.json", CLOSE),
        scores(tmp_path, "bad.json", TRUTH[::-1]),
    ]
    _, same, bad = compare(files, scores(tmp_path, "truth.json", TRUTH)).rows
    assert same.difference is not None and bad.difference is not None
    assert all(estimate == (0, 0, 0) for estimate in same.difference.values())
    assert bad.difference["kendall"].high < 0


@pytest.mark.parametrize("k", [0, 11])
def test_a_k_beyond_the_architectures_is_refused(tmp_path: Path, k: int) -> None:
    with pytest.raises(UserError, match=r"--top must be 1 to 10"):
        compare([scores(tmp_path, "a.json", CLOSE)], scores(tmp_path, "truth.json", TRUTH[:10]), k)


def test_the_table_shows_each_file_with_pearson_times_100(comparison: Comparison) -> None:
    words, figures = verdict(comparison), table(comparison)
    assert figures.startswith(words)
    lines = figures.removeprefix(words).strip().splitlines()
    close = lines[2]
    estimates = comparison.rows[0].estimates
    assert f" {100 * estimates['pearson'].value:.2f} [" in close
    assert f" {estimates['kendall'].value:.3f} [" in close
    assert close.startswith("close.json")
    assert "difference to close.json" in lines[5]
    difference = comparison.rows[1].difference
    assert difference is not None
    assert lines[7].startswith("lacking.json")
    assert f" {difference['kendall'].value:+.3f} [" in lines[7]
    assert lines[-len(comparison.notes) :] == comparison.notes


def test_without_truth_the_first_file_is_the_reference_and_both_gaps_are_noted(tmp_path: Path) -> None:
    first, second = scores(tmp_path, "first.json", TRUTH[:8]), scores(tmp_path, "second.json", CLOSE[3:], CODES[3:])
    found = compare([first, second], None)
    assert found.reference == "first.json"
    assert [row.name for row in found.rows] == ["second.json"]
    assert [arch.code for arch in found.rows[0].archs] == CODES[3:8]
    lacks, has = found.notes
    assert lacks == "second.json lacks 3 of the 8 architectures of first.json: first0, first1, first2"
    assert has == "second.json has 4 architectures that first.json lacks, left out: second5, second6, second7, ..."


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    files = [scores(tmp_path / folder, "scores.json", CLOSE[:3]) for folder in "ab"]
    assert [row.name for row in compare(files, scores(tmp_path, "truth.json", TRUTH[:3])).rows] == files


@pytest.mark.parametrize("common", [0, 1])
def test_files_without_two_common_architectures_are_refused(tmp_path: Path, common: int) -> None:
    first, second = scores(tmp_path, "first.json", TRUTH[:5]), scores(tmp_path, "second.json", CLOSE, CODES[5 - common :])
    with pytest.raises(UserError, match=rf"second\.json: shares {common} architectures with .*first\.json"):
        compare([first, second], None)


def test_one_file_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        compare([scores(tmp_path, "one.json", TRUTH)], None)


def test_a_file_of_another_space_is_refused(tmp_path: Path) -> None:
    def of(space: SearchSpace) -> str:
        return scores(tmp_path, f"{space.name}.json", [0.1, 0.2], [space.largest.code, space.smallest.code])

    with pytest.raises(UserError, match=r"track1\.json: .*space mini"):
        compare([of(MINI), of(TRACK1)], None)


def test_two_shared_architectures_are_said_to_be_that(tmp_path: Path) -> None:
    candidates = sample_candidates(MINI, 3, 0)
    write_scores(tmp_path / "three.json", candidates, [0.1, 0.2, 0.3])
    write_scores(tmp_path / "two.json", candidates[:2], [0.1, 0.2])
    found = compare([tmp_path / "three.json", tmp_path / "two.json"])
    assert any("two.json shares only 2 architectures with three.json" in note for note in found.notes)


def test_constant_scores_have_no_correlation_and_still_make_valid_json(tmp_path: Path) -> None:
    found = compare([scores(tmp_path, "flat.json", [0.5] * 5)], scores(tmp_path, "truth.json", TRUTH[:5]))
    assert "nan" not in table(found)
    assert "flat.json is constant (every 'acc' is 0.5): it gives no ranking" in found.notes
    json.dumps(found.as_json(), allow_nan=False)  # NaN is no JSON: strict readers stop there


def test_two_architectures_are_enough(tmp_path: Path) -> None:
    found = compare([scores(tmp_path, "two.json", CLOSE[:2])], scores(tmp_path, "truth.json", TRUTH[2:4], CODES[:2]))
    assert found.rows[0].estimates["kendall"].value == 1
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize("acc", [float("nan"), float("inf"), None])
def test_an_acc_that_is_no_finite_number_is_named_with_its_count(tmp_path: Path, acc: float | None) -> None:
    values = [acc if index % 2 else value for index, value in enumerate(TRUTH)]
    with pytest.raises(UserError, match=r"a\.json: a1: has no finite 'acc'.*and 5 more like it: a3, a5, \.\.\."):
        compare([scores(tmp_path, "a.json", values)], scores(tmp_path, "truth.json", TRUTH))  # type: ignore[arg-type]


def test_repeated_codes_are_named_with_their_count(tmp_path: Path) -> None:
    repeated = scores(tmp_path, "a.json", TRUTH, [*CODES[:8], *CODES[:4]])
    with pytest.raises(UserError, match=r"a\.json: a8: repeats the code of a0.*and 3 more like it: a9, a10, \.\.\."):
        compare([repeated], scores(tmp_path, "truth.json", TRUTH))


def test_words_say_what_the_intervals_show(tmp_path: Path) -> None:
    """Of the first file: better than chance, and than which others; the words follow the intervals of Kendall tau."""
    truth = scores(tmp_path, "truth.json", TRUTH)
    close, same = scores(tmp_path, "close.json", CLOSE), scores(tmp_path, "same.json", CLOSE)
    reverse, flat = scores(tmp_path, "reverse.json", [1 - value for value in TRUTH]), scores(tmp_path, "flat.json", [0.5] * 12)
    said = verdict(compare([close, same, reverse, flat], truth))
    assert f"close.json {CHANCE[1]}" in said
    for side, name in ((-1, "reverse.json"), (0, "same.json"), (None, "flat.json")):
        assert f"{LEADS[side]} {name}" in said
    assert LEADS[1] not in said
    worse = verdict(compare([reverse, close], truth))
    assert f"reverse.json {CHANCE[-1]}" in worse and f"{LEADS[1]} close.json" in worse
    assert CHANCE[None] in verdict(compare([flat], truth))
    alike = verdict(compare([close, same, reverse, flat]))
    assert all(f"{ALIKE[side]} {name}" in alike for side, name in ((1, "same.json"), (-1, "reverse.json"), (None, "flat.json")))
    assert not set(alike.split()) & {"better", "worse"}  # which nobody can tell without a truth


def test_figures_are_told_once_and_differences_only_with_a_truth(tmp_path: Path) -> None:
    files = [scores(tmp_path, f"{name}.json", values) for name, values in (("a", CLOSE), ("b", TRUTH[::-1]), ("c", TRUTH))]
    with_truth = compare(files[:2], files[2])
    for row in with_truth.rows:
        assert table(with_truth).count(f"{row.estimates['kendall'].value:.3f} [") == 1
    assert not re.search(r"\d\.\d", verdict(with_truth))
    assert len(table(with_truth).split("\n\n")) == len(table(compare(files)).split("\n\n")) + 1


def test_a_truths_standard_errors_bound_what_error_free_scores_reach(tmp_path: Path) -> None:
    ceilings = []
    for error in (0, 0.01, 0.1, 10):
        entries = {code: {"acc": acc, "arch": code, "std_error": error} for code, acc in zip(CODES, TRUTH, strict=True)}
        (tmp_path / "truth.json").write_text(json.dumps(entries), encoding="utf-8")
        comparison = compare([scores(tmp_path, "close.json", CLOSE)], tmp_path / "truth.json")
        assert comparison.ceiling is not None and f"{comparison.ceiling:.3f}" in table(comparison)
        ceilings.append(comparison.ceiling)
    assert ceilings[0] == pytest.approx(1) and sorted(ceilings, reverse=True) == ceilings and abs(ceilings[-1]) < 0.1
    del entries[CODES[0]]["std_error"]
    (tmp_path / "truth.json").write_text(json.dumps(entries), encoding="utf-8")
    assert compare([scores(tmp_path, "close.json", CLOSE)], tmp_path / "truth.json").ceiling is None


@pytest.mark.parametrize("error", [-0.1, "0.1", True, float("inf")])
def test_a_standard_error_that_is_none_is_named(tmp_path: Path, error: object) -> None:
    entries = {code: {"acc": 0.5, "arch": code, "std_error": error} for code in CODES}
    (tmp_path / "truth.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(UserError, match="std_error"):
        compare([scores(tmp_path, "close.json", CLOSE)], tmp_path / "truth.json")


def record(path: str, **facts: object) -> None:
    Path(path).with_suffix(".record.json").write_text(json.dumps(facts), encoding="utf-8")


def test_files_are_named_by_what_made_them(tmp_path: Path) -> None:
    files = [scores(tmp_path, f"{name}.json", CLOSE) for name in "abcdef"]
    training = [{"method": {"name": "sandwich"}}]
    record(files[0], weights=["w"], training=training)
    record(files[1], weights=["w"], training=training)
    record(files[2], weights=["w"], training=[{"method": {"name": "pgonas"}}], prior="flops, weight 100", predictor="a model")
    record(files[3], prior="zen")
    record(files[4], weights=[], training=[None])
    labels = ["sandwich (a.json)", "sandwich (b.json)", "pgonas + flops (smoothed)", "zen", "no training", "f.json"]
    assert labels_of(files, None) == labels
    record(files[3], prior="zen", file="the digest of another content")
    assert labels_of(files, None)[3] == "d.json"
    found = compare(files[:2])
    assert (found.reference, found.reference_file) == ("sandwich (a.json)", "a.json")
    assert [(row["label"], row["file"]) for row in found.as_json()["rows"]] == [("sandwich (b.json)", "b.json")]


@pytest.mark.parametrize("labels", [["one"], ["same", "same"], ["a", " "], ["a", "the truth"]])
def test_labels_must_tell_the_files_apart(tmp_path: Path, labels: list[str]) -> None:
    files = [scores(tmp_path, f"{name}.json", CLOSE) for name in "ab"]
    assert compare(files, labels=["new", "old"]).rows[0].name == "old"
    with pytest.raises(UserError, match=r"^labels: give 2"):
        compare(files, labels=labels)


@pytest.mark.parametrize("damaged", [{"training": 3}, {"training": ["x", {"method": [1]}]}, {"prior": [1]}, {"weights": "w"}])
def test_a_strangers_record_names_nothing(tmp_path: Path, damaged: dict[str, object]) -> None:
    path = scores(tmp_path, "a.json", CLOSE)
    record(path, **damaged)
    assert labels_of([path], None) == ["a.json"]


def test_the_best_of_each_file_are_of_all_its_subnets(tmp_path: Path) -> None:
    """With their truth where there is one; what two files share is counted among the subnets that both name."""
    codes = [entry.arch.code for entry in sample_candidates(MINI, 40, 0)]
    rising, falling = [number / 40 for number in range(40)], [1 - number / 40 for number in range(40)]
    up, down = scores(tmp_path, "up.json", rising, codes), scores(tmp_path, "down.json", falling, codes)
    found = compare([up, down], scores(tmp_path, "truth.json", rising[:35], codes[:35]))
    best, worst, truths = found.best
    assert [entry.arch.code for entry in best.entries] == codes[:-11:-1]
    assert best.truths == [None] * 5 + rising[34:29:-1]
    assert [entry.arch.code for entry in worst.entries] == codes[:10]
    assert (truths.name, [entry.acc for entry in truths.entries]) == (found.reference, rising[34:24:-1])
    assert found.shared["up.json", "down.json"] == (0, 10)
    assert found.shared["up.json", found.reference] == (10, 10)
    assert [best.name for best in compare([up, down]).best] == ["up.json", "down.json"]


def test_subnets_as_good_as_the_last_of_the_best_are_counted(tmp_path: Path) -> None:
    codes = [entry.arch.code for entry in sample_candidates(MINI, 40, 0)]
    files = [scores(tmp_path, f"{name}.json", [0.9] * 5 + [0.5] * 20 + [0.1] * 15, codes) for name in "ab"]
    assert [(len(best.entries), best.tied) for best in compare(files).best] == [(10, 15)] * 2
