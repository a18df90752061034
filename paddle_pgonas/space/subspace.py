"""The part of a search space from which a training run samples subnets: bounds on width codes and depths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from paddle_pgonas.errors import UserError
from paddle_pgonas.space.arch import Arch, SearchSpace


@dataclass(frozen=True)
class Subspace:
    """All architectures of a space, or those within bounds per stage. Raises UserError for bounds that do not fit the space."""

    space: SearchSpace
    narrowest_codes: tuple[int, ...] | None = None
    """Narrowest (highest) width code per stage, the space's by default. Track 1's candidates have 3, 3, 5, 7."""
    depth_ranges: tuple[tuple[int, int], ...] | None = None
    """Least and greatest depth per stage; the space's by default."""

    def __post_init__(self) -> None:
        stages, codes = len(self.space.bases), len(self.space.ratios)
        if len(self.codes) != stages or not all(1 <= code <= codes for code in self.codes):
            rule = f"{stages} width codes from 1 to {codes}, one per stage of space {self.space.name}"
            raise UserError(f"train.narrowest_codes must hold {rule}, not {list(self.codes)}")
        least, deepest = self.space.min_depth, self.space.max_depths
        within = all(least <= low <= high <= most for (low, high), most in zip(self.depths, deepest, strict=False))
        if len(self.depths) != stages or not within:
            rule = f"the least and greatest depth of each stage of space {self.space.name}, from {least} to {list(deepest)}"
            raise UserError(f"train.depth_ranges must hold {rule}, not {[list(pair) for pair in self.depths]}")

    @property
    def codes(self) -> tuple[int, ...]:
        """Narrowest width code per stage."""
        return (len(self.space.ratios),) * len(self.space.bases) if self.narrowest_codes is None else self.narrowest_codes

    @property
    def depths(self) -> tuple[tuple[int, int], ...]:
        """Least and greatest depth per stage."""
        default = tuple((self.space.min_depth, deepest) for deepest in self.space.max_depths)
        return default if self.depth_ranges is None else self.depth_ranges

    @property
    def largest(self) -> Arch:
        """Every stage at its deepest and widest."""
        return self.space.build(tuple((1,) * deepest for _, deepest in self.depths), (1,) * len(self.codes))

    @property
    def smallest(self) -> Arch:
        """Every stage at its shallowest and narrowest."""
        stages = zip(self.depths, self.codes, strict=True)
        return self.space.build(tuple((code,) * least for (least, _), code in stages), self.codes)

    def sample(self, rng: random.Random) -> Arch:
        """Draw an architecture: every depth and every free width code uniformly, tied codes drawn once."""
        return self.space.sample(rng, self.codes, self.depths)

    def contains(self, arch: Arch) -> bool:
        """Whether the architecture's depths and width codes lie within the bounds."""
        stages = zip(arch.conv1, arch.conv2, self.codes, strict=True)
        return self.within_depths(arch) and all(max(*conv1, conv2) <= narrowest for conv1, conv2, narrowest in stages)

    def within_depths(self, arch: Arch) -> bool:
        """Whether the architecture's depths lie within the bounds."""
        return all(least <= depth <= most for depth, (least, most) in zip(arch.depths, self.depths, strict=True))

    def narrowed(self, codes: Sequence[int], shallowest: Sequence[int]) -> Subspace:
        """The part of the subspace with at most these width codes and at least these depths."""
        codes = tuple(min(pair) for pair in zip(self.codes, codes, strict=True))
        depths = tuple((min(max(low, least), high), high) for least, (low, high) in zip(shallowest, self.depths, strict=True))
        return Subspace(self.space, codes, depths)
