"""Candidate and submission files: round trips, and one line for everything that can be wrong with one."""

from __future__ import annotations

import json
import math
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tool

from paddle_pgonas.errors import UserError
from paddle_pgonas.scores.check import validate_submission
from paddle_pgonas.scores.files import (
    Candidate,
    check_submission,
    detect_space,
    read_candidates,
    read_scores,
    write_scores,
)
from paddle_pgonas.space.arch import MINI, TRACK1, SearchSpace

OFFICIAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "CVPR_2022_NAS_Track1_test.json"
A, B, C = (TRACK1.sample(random.Random(seed)).code for seed in range(3))


def written(folder: Path, value: Any, name: str = "file.json") -> Path:
    """The value as a JSON file, or a text as it is."""
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def candidates_file(tmp_path: Path) -> Path:
    """Names out of order, and one code as the organisers' text has it, without digit 0."""
    entries = {"arch10": {"acc": 0.0, "arch": A}, "arch2": {"acc": 0.0, "arch": B[1:]}, "é": {"arch": C}}
    return written(tmp_path, entries, "candidates.json")


@pytest.fixture
def candidates(candidates_file: Path) -> list[Candidate]:
    return read_candidates(candidates_file, TRACK1)


def test_reading_keeps_names_order_and_codes_as_written(candidates: list[Candidate]) -> None:
    assert [candidate.name for candidate in candidates] == ["arch10", "arch2", "é"]
    assert [candidate.written for candidate in candidates] == [A, B[1:], C]
    assert [candidate.arch.code for candidate in candidates] == [A, B, C]
    assert [candidate.acc for candidate in candidates] == [0.0, 0.0, None]


def test_a_submission_is_the_candidate_file_with_every_acc_filled_in(tmp_path: Path, candidates: list[Candidate]) -> None:
    path = tmp_path / "out" / "submission.json"
    write_scores(path, candidates, list(np.array([0.25, 1.0, 0.0], np.float32)))
    assert list(json.loads(path.read_text(encoding="utf-8")).items()) == [
        ("arch10", {"acc": 0.25, "arch": A}),
        ("arch2", {"acc": 1.0, "arch": B[1:]}),
        ("é", {"acc": 0.0, "arch": C}),
    ]
    check_submission(path, candidates, TRACK1)
    assert read_scores(path, TRACK1) == {A: 0.25, B: 1.0, C: 0.0}


def test_scores_lose_no_digits_on_the_way_through_a_file(tmp_path: Path, candidates: list[Candidate]) -> None:
    scores = [0.1 + 0.2, 1 / 3, 5e-324]
    write_scores(tmp_path / "scores.json", candidates, scores)
    assert list(read_scores(tmp_path / "scores.json", TRACK1).values()) == scores


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_and_nothing_is_written(
    tmp_path: Path, candidates: list[Candidate], score: float
) -> None:
    with pytest.raises(UserError, match=r"the score of arch2 is -?(nan|inf)"):
        write_scores(tmp_path / "submission.json", candidates, [0.5, score, 0.5])
    assert [path.name for path in tmp_path.iterdir()] == ["candidates.json"]


def test_a_failed_write_leaves_the_old_submission_and_no_other_file(tmp_path: Path, candidates: list[Candidate]) -> None:
    path = tmp_path / "submission.json"
    write_scores(path, candidates, [0.1, 0.2, 0.3])
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # writing fails behind the 20th byte, as on a full disk
    try:
        with pytest.raises(UserError, match=r"submission\.json: cannot be written"):
            write_scores(path, candidates, [0.4, 0.5, 0.6])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["candidates.json", "submission.json"]
    assert path.read_bytes() == old


