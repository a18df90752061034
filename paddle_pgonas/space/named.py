"""Search spaces by name or from a YAML file with the fields of :class:`~paddle_pgonas.space.arch.SearchSpace`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import expanded
from paddle_pgonas.io.yaml_files import read_section
from paddle_pgonas.schema import Integer, ListAsTuple, Number, Section, Text, key, shown, validate
from paddle_pgonas.space.arch import SPACES, SearchSpace

Widths = Annotated[tuple[Annotated[Integer, Field(ge=1, le=8192)], ...], ListAsTuple]
Depths = Annotated[tuple[Annotated[Integer, Field(ge=1, le=9)], ...], ListAsTuple]
Ratios = Annotated[tuple[Annotated[Number, Field(gt=0, le=1)], ...], ListAsTuple]


class Space(Section):
    """A search space as a file states it; every field must be given."""

    name: Text
    """Must differ from the names of the built-in spaces."""
    bases: Widths
    """Channels of each stage at ratio 1."""
    max_depths: Depths
    """Most blocks of each stage (a code has one digit for them)."""
    min_depth: Integer = key(..., at_least=1, at_most=9)
    """Fewest blocks of any stage."""
    ratios: Ratios
    """Width codes 1, 2, ... (at most 9) as shares of the base, from the widest to the narrowest."""
    divisor: Integer = key(..., at_least=1)
    """Channel counts are rounded to multiples of it."""
    image_size: Integer = key(..., at_least=8, at_most=4096)
    stem_kernel: Integer = key(..., at_least=1, at_most=31)
    stem_stride: Integer = key(..., at_least=1, at_most=4)
    stem_pool: bool

    def _problems(self) -> Iterator[tuple[str, str]]:
        if not self.name or self.name in SPACES:
            yield "name", f"must not be empty or that of a built-in space ({', '.join(SPACES)})"
        if not 1 <= len(self.bases) == len(self.max_depths):
            yield "", f"bases and max_depths must name the same stages, not {len(self.bases)} and {len(self.max_depths)}"
        if min(self.max_depths) < self.min_depth:
            yield "min_depth", f"({self.min_depth}) must not be above any of max_depths"
        if not 1 <= len(self.ratios) <= 9 or list(self.ratios) != sorted(set(self.ratios), reverse=True):
            yield "ratios", f"must be 1 to 9 falling shares, the widest first, not {shown(self.ratios)}"
        if self.stem_kernel % 2 == 0:
            yield "stem_kernel", f"must be odd, not {self.stem_kernel}"


def is_space_file(value: object) -> bool:
    """Whether a value of ``space`` names a YAML file."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def resolve_space(value: Any) -> str | dict[str, Any]:
    """The name of a built-in space or all fields of another, from a name, a YAML file's path or fields (else UserError)."""
    if isinstance(value, dict):
        return validate(Space, value, "(a search space)").model_dump()
    if is_space_file(value):
        return validate(Space, read_section(Path(expanded(value)), "search space"), value).model_dump()
    if not isinstance(value, str) or value not in SPACES:
        raise UserError(f"must be one of {', '.join(SPACES)}, or a YAML file such as my_space.yaml, not {shown(value)}")
    return value


def _resolved(value: Any) -> str | dict[str, Any]:
    try:
        return resolve_space(value)
    except UserError as error:
        raise ValueError(str(error)) from None  # pydantic's error, which names the key


SpaceKey = Annotated[str | dict[str, Any], PlainValidator(_resolved)]
"""A configuration key that names a space; holds the result of :func:`resolve_space`."""


def load_space(name: str | Path) -> SearchSpace:
    """The search space of this name (``track1``, ``mini``, ``track1_thin``) or of a YAML file. Raises UserError for another."""
    try:
        return find_space(str(name))
    except UserError as error:
        raise UserError(f"space: {error}") from None


def find_space(value: Any) -> SearchSpace:
    """The search space that a name, a YAML file or fields (as in a record) stand for. Raises as :func:`resolve_space`."""
    resolved = resolve_space(value)
    return SPACES[resolved] if isinstance(resolved, str) else SearchSpace(**resolved)
