"""Architecture codes: channel tables, the round trip of legal codes, and the rule that each illegal one breaks."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paddle_pgonas.errors import UserError
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.priors.cost import macs
from paddle_pgonas.space.arch import MINI, SPACES, TRACK1, TRACK1_THIN, Arch, ArchError, SearchSpace, make_divisible

REPOSITORY = Path(__file__).resolve().parent.parent
RANDOM = st.randoms(use_true_random=False)

# The widest stage 3, the other stages with padding: room to break every rule.
CODE = "1" + "3284" + "2" + "1222320000" + "3141000000" + "1535251545352515" + "7161514100"


@st.composite
def written_codes(draw: st.DrawFn, space: SearchSpace) -> tuple[str, list[list[int]], list[int]]:
    """A legal code put together digit by digit, with its conv1 codes per stage and its conv2 codes."""
    width = st.integers(1, len(space.ratios))
    conv1 = [draw(st.lists(width, min_size=space.min_depth, max_size=deepest)) for deepest in space.max_depths]
    conv2 = [draw(width) for _ in space.max_depths]
    code = "1" + "".join(str(len(codes)) for codes in conv1) + str(conv2[0])
    for codes, out, deepest in zip(conv1, conv2, space.max_depths, strict=True):
        code += "".join(f"{mid}{out}" for mid in codes) + "00" * (deepest - len(codes))
    return code, conv1, conv2


def with_digit(code: str, position: int, digit: int | str) -> str:
    return f"{code[:position]}{digit}{code[position + 1 :]}"


@pytest.mark.parametrize(
    ("stage", "channels"),
    [
        (0, (64, 64, 56, 56, 48, 48, 48)),
        (1, (128, 120, 112, 112, 104, 96, 88)),
        (2, (256, 240, 232, 216, 208, 192, 176)),
        (3, (512, 488, 464, 432, 408, 384, 360)),
    ],
)
def test_track1_width_codes_stand_for_the_challenges_channel_counts(stage: int, channels: tuple[int, ...]) -> None:
    assert TRACK1.widths[stage][1:] == channels


def test_mini_width_codes_all_differ() -> None:
    assert all(len(set(widths)) == 1 + len(MINI.ratios) for widths in MINI.widths)


@given(value=st.integers(1, 5000), divisor=st.sampled_from([2, 4, 8, 16]))
def test_make_divisible_gives_the_nearest_multiple_that_keeps_nine_tenths(value: int, divisor: int) -> None:
    result = make_divisible(value, divisor)
    assert result % divisor == 0
    assert result >= 0.9 * value
    nearest = min(range(divisor, value + 2 * divisor, divisor), key=lambda multiple: (abs(multiple - value), -multiple))
    assert result == (nearest if nearest >= 0.9 * value else nearest + divisor)


def test_track1_has_the_published_layout_and_size() -> None:
    assert TRACK1.code_length == 52
    assert TRACK1.offsets[:-1] == (6, 16, 26, 42)
    assert TRACK1.size == pytest.approx(1.2e23, rel=0.05)


def test_size_counts_every_code_that_parses() -> None:
    tiny = replace(MINI, name="tiny", bases=(16, 32), max_depths=(2, 1), ratios=(1.0, 0.5))
    legal = 0
    for digits in itertools.product("012", repeat=tiny.code_length - 1):
        try:
            tiny.parse("1" + "".join(digits))
        except ArchError:
            continue
        legal += 1
    assert tiny.size == legal


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(data=st.data())
def test_every_legal_code_parses_to_its_digits_and_prints_back(space: SearchSpace, data: st.DataObject) -> None:
    code, conv1, conv2 = data.draw(written_codes(space))
    arch = space.parse(code)
    assert str(arch) == arch.code == code
    assert arch.depths == tuple(map(len, conv1))
    assert [list(codes) for codes in arch.conv1] == conv1
    assert list(arch.conv2) == conv2
    assert space.build(arch.conv1, arch.conv2) == arch


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM)
def test_sampled_architectures_parse_back_to_themselves(space: SearchSpace, rng: random.Random) -> None:
    arch = space.sample(rng)
    assert space.parse(str(arch)) == arch
    assert space.parse(str(arch)).blocks == arch.blocks


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM)
def test_block_widths_are_tied_along_the_residual_sums(space: SearchSpace, rng: random.Random) -> None:
    arch = space.sample(rng)
    c_in, found = arch.stem_width, iter(arch.blocks)
    for stage, depth in enumerate(arch.depths):
        for position in range(depth):
            block = next(found)
            assert block.index == 1 + sum(space.max_depths[:stage]) + position
            assert block.stride == (2 if stage and not position else 1)
            assert block.c_in == c_in
            assert block.c_mid == space.widths[stage][arch.conv1[stage][position]]
            assert block.c_out == space.widths[stage][arch.conv2[stage]]
            c_in = block.c_out
    assert next(found, None) is None
    assert arch.out_width == c_in
    assert arch.stem_width == arch.blocks[0].c_out  # stage 1 adds the stem's output without a convolution


def test_sampling_repeats_with_the_seed_and_reaches_every_depth_and_width() -> None:
    def archs(seed: int) -> list[Arch]:
        rng = random.Random(seed)
        return [TRACK1.sample(rng) for _ in range(300)]

    drawn = archs(3)
    assert drawn == archs(3)
    assert drawn != archs(4)
    for stage, deepest in enumerate(TRACK1.max_depths):
        assert {arch.depths[stage] for arch in drawn} == set(range(2, deepest + 1))
        assert {arch.conv2[stage] for arch in drawn} == set(range(1, 8))
        assert {code for arch in drawn for code in arch.conv1[stage]} == set(range(1, 8))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM)
def test_no_sampled_network_exceeds_the_largest_or_undercuts_the_smallest(space: SearchSpace, rng: random.Random) -> None:
    arch = space.sample(rng)
    for stage in range(len(space.bases)):
        assert len(space.smallest.conv1[stage]) <= arch.depths[stage] <= len(space.largest.conv1[stage])
        assert space.smallest.conv2[stage] >= arch.conv2[stage] >= space.largest.conv2[stage]
        assert set(space.smallest.conv1[stage]) == {7} and set(space.largest.conv1[stage]) == {1}


@given(rng=RANDOM)
def test_distance_is_a_metric(rng: random.Random) -> None:
    a, b, c = (TRACK1.sample(rng) for _ in range(3))
    assert a.distance(a) == 0
    assert (a.distance(b) == 0) == (a == b)
    assert a.distance(b) == b.distance(a) <= 47
    assert a.distance(c) <= a.distance(b) + b.distance(c)


def test_distance_counts_differing_digits_from_the_stem_on() -> None:
    deeper = TRACK1.parse("1" + "4284" + "2" + "1222321200" + CODE[16:])
    stem_and_stage1 = TRACK1.parse("1" + "3284" + "3" + "1323330000" + CODE[16:])
    assert TRACK1.parse(CODE).distance(deeper) == 2  # the depth digit does not count
    assert TRACK1.parse(CODE).distance(stem_and_stage1) == 4


@given(rng=RANDOM)
def test_a_code_without_digit_0_is_the_same_architecture(rng: random.Random) -> None:
    arch = TRACK1.sample(rng)
    assert len(arch.code[1:]) == 51
    assert TRACK1.parse(arch.code[1:]) == arch
    assert TRACK1.parse(arch.code[1:]).code == arch.code


def test_equal_codes_make_equal_and_interchangeable_keys() -> None:
    assert len({TRACK1.parse(CODE), TRACK1.parse(CODE[1:]), TRACK1.largest}) == 2


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        (CODE + "0", "has 52 digits.*this one has 53"),
        (CODE[:50], "has 52 digits.*this one has 50"),
        ("", "digits only, this one is empty"),
        (with_digit(CODE, 7, "x"), "digits only.*'x' at digit 7"),
        (with_digit(CODE, 7, "²"), "digits only.*'²' at digit 7"),
        (with_digit(CODE, 51, "\n"), r"digits only.*'\\n' at digit 51"),
        (with_digit(CODE, 0, 2), "digit 0 .*must be 1, not 2"),
        (with_digit(CODE, 0, 0), "digit 0 .*must be 1, not 0"),
        (with_digit(CODE, 1, 1), "depth of stage 1.*2 to 5, not 1"),
        (with_digit(CODE, 2, 6), "depth of stage 2.*2 to 5, not 6"),
        (with_digit(CODE, 3, 9), "depth of stage 3.*2 to 8, not 9"),
        (with_digit(CODE, 4, 0), "depth of stage 4.*2 to 5, not 0"),
        (with_digit(CODE, 8, 0), "conv1 of block 2 in stage 1.*width code 1 to 7, not 0"),
        (with_digit(CODE, 8, 8), "conv1 of block 2 in stage 1.*width code 1 to 7, not 8"),
        (with_digit(CODE, 45, 9), "conv2 of block 2 in stage 4.*width code 1 to 7, not 9"),
        (with_digit(CODE, 29, 4), "conv2 of stage 3 must share one width code.*5, 4, 5"),
        (with_digit(CODE, 5, 3), "stem width.*must equal stage 1's conv2 code 2.*not 3"),
        (with_digit(CODE, 15, 1), "stage 1 has 3 blocks, so digits 12 to 15 must be 0"),
        (with_digit(CODE, 50, 7), "stage 4 has 4 blocks, so digits 50 to 51 must be 0"),
    ],
)
def test_a_broken_rule_is_named_in_one_line(code: str, rule: str) -> None:
    assert TRACK1.parse(CODE).code == CODE
    with pytest.raises(ArchError, match=rule) as caught:
        TRACK1.parse(code)
    assert "\n" not in str(caught.value)


def test_all_broken_rules_of_a_code_are_found_and_a_legal_one_breaks_none() -> None:
    assert list(TRACK1.faults(CODE)) == []
    broken = with_digit(with_digit(with_digit(CODE, 0, 2), 5, 3), 50, 7)
    assert [fault.rule for fault in TRACK1.faults(broken)] == ["image size", "padding", "stem width"]


@pytest.mark.parametrize("value", [None, 52, [CODE]])
def test_a_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ArchError, match="must be a string of digits"):
        TRACK1.parse(value)  # type: ignore[arg-type]


def _depth(arch: Arch, stage: int, rng: random.Random) -> str:
    wrong = [digit for digit in range(10) if not arch.space.min_depth <= digit <= arch.space.max_depths[stage]]
    return with_digit(arch.code, 1 + stage, rng.choice(wrong))


def _conv1(arch: Arch, stage: int, rng: random.Random) -> str:
    position = arch.space.offsets[stage] + 2 * rng.randrange(arch.depths[stage])
    return with_digit(arch.code, position, rng.choice([0, 8, 9]))


def _conv2(arch: Arch, stage: int, rng: random.Random) -> str:
    assume(arch.depths[stage] > 1)
    position = arch.space.offsets[stage] + 2 * rng.randrange(arch.depths[stage]) + 1
    return with_digit(arch.code, position, arch.conv2[stage] % 7 + 1)


def _stem(arch: Arch, stage: int, rng: random.Random) -> str:
    return with_digit(arch.code, 1 + len(arch.depths), (arch.conv2[0] + rng.randrange(6)) % 7 + 1)


def _padding(arch: Arch, stage: int, rng: random.Random) -> str:
    assume(arch.depths[stage] < arch.space.max_depths[stage])
    first = arch.space.offsets[stage] + 2 * arch.depths[stage]
    return with_digit(arch.code, rng.randrange(first, arch.space.offsets[stage + 1]), rng.randint(1, 9))


@pytest.mark.parametrize(
    ("breaking", "rule"),
    [
        (_depth, "depth of stage {stage}"),
        (_conv1, "conv1 of block . in stage {stage}.*width code"),
        (_conv2, "conv2 of stage {stage} must share one width code"),
        (_stem, "stem width"),
        (_padding, "stage {stage} has . blocks, so digits .* must be 0"),
    ],
    ids=["depth", "conv1", "conv2", "stem", "padding"],
)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, data=st.data())
def test_breaking_one_rule_of_any_code_is_blamed_on_that_rule(
    space: SearchSpace, breaking: Callable[[Arch, int, random.Random], str], rule: str, rng: random.Random, data: st.DataObject
) -> None:
    stage = data.draw(st.integers(0, len(space.bases) - 1))
    code = breaking(space.sample(rng), stage, rng)
    with pytest.raises(ArchError, match=rule.format(stage=stage + 1)):
        space.parse(code)


@given(code=st.one_of(st.text(max_size=60), st.text("0123456789", min_size=51, max_size=52)))
def test_any_text_parses_to_itself_or_is_refused_as_a_code(code: str) -> None:
    try:
        arch = TRACK1.parse(code)
    except ArchError:
        return
    assert arch.code.endswith(code)


def test_what_is_known_without_a_network_needs_no_paddle() -> None:
    modules = ["space.named", "config.loading", "scores.check", "scores.correlation", "priors.by_name", "methods"]
    imports = "; ".join(f"import paddle_pgonas.{name}" for name in modules)
    program = f"import sys; {imports}; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False"


def test_equal_codes_of_two_spaces_are_two_architectures() -> None:
    """Else a cache of one space's costs would answer for the other's."""
    assert TRACK1.largest.code == TRACK1_THIN.largest.code
    assert TRACK1.largest != TRACK1_THIN.largest
    assert macs(TRACK1.largest, 32, 10) > macs(TRACK1_THIN.largest, 32, 10)
    with pytest.raises(UserError, match=r"is of space track1, but .* is of space track1_thin"):
        make_prior("flops", TRACK1, 32, 10)(TRACK1_THIN.largest)
    assert TRACK1.parse(TRACK1.largest.code) == TRACK1.largest
    assert len({TRACK1.largest, TRACK1_THIN.largest, TRACK1.parse(TRACK1.largest.code)}) == 2