def test_scores_of_another_number_than_the_candidates_are_refused(tmp_path: Path, candidates: list[Candidate]) -> None:
    with pytest.raises(ValueError):
        write_scores(tmp_path / "submission.json", candidates, [0.5, 0.5])
    assert not (tmp_path / "submission.json").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("acc: 1", "is not JSON"),
        ("", "is not JSON"),
        ({}, "is empty"),
        ([{"acc": 0.0, "arch": A}], "must hold a JSON object"),
        (f'{{"a": {{"arch": "{A}"}}, "a": {{"arch": "{B}"}}}}', "key 'a' twice"),
        ({"a": {"arch": A}, "b": {"arch": B}, "c": {"arch": A}}, "c: repeats the code of a"),
        ({"a": {"arch": A}, "b": {"arch": A[1:]}}, "b: repeats the code of a"),
        ({"a": {"arch": A}, "b": {"acc": 0.5}}, "b: lacks the key 'arch'"),
        ({"a": A}, "a: lacks the key 'arch'"),
        ({"a": {"arch": 12}}, "a: a code must be a string"),
        ({"a": {"arch": A[:-2]}}, "a: .*has 52 digits.*has 50"),
        ({"a": {"arch": A[:5] + "0" + A[6:]}}, "a: digit 5 .stem width"),
        ({"a": {"arch": A, "acc": "0.5"}}, "a: 'acc' must be a number, not '0.5'"),
        ({"a": {"arch": A, "acc": True}}, "a: 'acc' must be a number, not True"),
        ({"a": {"arch": A, "acc": [0.5]}}, "a: 'acc' must be a number"),
        ({"a\nb": {"acc": 0.5}}, "lacks the key 'arch'"),
    ],
    ids=[
        "no JSON",
        "no text",
        "empty object",
        "list",
        "repeated name",
        "repeated code",
        "repeated code without digit 0",
        "no arch",
        "bare code",
        "number as code",
        "short code",
        "untied stem",
        "acc as text",
        "acc as bool",
        "acc as list",
        "line break in a name",
    ],
)
def test_a_wrong_file_is_a_one_line_user_error(tmp_path: Path, content: Any, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=problem) as caught:
        read_candidates(path, TRACK1)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("acc", "accepted"),
    [
        ("0", True),
        ("1", True),
        ("0.7", True),
        ("-0.001", False),
        ("1.001", False),
        ("71.2", False),
        ("null", False),
        ("NaN", False),
        ("Infinity", False),
    ],
)
def test_a_submission_needs_every_acc_in_0_to_1(tmp_path: Path, acc: str, accepted: bool) -> None:
    candidates = [Candidate("a", TRACK1.parse(A), A, None)]
    path = written(tmp_path, f'{{"a": {{"acc": {acc}, "arch": "{A}"}}}}')
    if accepted:
        check_submission(path, candidates, TRACK1)
    else:
        with pytest.raises(UserError, match=r"a: 'acc' must be in \[0, 1\]"):
            check_submission(path, candidates, TRACK1)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"a": A}, "b: is in the candidate file, but not in this file"),
        ({"a": A, "b": B, "c": C}, "c: is not in the candidate file"),
        ({"a": A, "B": B}, "b: is in the candidate file, but not in this file; it has other faults"),
        ({"b": B, "a": A}, "b: is at the position of a in the candidate file"),
        ({"a": A, "b": C}, "b: holds another code"),
        ({"a": A, "b": B[1:]}, "b: writes digit 0 of the code differently"),
    ],
    ids=["one missing", "one more", "renamed", "reordered", "another code", "code written otherwise"],
)
def test_a_submission_for_other_candidates_is_refused(tmp_path: Path, entries: dict[str, str], problem: str) -> None:
    candidates = [Candidate("a", TRACK1.parse(A), A, None), Candidate("b", TRACK1.parse(B), B, None)]
    path = written(tmp_path, {name: {"acc": 0.5, "arch": code} for name, code in entries.items()})
    with pytest.raises(UserError, match=problem):
        check_submission(path, candidates, TRACK1)


@pytest.mark.parametrize("acc", ["null", "NaN", "-Infinity", "1" + "0" * 400], ids=["null", "NaN", "-Infinity", "10**400"])
def test_comparing_needs_a_finite_acc(tmp_path: Path, acc: str) -> None:
    path = written(tmp_path, f'{{"a": {{"acc": {acc}, "arch": "{A}"}}}}')
    with pytest.raises(UserError, match="a: has no finite 'acc'"):
        read_scores(path, TRACK1)


@pytest.mark.parametrize("acc", ["1e308", "-1e101"])
def test_comparing_needs_an_acc_whose_square_is_a_number(tmp_path: Path, acc: str) -> None:
    path = written(tmp_path, f'{{"a": {{"acc": {acc}, "arch": "{A}"}}}}')
    with pytest.raises(UserError, match=r"a: 'acc' .* is too large"):
        read_scores(path, TRACK1)


