"""The search proposes legal subnets, respects limits, finds known optima, and resumes after a kill with the same result."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, flops, tiny_config, zen
from hypothesis import given
from hypothesis import strategies as st

from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.zen import zen_score
from paddle_pgonas.scores.files import read_candidates
from paddle_pgonas.scoring.session import Session, score
from paddle_pgonas.searching import latency
from paddle_pgonas.searching.evolution import ScoredSubnet, Task, cross, evolve, first_generation, front, mutate
from paddle_pgonas.searching.search import search
from paddle_pgonas.space.arch import MINI, TRACK1, Arch, SearchSpace

SMALL = replace(MINI, name="small", bases=(8, 16), max_depths=(2, 2), ratios=(1.0, 0.75, 0.5))
SPACES = st.sampled_from([MINI, TRACK1, SMALL])


def zen_task(space: SearchSpace, limit: float | None = None) -> Task:
    limits = {} if limit is None else {"macs": limit}
    return Task(space, lambda arch: {"macs": flops(arch)}, limits, "macs", lambda archs: list(map(zen, archs)))


@given(SPACES, st.integers(0, 2**32))
def test_children_and_mutants_are_legal_and_children_invent_nothing(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    parents = space.sample(rng), space.sample(rng)
    child = cross(rng, *parents)
    for stage in range(len(space.bases)):
        assert child.depths[stage] in {parent.depths[stage] for parent in parents}
        assert child.conv2[stage] in {parent.conv2[stage] for parent in parents}
        for block, code in enumerate(child.conv1[stage]):
            assert code in {parent.conv1[stage][block] for parent in parents if block < parent.depths[stage]}
    assert cross(rng, child, child) == child
    mutant = mutate(rng, child)
    assert space.parse(mutant.code) == mutant


def test_mutation_can_change_every_decision_and_about_one_at_a_time() -> None:
    rng, arch = random.Random(0), MINI.sample(random.Random(1))
    mutants = [mutate(rng, arch) for _ in range(2000)]
    assert {mutant.depths[2] for mutant in mutants} == {1, 2, 3, 4}
    assert {mutant.conv2[0] for mutant in mutants} == set(range(1, 8))
    assert {mutant.conv1[1][0] for mutant in mutants} == set(range(1, 8))
    assert 0.2 < np.mean([mutant == arch for mutant in mutants]) < 0.6  # e^-1, and redraws of the same value


def every_arch(space: SearchSpace) -> list[Arch]:
    codes = range(1, len(space.ratios) + 1)
    stages = [
        [(conv1, conv2) for depth in range(space.min_depth, deepest + 1)
         for conv1 in itertools.product(codes, repeat=depth) for conv2 in codes]
        for deepest in space.max_depths
    ]  # fmt: skip
    return [space.build(*map(tuple, zip(*choice, strict=True))) for choice in itertools.product(*stages)]


def test_a_space_small_enough_to_look_through_is_searched_to_its_best_two() -> None:
    archs = every_arch(SMALL)
    assert len(set(archs)) == SMALL.size
    limit = float(np.median([flops(arch) for arch in archs]))
    scores = [zen(arch) for arch in archs if flops(arch) <= limit]
    for seed in range(3):
        found = evolve(zen_task(SMALL, limit), 20, 20, seed)
        assert len(found) < 400
        best = front(found, "macs")[-1].score
        assert sum(score > best + 1e-9 for score in scores) <= 1


def test_no_subnet_is_scored_twice_or_beyond_the_limit() -> None:
    scored: list[Arch] = []

    def scores(archs: Sequence[Arch]) -> list[float]:
        scored.extend(archs)
        return list(map(zen, archs))

    task = replace(zen_task(MINI, 500_000.0), scores=scores)
    found = evolve(task, 16, 8, seed=3)
    assert [entry.arch for entry in found] == scored
    assert len(set(scored)) == len(scored)
    assert max(map(flops, scored)) <= 500_000


def test_a_search_ends_when_the_space_is_exhausted() -> None:
    small = replace(SMALL, max_depths=(1, 1), ratios=(1.0, 0.5))
    assert {entry.arch for entry in evolve(zen_task(small), 8, 50, seed=0)} <= set(every_arch(small))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    found = [ScoredSubnet(MINI.smallest, {"macs": macs}, score) for macs, score in points]
    beaten = {(c, s) for c, s in points for d, t in points if (d <= c and t >= s) and (d, t) != (c, s)}
    assert [(entry.costs["macs"], entry.score) for entry in front(found, "macs")] == sorted(set(points) - beaten)


def test_the_first_generation_holds_the_ends() -> None:
    archs = first_generation(MINI, 10, random.Random(0))
    assert archs[:2] == [MINI.smallest, MINI.largest]
    assert len(set(archs)) == 10


def test_scores_are_the_supernets(tmp_path: Path, tiny_weights: Path) -> None:
    config = tiny_config(tmp_path)
    result = search(config, weights=tiny_weights, limits={"macs": 150_000}, population=8, generations=3, metric="likelihood")
    archs = [entry.arch for entry in result.scored]
    wanted = score(config, tiny_weights, archs, "likelihood")
    np.testing.assert_allclose([entry.score for entry in result.scored], wanted, rtol=1e-5)
    assert all(entry.costs["macs"] == cost.macs(entry.arch, 8, 10) <= 150_000 for entry in result.scored)


def test_a_killed_search_goes_on_to_the_same_result(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"weights": tiny_weights, "limits": {"macs": 180_000}, "population": 8, "generations": 5, "metric": "probability"}
    whole = search(tiny_config(tmp_path / "whole"), **options)
    original, batches = Session.measure, 0

    def failing(self: Session, archs: Sequence[Arch]) -> np.ndarray:
        nonlocal batches
        batches += 1
        if batches == 4:
            raise KeyboardInterrupt
        return original(self, archs)

    monkeypatch.setattr(Session, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        search(tiny_config(tmp_path / "killed"), **options)
    assert search(tiny_config(tmp_path / "killed"), **options).scored == whole.scored
    assert batches == 6  # three, the killed one, and the two that were missing
    kept = sorted((tmp_path / "killed" / "search").rglob("*.safetensors"))
    kept[2].write_bytes(kept[2].read_bytes()[:-1])
    assert search(tiny_config(tmp_path / "killed"), **options).scored == whole.scored
    assert batches == 7  # the damaged one
    assert search(tiny_config(tmp_path / "killed"), **options).scored == whole.scored
    assert batches == 7


def test_other_weights_do_not_share_scores(tmp_path: Path, tiny_weights: Path) -> None:
    options = {"limits": {"macs": 180_000}, "population": 4, "generations": 1}
    first = search(tiny_config(tmp_path), weights=tiny_weights, metric="probability", **options)
    net = Supernet(TINY, 10, "prelu")
    save_weights(tmp_path / "other.safetensors", net, {})
    second = search(tiny_config(tmp_path), weights=tmp_path / "other.safetensors", metric="probability", **options)
    assert [entry.arch for entry in first.scored] == [entry.arch for entry in second.scored]
    assert [entry.score for entry in first.scored] != [entry.score for entry in second.scored]
    assert len(list((tmp_path / "search").iterdir())) == 2


def test_the_result_is_a_candidate_file_a_record_and_a_picture(tmp_path: Path) -> None:
    result = search(tiny_config(tmp_path), prior="zen", limits={"params": 5_000}, population=12, generations=4)
    result.write(tmp_path / "front.json")
    entries = read_candidates(tmp_path / "front.json", TINY)
    record = json.loads((tmp_path / "front.record.json").read_text())
    assert [entry.acc for entry in entries] == sorted(entry.acc for entry in entries if entry.acc is not None)
    assert [entry.acc for entry in entries] == [zen_score(entry.arch, 8) for entry in entries]
    assert record["best"]["arch"] == entries[-1].arch.code == result.best.arch.code
    assert record["best"]["params"] == cost.params(entries[-1].arch, 10) <= 5_000
    svg = (tmp_path / "front.svg").read_text()
    assert svg.startswith("<svg")
    assert "parameters" in svg
    assert result.best.arch.code in result.summary()


def test_latency_is_measured_once_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "REPEATS", 3)
    config = tiny_config(tmp_path)
    result = search(config, prior="zen", limits={"latency_ms": 1e6}, population=4, generations=1)
    assert [entry.arch for entry in result.scored][:2] == [TINY.smallest, TINY.largest]
    small, large = (entry.costs["latency_ms"] for entry in result.scored[:2])
    assert small > 0 and large > 0
    monkeypatch.setattr(latency.Latency, "_measure", lambda self, arch: pytest.fail("measured again"))
    again = search(config, prior="zen", limits={"latency_ms": 1e6}, population=4, generations=1)
    assert again.scored == result.scored
    with pytest.raises(UserError, match="the smallest has"):
        search(config, prior="zen", limits={"latency_ms": small / 2})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"prior": "zen", "limits": {"macs": 1000}}, "the smallest has"),
        ({"prior": "zen", "limits": {"macs": 0}}, "above 0"),
        ({"prior": "zen", "limits": {"memory": 1}}, "no cost 'memory'"),
        ({"prior": "luck"}, "not 'luck'"),
        ({}, "either weights"),
        ({"prior": "zen", "weights": "w"}, "either weights"),
        ({"prior": "zen", "population": 1}, "at least 4"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(tmp_path: Path, options: dict, names: str) -> None:
    with pytest.raises(UserError, match=names):
        search(tiny_config(tmp_path), **options)
