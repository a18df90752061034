"""Architecture codes: what a subnet of the ResNet48 space is, and which codes are legal.

A code is a string of digits::

    digit 0          image size (always 1)
    next S digits    blocks per stage (the depths)
    next digit       width code of the stem
    then 2 per block width codes of conv1 and conv2, every stage zero-padded to its deepest

Track 1 has S = 4 stages of at most 5, 5, 8, 5 blocks, hence 1 + 4 + 1 + 2 * 23 = 52 digits. A width code c (1..7) stands for
the channel count ``make_divisible(int(ratios[c - 1] * base))`` of the stage.

The residual sums tie widths together: all conv2 of a stage share one code, and the stem shares the code of stage 1's conv2.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from paddle_pgonas.errors import UserError


class ArchError(UserError):
    """An illegal code: ``rule`` names the rule that it breaks, the message says where."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Block(NamedTuple):
    """One active residual block: its index in the supernet's ``blocks`` list, its channel counts and its stride."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not needed here
    c_in: int
    c_mid: int
    c_out: int
    stride: int


def make_divisible(value: int, divisor: int) -> int:
    """Round half up to a multiple of ``divisor``; one step more if that fell below 0.9 of the value."""
    rounded = max(divisor, (value + divisor // 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class SearchSpace:
    """The set of legal architectures: an immutable description from which everything else is derived.

    ``stem_stride`` and ``stem_pool`` distinguish the ImageNet stem (7x7 convolution of stride 2, max-pool) from the stem for
    small images (3x3, stride 1, no pool). Stage 1 keeps the resolution, every later stage halves it in its first block.
    """

    name: str
    bases: tuple[int, ...]
    max_depths: tuple[int, ...]
    min_depth: int
    ratios: tuple[float, ...]
    divisor: int
    image_size: int
    stem_kernel: int
    stem_stride: int
    stem_pool: bool

    def __hash__(self) -> int:
        return hash(self.name)  # architectures are keys of large caches, and each one's hash includes that of its space

    @cached_property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """Channel counts: ``widths[stage][code]``; index 0 is no code and holds 0."""
        return tuple((0, *(make_divisible(int(ratio * base), self.divisor) for ratio in self.ratios)) for base in self.bases)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each stage's block digits begin, and the length of the code as the last entry."""
        return tuple(accumulate((2 * depth for depth in self.max_depths), initial=2 + len(self.bases)))

    @cached_property
    def first_blocks(self) -> tuple[int, ...]:
        """Index in the ``blocks`` list of each stage's first block (the stem is 0), and the head's index as the last entry."""
        return tuple(accumulate(self.max_depths, initial=1))

    @cached_property
    def code_length(self) -> int:
        """Digits of a code."""
        return self.offsets[-1]

    @cached_property
    def size(self) -> int:
        """How many architectures the space holds."""
        codes = len(self.ratios)
        return math.prod(codes * sum(codes**d for d in range(self.min_depth, depth + 1)) for depth in self.max_depths)

    def parse(self, code: str) -> Arch:
        """Read a code, which may lack digit 0 (51 digits in Track 1). Raises ArchError for one that breaks a rule."""
        for fault in self.faults(code):
            raise fault
        return Arch(self, code.rjust(self.code_length, "1"))

    def faults(self, code: object) -> Iterator[ArchError]:
        """Every rule that a code breaks, none if it is legal. Without readable digits only that is reported."""
        if not isinstance(code, str):
            yield ArchError("type", f"a code must be a string of digits, not {type(code).__name__}")
        elif not (code.isascii() and code.isdigit()):
            bad = next((i for i, char in enumerate(code) if char not in "0123456789"), None)
            where = "is empty" if bad is None else f"has {code[bad]!r} at digit {bad}"
            yield ArchError("digits", f"a code holds digits only, this one {where}")
        elif len(code) not in (self.code_length, self.code_length - 1):
            rule = f"a code of space {self.name} has {self.code_length} digits (or {self.code_length - 1} without digit 0)"
            yield ArchError("length", f"{rule}, this one has {len(code)}")
        else:
            yield from self._broken(code.rjust(self.code_length, "1"))

    def _broken(self, code: str) -> Iterator[ArchError]:
        if code[0] != "1":
            yield ArchError("image size", f"digit 0 (image size) must be 1, not {code[0]}")
        stages, legal = len(self.bases), frozenset("123456789"[: len(self.ratios)])
        for stage, deepest in enumerate(self.max_depths):
            depth, start, end = int(code[1 + stage]), self.offsets[stage], self.offsets[stage + 1]
            if not self.min_depth <= depth <= deepest:
                rule = f"digit {1 + stage} (depth of stage {stage + 1}) must be {self.min_depth} to {deepest}"
                yield ArchError("depth", f"{rule}, not {depth}")
                continue  # it is not known which digits of the stage are in use
            active, padding = code[start : start + 2 * depth], code[start + 2 * depth : end]
            if padding.strip("0"):
                rule = f"stage {stage + 1} has {depth} blocks, so digits {start + 2 * depth} to {end - 1} must be 0"
                yield ArchError("padding", rule)
            if not legal.issuperset(active):
                bad = next(i for i, digit in enumerate(active) if digit not in legal)
                place = f"digit {start + bad} (conv{bad % 2 + 1} of block {bad // 2 + 1} in stage {stage + 1})"
                yield ArchError("width code", f"{place} must be a width code 1 to {len(self.ratios)}, not {active[bad]}")
            if active[1::2] != active[1] * depth:
                rule = f"all conv2 of stage {stage + 1} must share one width code (the residual sum ties them)"
                yield ArchError("shared conv2", f"{rule}, these have {', '.join(active[1::2])}")
        stem, first = code[1 + stages], code[self.offsets[0] + 1]
        if stem != first:
            rule = f"digit {1 + stages} (stem width) must equal stage 1's conv2 code {first} (they are added)"
            yield ArchError("stem width", f"{rule}, not {stem}")

    def build(self, conv1: tuple[tuple[int, ...], ...], conv2: tuple[int, ...]) -> Arch:
        """Make an architecture from width codes: conv1 per block and stage (their number is the depth), conv2 per stage."""
        parts = ["1", *(str(len(codes)) for codes in conv1), str(conv2[0])]
        for codes, out, deepest in zip(conv1, conv2, self.max_depths, strict=True):
            parts.append("".join(f"{mid}{out}" for mid in codes).ljust(2 * deepest, "0"))
        return self.parse("".join(parts))

    def sample(
        self, rng: random.Random, narrowest: Sequence[int] | None = None, depths: Sequence[tuple[int, int]] | None = None
    ) -> Arch:
        """Draw every depth and every free width code uniformly, tied codes once.

        ``narrowest`` holds the highest width code and ``depths`` the least and greatest depth per stage; the space's by default.
        """
        narrowest = narrowest or (len(self.ratios),) * len(self.bases)
        drawn = [rng.randint(*bounds) for bounds in depths or [(self.min_depth, deepest) for deepest in self.max_depths]]
        conv2 = tuple(rng.randint(1, code) for code in narrowest)
        stages = zip(drawn, narrowest, strict=True)
        return self.build(tuple(tuple(rng.randint(1, code) for _ in range(depth)) for depth, code in stages), conv2)

    @cached_property
    def largest(self) -> Arch:
        """Every stage at its deepest and widest."""
        return self.build(tuple((1,) * depth for depth in self.max_depths), (1,) * len(self.bases))

    @cached_property
    def middle(self) -> Arch:
        """Every stage at its middle depth (rounded up) and middle width code."""
        code = (len(self.ratios) + 1) // 2
        depths = [(self.min_depth + deepest + 1) // 2 for deepest in self.max_depths]
        return self.build(tuple((code,) * depth for depth in depths), (code,) * len(self.bases))

    @cached_property
    def smallest(self) -> Arch:
        """Every stage at its shallowest and narrowest."""
        code = len(self.ratios)
        return self.build(tuple((code,) * self.min_depth for _ in self.bases), (code,) * len(self.bases))


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture: an immutable, hashable value. Make it with :meth:`SearchSpace.parse`, ``build`` or ``sample``.

    It stores only its checked code, because 45,000 of them are in memory at once; everything else is derived from the code.
    """

    space: SearchSpace = field(repr=False)
    code: str

    def __str__(self) -> str:
        return self.code

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return tuple(ord(char) - 48 for char in self.code[1 : 1 + len(self.space.bases)])

    @property
    def conv1(self) -> tuple[tuple[int, ...], ...]:
        """Width codes of conv1: ``conv1[stage][block]``."""
        stages = zip(self.space.offsets, self.depths, strict=False)
        return tuple(tuple(ord(char) - 48 for char in self.code[start : start + 2 * depth : 2]) for start, depth in stages)

    @property
    def conv2(self) -> tuple[int, ...]:
        """Width code of all conv2 of a stage: ``conv2[stage]``."""
        return tuple(ord(self.code[start + 1]) - 48 for start in self.space.offsets[:-1])

    @property
    def stem_width(self) -> int:
        """Channels of the stem, tied to stage 1's conv2."""
        return self.space.widths[0][int(self.code[self.space.offsets[0] + 1])]

    @property
    def out_width(self) -> int:
        """Channels that the head's linear layer reads."""
        return self.space.widths[-1][int(self.code[self.space.offsets[-2] + 1])]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The active residual blocks in the order of computation (without stem and head)."""
        space, code, blocks, c_in = self.space, self.code, [], self.stem_width
        for stage, widths in enumerate(space.widths):
            start, index, stride = space.offsets[stage], space.first_blocks[stage], 2 if stage else 1
            c_out = widths[int(code[start + 1])]
            for digit in range(start, start + 2 * int(code[1 + stage]), 2):
                blocks.append(Block(index, c_in, widths[int(code[digit])], c_out, stride))
                index, c_in, stride = index + 1, c_out, 1
        return tuple(blocks)

    def distance(self, other: Arch) -> int:
        """Hamming distance of the two codes from the stem's digit on: the published distance of a pair."""
        start = 1 + len(self.space.bases)
        return sum(a != b for a, b in zip(self.code[start:], other.code[start:], strict=True))


TRACK1 = SearchSpace(
    name="track1",
    bases=(64, 128, 256, 512),
    max_depths=(5, 5, 8, 5),
    min_depth=2,
    ratios=(1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7),
    divisor=8,
    image_size=224,
    stem_kernel=7,
    stem_stride=2,
    stem_pool=True,
)
"""The challenge's ResNet48 space at 224 pixels."""

MINI = SearchSpace(
    name="mini",
    bases=(12, 24, 48),
    max_depths=(4, 4, 4),
    min_depth=1,
    ratios=(1.0, 0.92, 0.84, 0.75, 0.67, 0.59, 0.5),
    divisor=1,
    image_size=16,
    stem_kernel=3,
    stem_stride=1,
    stem_pool=False,
)
"""A small space with the same rules: three stages for images of 8 to 32 pixels; all seven ratios give different widths."""

TRACK1_THIN = replace(
    TRACK1, name="track1_thin", bases=(8, 16, 32, 64), divisor=1, image_size=32, stem_kernel=3, stem_stride=1, stem_pool=False
)
"""Track 1's codes at an eighth of the width for small images, for the official candidate file on a laptop."""

SPACES = {space.name: space for space in (TRACK1, MINI, TRACK1_THIN)}