def test_priors_outside_0_to_1_are_scores_too(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": {"acc": 2971777832, "arch": A}, "b": {"acc": -3.5, "arch": B}})
    assert read_scores(path, TRACK1) == {A: 2971777832.0, B: -3.5}


@pytest.mark.parametrize(
    ("content", "space"),
    [
        ({"a": {"arch": A}}, TRACK1),
        ({"a": {"arch": A[1:]}}, TRACK1),
        ({"a": {"arch": MINI.largest.code}}, MINI),
        ({"a": {"arch": MINI.largest.code[1:]}}, MINI),
        ({"a": {"arch": "123"}}, TRACK1),
        ({"a": {}}, TRACK1),
        ([], TRACK1),
        ({}, TRACK1),
    ],
)
def test_the_length_of_the_codes_tells_the_space(tmp_path: Path, content: Any, space: SearchSpace) -> None:
    assert detect_space(written(tmp_path, content)) is space


def test_the_official_file_is_as_described_and_becomes_a_valid_submission(tmp_path: Path) -> None:
    if not OFFICIAL.exists():
        pytest.skip("the official candidate file is not at ../shared")
    candidates = read_candidates(OFFICIAL, TRACK1)  # refuses illegal and repeated codes
    assert len(candidates) == 45_000
    for stage, widest_code in enumerate((3, 3, 5, 7)):
        codes = {code for candidate in candidates for code in (*candidate.arch.conv1[stage], candidate.arch.conv2[stage])}
        assert codes == set(range(1, widest_code + 1))
    write_scores(tmp_path / "submission.json", candidates, [0.0] * len(candidates))
    assert (tmp_path / "submission.json").read_text() == OFFICIAL.read_text().rstrip("\n")
    check_submission(tmp_path / "submission.json", candidates, TRACK1)


def rules(path: Path, candidates: Path | None = None) -> dict[str, int]:
    """How often each rule is broken."""
    return {fault.rule: fault.count for fault in validate_submission(path, candidates).faults.values()}


def test_a_scored_candidate_file_is_accepted(tmp_path: Path, candidates: list[Candidate], candidates_file: Path) -> None:
    write_scores(tmp_path / "submission.json", candidates, [0.25, 1.0, 0.0])
    verdict = validate_submission(tmp_path / "submission.json", candidates_file)
    assert verdict.accepted
    assert verdict.notes == ["3 entries of space track1, 'acc' 0 to 1, 3 different values"]
    assert str(verdict).startswith(f"{tmp_path}/submission.json: accepted as a submission\n")


def test_everything_that_is_wrong_is_listed_at_once(tmp_path: Path, candidates_file: Path) -> None:
    twice_broken = A[:3] + "1" + A[4:5] + str(int(A[5]) % 7 + 1) + A[6:]  # stage 3 too shallow, stem tied to nothing
    text = json.dumps({
        "stranger": {"acc": 0.1, "arch": C},
        "arch2": {"acc": 1.5, "arch": A},
        "arch10": {"acc": "high", "arch": twice_broken},
        "none": {"arch": C},
        "text": 7,
    })  # fmt: skip
    path = written(tmp_path, text[:-1] + ', "text": {"acc": NaN, "arch": "12"}}')
    assert rules(path, candidates_file) == {
        "repeated name": 1,
        "acc is not a number": 1,
        "illegal code (depth)": 1,
        "illegal code (stem width)": 1,
        "repeated code": 1,
        "illegal code (length)": 1,
        "acc is outside [0, 1]": 2,
        "acc is missing": 1,
        "missing entry": 1,
        "unknown entry": 3,
        "other code": 2,
        "order": 1,
    }


def test_equal_faults_are_counted_and_three_of_them_named(tmp_path: Path) -> None:
    archs = [TRACK1.sample(random.Random(seed)).code for seed in range(3000)]
    path = written(tmp_path, {f"arch{index}": {"acc": 71.2, "arch": code + "1"} for index, code in enumerate(archs)})
    verdict = validate_submission(path)
    assert rules(path) == {"illegal code (length)": 3000, "acc is outside [0, 1]": 3000, "constant acc": 1}
    assert len(str(verdict).splitlines()) < 20
    assert "and 2,997 more" in str(verdict)
    plain = json.loads(json.dumps(verdict.as_json()))
    assert (plain["file"], plain["accepted"]) == (str(path), False)
    assert plain["faults"][0]["count"] == 3000
    assert [example["name"] for example in plain["faults"][0]["examples"]] == ["arch0", "arch1", "arch2"]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "JSON"),
        ("", "JSON"),
        ([], "format"),
        ({}, "format"),
        ({"a": {"acc": 0.5}}, "entry"),
        ({"a": {"acc": 0.0, "arch": A}, "b": {"acc": 0.0, "arch": B}}, "constant acc"),
        ({"a": {"acc": 0.7, "arch": A}, "b": {"acc": 0.7, "arch": B}}, "constant acc"),
        ({"a": {"acc": None, "arch": A}}, "acc is missing"),
        ({"a": {"acc": True, "arch": A}}, "acc is not a number"),
        ({"a": {"acc": 0.5, "arch": "1" + A[1:5] + "8" + A[6:]}}, "illegal code (stem width)"),
        ({"a": {"acc": 0.5, "arch": "2" + A[1:]}}, "illegal code (image size)"),
        ({"a": {"acc": 0.5, "arch": A[:-1] + "x"}}, "illegal code (digits)"),
        ({"a": {"acc": 0.5, "arch": 5}}, "illegal code (type)"),
    ],
)
def test_each_rule_alone_is_named(tmp_path: Path, content: Any, rule: str) -> None:
    assert list(rules(written(tmp_path, content))) == [rule]


