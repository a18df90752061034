"""What other teams of the challenge sampled, and sampling from bounds and from a candidate file."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from paddle_pgonas.config.loading import Config, Train, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.methods import METHODS
from paddle_pgonas.methods.base import Parts, Step
from paddle_pgonas.methods.sandwich import fair_subnets
from paddle_pgonas.methods.single_path import largest_subnets, once_for_all_phase, second_place_phase
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.space.arch import MINI, TRACK1, Arch
from paddle_pgonas.space.subspace import Subspace
from paddle_pgonas.training.schedules import learning_rate

CODES = (3, 3, 5, 7)
FLOPS = {space: make_prior("flops", space, space.image_size, classes) for space, classes in ((MINI, 10), (TRACK1, 1000))}
OFFICIAL = Subspace(TRACK1, CODES)


@pytest.mark.parametrize(
    ("epoch", "codes", "depths"),
    [
        (0, (1, 1, 1, 1), (4, 4, 6, 2)),
        (4, (1, 1, 1, 1), (4, 4, 6, 2)),
        (5, (1, 1, 1, 1), (3, 3, 4, 2)),
        (15, (1, 1, 1, 1), (2, 2, 2, 2)),
        (30, (3, 3, 3, 3), (2, 2, 2, 2)),
        (35, (3, 3, 5, 5), (2, 2, 2, 2)),
        (45, (3, 3, 5, 7), (2, 2, 2, 2)),
        (70, (3, 3, 5, 7), (2, 2, 2, 2)),
    ],
)
def test_phases_open_as_the_second_place_opened_them(epoch: int, codes: tuple[int, ...], depths: tuple[int, ...]) -> None:
    phase = second_place_phase(OFFICIAL, epoch / 70)
    assert phase.codes == codes
    assert tuple(least for least, _ in phase.depths) == depths


@given(st.floats(0, 1), st.floats(0, 1))
def test_what_is_open_stays_open(one: float, other: float) -> None:
    early, late = (second_place_phase(Subspace(MINI), at) for at in sorted((one, other)))
    assert all(a <= b for a, b in zip(early.codes, late.codes, strict=True))
    assert all(a >= b for (a, _), (b, _) in zip(early.depths, late.depths, strict=True))


def test_cosines_restart_at_the_published_epochs_with_the_published_rates() -> None:
    train, per_epoch = Train(schedule="restarts", lr_per_256=0.004, epochs=70), 100
    rates = [learning_rate(train, begin * per_epoch, per_epoch, 8 * 256) for begin in (0, 5, 15, 30, 35, 45)]
    assert rates == pytest.approx([0.008, 0.016, 0.032, 0.008, 0.016, 0.032])
    ends = [learning_rate(train, end * per_epoch - 1, per_epoch, 8 * 256) for end in (5, 15, 30, 35, 45, 70)]
    assert max(ends) < 1e-6


@given(st.integers(0, 2**32))
def test_the_largest_of_many_are_distinct_and_larger_than_the_others(seed: int) -> None:
    kept = largest_subnets(Subspace(MINI), random.Random(seed), 3, 20, FLOPS[MINI])
    rng = random.Random(seed)
    costs = sorted({FLOPS[MINI](MINI.sample(rng)) for _ in range(20)}, reverse=True)
    assert [FLOPS[MINI](arch) for arch in kept] == costs[:3]


def test_kept_subnets_cost_what_the_first_place_kept() -> None:
    rng = random.Random(0)
    kept = [arch for _ in range(20) for arch in largest_subnets(OFFICIAL, rng, 4, 400, FLOPS[TRACK1])]
    assert sum(map(FLOPS[TRACK1], kept)) / len(kept) == pytest.approx(4.28e9, rel=0.02)  # simulated from its published code
    assert sum(len(arch.blocks) for arch in kept) / len(kept) == pytest.approx(21.8, rel=0.02)


def test_the_largest_are_those_of_the_runs_images_and_classes() -> None:
    """With 1,000 classes and few channels the linear layer is a large part of the cost, so the order differs."""
    config = Config(space="mini", data={"image_size": MINI.image_size}, model={"num_classes": 10})
    kept = trained(Subspace(MINI), config, Step(random.Random(28), 1), {"name": "largest", "random_subnets": 3, "largest_of": 40})
    rng = random.Random(28)
    costs = sorted({FLOPS[MINI](MINI.sample(rng)) for _ in range(40)}, reverse=True)
    assert [FLOPS[MINI](arch) for arch in kept] == costs[:3]


def test_too_few_draws_are_one_line() -> None:
    with pytest.raises(UserError, match="random_subnets"):
        largest_subnets(Subspace(MINI), random.Random(0), 4, 2, FLOPS[MINI])


def inside(arch: Arch, region: Subspace) -> bool:
    codes = all(max((*mids, out)) <= code for mids, out, code in zip(arch.conv1, arch.conv2, region.codes, strict=True))
    return codes and region.within_depths(arch)


@given(st.integers(0, 2**32), st.floats(0, 1), st.data())
def test_every_way_of_drawing_keeps_to_the_bounds(seed: int, progress: float, data: st.DataObject) -> None:
    codes = tuple(data.draw(st.integers(1, 7)) for _ in MINI.bases)
    depths = tuple(tuple(sorted((data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))))) for _ in MINI.bases)
    region, rng = Subspace(MINI, codes, depths), random.Random(seed)  # type: ignore[arg-type]
    drawn = [region.sample(rng), once_for_all_phase(region, progress).sample(rng), *fair_subnets(region, rng, 3)]
    drawn += [second_place_phase(region, progress).sample(rng), region.smallest, region.largest]
    assert all(inside(arch, region) for arch in drawn)


def test_bounds_beyond_none_are_the_whole_space() -> None:
    assert (Subspace(MINI).largest, Subspace(MINI).smallest) == (MINI.largest, MINI.smallest)
    assert Subspace(MINI).sample(random.Random(3)) == MINI.sample(random.Random(3))


@pytest.mark.parametrize(
    "override",
    [
        "train.narrowest_codes=[3, 3]",
        "train.narrowest_codes=[3, 3, 8]",
        "train.narrowest_codes=[0, 1, 1]",
        "train.depth_ranges=[[1, 2]]",
        "train.depth_ranges=[[1, 5], [1, 4], [1, 4]]",
        "train.depth_ranges=[[3, 2], [1, 4], [1, 4]]",
    ],
)
def test_bounds_that_do_not_fit_the_space_are_refused_with_their_key(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"{key} must hold"):
        load_config(REPOSITORY / "configs" / "demo.yaml", [override])


def candidates_config(folder: Path, archs: list[Arch], *more: str) -> Config:
    path = folder / "candidates.json"
    path.write_text(json.dumps({f"arch{i}": {"arch": arch.code} for i, arch in enumerate(archs)}))
    overrides = ["method=uniform", "method.sampler=candidates", f"method.candidates={path}", *more]
    return load_config(REPOSITORY / "configs" / "demo.yaml", overrides)


def drawn(config: Config, steps: range) -> list[Arch]:
    strategy = config.method.start(Parts(config.subspace, config.seed, config.prior, None))  # type: ignore[union-attr, arg-type]
    return [arch for step in steps for arch in strategy.subnets(Step(random.Random(step), step, 10))]  # type: ignore[attr-defined]


def test_every_round_goes_through_all_candidates_once_and_resumes_anywhere(tmp_path: Path) -> None:
    archs = list(dict.fromkeys(MINI.sample(random.Random(number)) for number in range(10)))
    config = candidates_config(tmp_path, archs)
    first, second = drawn(config, range(5)), drawn(config, range(5, 10))
    assert {*first} == {*second} == {*archs}
    assert first != second
    assert drawn(config, range(3, 8)) == first[6:] + second[:6]
    assert drawn(config.changed(seed=5), range(5)) != first


def test_candidates_outside_the_depths_are_left_out_and_none_left_is_one_line(tmp_path: Path) -> None:
    archs = [MINI.smallest, MINI.middle, MINI.largest]
    config = candidates_config(tmp_path, archs, "train.depth_ranges=[[2, 4], [1, 4], [1, 4]]")
    assert {*drawn(config, range(4))} == {MINI.middle, MINI.largest}
    with pytest.raises(UserError, match="depth_ranges"):
        drawn(candidates_config(tmp_path, [MINI.smallest], "train.depth_ranges=[[2, 4], [1, 4], [1, 4]]"), range(1))
    narrow = candidates_config(tmp_path, [MINI.smallest, MINI.largest], "train.narrowest_codes=[3, 5, 6]")
    assert {*drawn(narrow, range(2))} == {MINI.largest}
    with pytest.raises(UserError, match=r"method\.candidates is missing"):
        load_config(REPOSITORY / "configs" / "demo.yaml", ["method.sampler=candidates"])


def trained(subspace: Subspace, config: Config, step: Step, method: dict[str, object]) -> list[Arch]:
    """The random subnets that a single-path method trains in a step."""
    options = METHODS[str(method["name"])](**method)
    return options.start(Parts(subspace, 0, config.prior, None)).subnets(step)  # type: ignore[arg-type, attr-defined]


def test_methods_of_the_podium_train_what_their_teams_drew() -> None:
    def drawn_at(name: str, index: int, progress: float) -> list[Arch]:
        step = Step(random.Random(index), round(progress * 1200) + index, 1, 1200)
        return trained(OFFICIAL, Config(), step, {"name": name, "random_subnets": 4})

    counts = [len(drawn_at("largest", index, 0)) for index in range(6)]
    assert counts == [5, 4, 4, 5, 4, 4]
    largest, plain = drawn_at("largest", 1, 0), drawn_at("uniform", 1, 0)
    assert min(map(FLOPS[TRACK1], largest)) > max(map(FLOPS[TRACK1], plain))
    assert {code for arch in drawn_at("phases", 1, 0.1) for codes in (*arch.conv1, arch.conv2) for code in codes} == {1}
    assert all(inside(arch, OFFICIAL) for progress in (0.0, 0.5, 0.99) for arch in drawn_at("phases", 1, progress))


def test_the_balanced_sandwich_trains_each_sampled_subnet_in_proportion_to_its_cost() -> None:
    """Two subnets of a space, one thrice as costly: chosen from pairs of the two it is trained thrice as often."""
    cheap, costly = MINI.smallest, MINI.largest
    options = METHODS["balanced_sandwich"](name="balanced_sandwich", random_subnets=1, choices=2)

    class Two(Subspace):
        def sample(self, rng: random.Random) -> Arch:
            return next(alternating)

    alternating = itertools.cycle([cheap, costly])
    strategy = options.start(Parts(Two(MINI), 0, lambda name: {cheap: 1.0, costly: 3.0}.__getitem__, None))  # type: ignore[arg-type]
    chosen = [strategy.subnets(Step(random.Random(index)))[0] for index in range(2000)]  # type: ignore[attr-defined]
    assert chosen.count(costly) / len(chosen) == pytest.approx(0.75, abs=0.03)
