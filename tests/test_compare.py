"""Comparison of score files and the HTML report."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from paddle_pgonas.arch import MINI, TRACK1, SearchSpace
from paddle_pgonas.correlation import correlate
from paddle_pgonas.errors import UserError
from paddle_pgonas.report.comparison import Comparison, compare, table
from paddle_pgonas.report.page import write_page

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
    files = [scores(folder, "close.json", CLOSE), scores(folder, "<b>&lacking.json", TRUTH[2:], [code[1:] for code in CODES[2:]])]
    return compare(files, scores(folder, "truth.json", TRUTH[:10]))


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, comparison)
    return path.read_text(encoding="utf-8")


def test_files_are_correlated_with_the_truth_on_what_it_names(comparison: Comparison) -> None:
    close, lacking = comparison.rows
    assert comparison.reference == "truth.json"
    assert comparison.space is MINI
    assert close.name == "close.json"
    assert [arch.code for arch in close.archs] == CODES[:10]
    assert list(close.reference) == TRUTH[:10]
    assert list(close.scores) == CLOSE[:10]
    assert set(close.correlations) == {"pearson", "kendall", "spearman"}
    assert close.correlations["pearson"] == correlate(close.reference, close.scores, ("pearson",))["pearson"]
    assert lacking.correlations["pearson"].value == pytest.approx(1)


def test_codes_match_with_and_without_digit_0(comparison: Comparison) -> None:
    assert [arch.code for arch in comparison.rows[1].archs] == CODES[2:10]
    assert list(comparison.rows[1].scores) == TRUTH[2:10]


def test_codes_that_a_file_lacks_are_noted_and_those_beyond_the_truth_are_not(comparison: Comparison) -> None:
    (note,) = comparison.notes
    assert re.fullmatch(r"<b>&lacking\.json lacks 2 of the 10 architectures of .*truth\.json", note)


def test_the_figures_for_programs_hold_every_row(comparison: Comparison) -> None:
    figures = json.loads(json.dumps(comparison.as_json()))
    assert figures["reference"] == "truth.json"
    assert [(row["file"], row["count"]) for row in figures["rows"]] == [("close.json", 10), ("<b>&lacking.json", 8)]
    for row, figure in zip(comparison.rows, figures["rows"], strict=True):
        for name, estimate in row.correlations.items():
            assert figure[name] == {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    assert figures["notes"] == comparison.notes


def test_the_table_shows_each_file_with_pearson_times_100(comparison: Comparison) -> None:
    lines = table(comparison).splitlines()
    assert "truth.json" in lines[0]
    close = next(line for line in lines if line.startswith("close.json"))
    estimates = comparison.rows[0].correlations
    assert f" {100 * estimates['pearson'].value:.2f} [" in close
    assert f" {estimates['kendall'].value:.3f} [" in close
    assert lines[-1] == comparison.notes[0]


def test_without_truth_the_first_file_is_the_reference_and_both_gaps_are_noted(tmp_path: Path) -> None:
    first, second = scores(tmp_path, "first.json", TRUTH[:8]), scores(tmp_path, "second.json", CLOSE[3:], CODES[3:])
    found = compare([first, second], None)
    assert found.reference == "first.json"
    assert [row.name for row in found.rows] == ["second.json"]
    assert [arch.code for arch in found.rows[0].archs] == CODES[3:8]
    lacks, has = found.notes
    assert re.fullmatch(r"second\.json lacks 3 of the 8 architectures of .*first\.json", lacks)
    assert re.fullmatch(r"second\.json has 4 architectures that .*first\.json lacks", has)


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


def test_constant_scores_have_no_correlation_and_still_make_valid_json(tmp_path: Path) -> None:
    found = compare([scores(tmp_path, "flat.json", [0.5] * 5)], scores(tmp_path, "truth.json", TRUTH[:5]))
    assert "nan" in table(found)
    json.dumps(found.as_json(), allow_nan=False)  # NaN is no JSON: strict readers stop there


class Elements(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_fetches_nothing(page: str) -> None:
    elements = Elements(page)
    links = ("src", "href", "xlink:href")
    targets = [attributes[name] for _, attributes in elements.tags for name in links if name in attributes]
    assert targets  # the pictures' points are images inside the page
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements.tags}
    assert "@import" not in page
    assert page.count("url(") == page.count("url(#")


def test_the_page_fits_small_screens_and_names_its_pictures(page: str, comparison: Comparison) -> None:
    tags = Elements(page).tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    pictures = [attributes for tag, attributes in tags if tag == "svg"]
    assert all(attributes["role"] == "img" for attributes in pictures)
    for name in (comparison.reference, *(row.name for row in comparison.rows)):
        assert any(name in attributes["aria-label"] for attributes in pictures)


def test_the_page_shows_figures_and_notes_and_escapes_names(page: str, comparison: Comparison) -> None:
    elements = Elements(page)
    assert "b" not in {tag for tag, _ in elements.tags}
    assert "<b>&lacking.json lacks 2 of the 10" in elements.words
    assert f"{100 * comparison.rows[0].correlations['pearson'].value:.2f}" in elements.words


def test_the_same_comparison_makes_the_same_page(page: str, comparison: Comparison, tmp_path: Path) -> None:
    write_page(tmp_path / "again.html", comparison)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_run_adds_its_curves_and_its_configuration(comparison: Comparison, page: str, tmp_path: Path) -> None:
    steps = [{"step": step, "loss/largest": 2 / step, "loss/smallest": 3 / step, "rank_lambda": 0.1 * step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("output_dir: <here> & there\n", encoding="utf-8")
    write_page(tmp_path / "report.html", comparison, tmp_path)
    longer = (tmp_path / "report.html").read_text(encoding="utf-8")
    elements = Elements(longer)
    assert longer.count("<svg") == page.count("<svg") + 1
    assert "output_dir: <here> & there" in elements.words
    assert {"largest", "smallest", "rank loss weight"} <= {word.strip() for word in elements.words.splitlines()}


def test_a_run_folder_without_log_makes_a_page_that_says_so(comparison: Comparison, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", comparison, tmp_path / "empty")
    words = Elements((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "No log." in words
    assert "no config.yaml" in words