def test_without_a_candidate_file_another_number_than_the_challenges_is_a_note(tmp_path: Path) -> None:
    verdict = validate_submission(written(tmp_path, {"a": {"acc": 0.5, "arch": A}}))
    assert verdict.accepted
    assert verdict.notes[0] == "1 entries, the challenge's candidate file has 45,000"


def test_a_submission_that_is_not_there_and_a_wrong_candidate_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file"):
        validate_submission(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"wrong\.json: the candidate file is not JSON"):
        validate_submission(written(tmp_path, {"a": {"acc": 0.5, "arch": A}}), written(tmp_path, "{", "wrong.json"))


def test_the_first_fault_counts_those_like_it_and_points_to_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": {"arch": A}, "b": {"arch": A}, "c": {"arch": A}, "d": {"arch": "1"}})
    with pytest.raises(UserError) as caught:
        read_candidates(path, TRACK1)
    assert "b: repeats the code of a" in str(caught.value)
    assert "(and 1 more like it: c); it has other faults too: tools/compare.py --validate lists them all" in str(caught.value)


SCORED = {"arch10": 0.1, "arch2": 0.2, "é": 0.3}


@pytest.mark.parametrize(
    ("accs", "record", "what"),
    [
        (dict.fromkeys(SCORED, 0.0), None, "candidates without scores"),
        (SCORED, None, "scores or a truth"),
        ({name: 1e9 * acc for name, acc in SCORED.items()}, None, "values of a prior, perhaps"),
        (SCORED, {"prior": "zen", "classes": 10}, "values of the prior zen, no scores"),
        (SCORED, {"prior": "zen", "file": "another's"}, "scores or a truth"),
        (SCORED, {"score": "top1", "front": {}}, "the front of a search by top1"),
        (SCORED, {"weights": ["w"], "acc": "top5", "images": 9, "prior": None}, "scores (top5) on 9 images by w"),
        (
            SCORED,
            {"weights": ["w"], "acc": "top1", "images": 9, "prior": "zen, weight 1"},
            "by w with the prior zen, weight 1 added",
        ),
        (SCORED, {"weights": [], "acc": "top1", "images": 9}, "by an untrained network"),
        (SCORED, {"weights": {"a": 1}, "acc": [1], "images": "\x1b\n"}, "by an untrained network"),  # a stranger's
        ({"arch10": 0.1, "arch2": 0.2}, None, "scores or a truth, of the first 2 of the 3 candidates"),
        ({"arch2": 0.2}, None, "scores or a truth, of a part, 1 of the 3 candidates"),
    ],
)
def test_a_check_says_what_the_file_is(
    tool: Tool, tmp_path: Path, candidates_file: Path, accs: dict[str, float], record: object, what: str
) -> None:
    listed = json.loads(candidates_file.read_text(encoding="utf-8"))
    path = written(tmp_path, {name: listed[name] | {"acc": acc} for name, acc in accs.items()})
    if record is not None:
        written(tmp_path, record, "file.record.json")
    _, out, _ = tool("compare", "--validate", path, "--candidates", candidates_file, "--json", tmp_path / "v.json")
    assert what in json.loads((tmp_path / "v.json").read_text())["what"]
    assert what in out.splitlines()[1] and "\x1b" not in out
