"""Sections of a configuration: type and range beside each key, rules in ``_problems``, and every error is one line.

A section is a strict pydantic model: 3 is a float where one is wanted, 3.0 is no integer.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import expanded
from paddle_pgonas.io.yaml_files import cut

PARTIAL = "partial"
"""Validation context for incomplete values: rules about several keys are not checked yet."""


class Section(BaseModel):
    """Immutable keys; no others are allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    """Where keys went that older versions had here."""

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Broken rules beyond type and range of single keys: the key at fault, and what is wrong with it."""
        yield from ()

    def no_use(self, name: str, used: bool, by: str) -> Iterator[tuple[str, str]]:
        """The problem that a key is set although nothing uses it, as ``by`` would; none if it is used or has its default."""
        value, default = getattr(self, name), type(self).model_fields[name].default
        if not used and value != default:
            yield name, f"is {plain(value)}, but only {by} makes use of it; set it to {plain(default)}"

    @model_validator(mode="after")
    def _keeps_rules(self, info: ValidationInfo) -> Self:
        if info.context != PARTIAL:
            for name, problem in self._problems():
                raise broken_rule(name, problem)
        return self


def broken_rule(name: str, problem: str) -> ValidationError:
    """The error that a validator raises about a key: ``<section>.<name> <problem>`` in the message."""
    fault = PydanticCustomError("rule", "{problem}", {"problem": problem})
    return ValidationError.from_exception_data("", [InitErrorDetails(type=fault, loc=(name,) if name else (), input=None)])


def key(
    default: Any, *, at_least: float | None = None, at_most: float | None = None, below: float | None = None, free: bool = False
) -> Any:
    """A key of a section: default and range. A resumed run may have another value of a ``free`` one, which changes no weight."""
    return Field(default, ge=at_least, le=at_most, lt=below, json_schema_extra={"free": free})


def _number(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"holds characters that no file can hold: {shown(value)}") from None
    if "\0" in value:
        raise ValueError(f"must not hold a NUL character: {shown(value)}")
    return value


def _expanded(value: str) -> str:
    try:
        return expanded(value)
    except UserError as error:
        raise ValueError(str(error)) from None  # pydantic's error, which names the key


Integer = Annotated[int, Field(lt=2**63)]
"""A whole number of 64 bits."""
Number = Annotated[float, BeforeValidator(_number)]
"""A finite number; text too, because YAML 1.1 reads 1e-3, which lacks the dot, as text."""
Text = Annotated[str, AfterValidator(_text)]
"""Text that is valid in a file name."""
Folder = Annotated[Text, AfterValidator(_expanded)]
"""The path of a folder; a leading ``~`` is the home folder."""
READ = "read"
"""Marks the type of a key whose file a job reads."""
File = Annotated[Text, AfterValidator(_expanded), READ]
"""The path of a file that a job reads; a leading ``~`` is the home folder."""
ListAsTuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Converts YAML's lists to tuples."""


def holds(annotation: Any, part: object) -> bool:
    """Whether a type is, or names within ``Annotated`` and unions, this part."""
    return annotation == part or any(holds(inner, part) for inner in get_args(annotation))


def is_free(field: Any) -> bool:
    """Whether a field was made by ``key(free=True)``."""
    return bool((field.json_schema_extra or {}).get("free"))


Model = TypeVar("Model", bound=Section)


def validate(model: type[Model], values: Mapping[str, Any], source: str, context: str | None = None) -> Model:
    """The section with these values; the first error in one line as a UserError, prefixed with the values' ``source``."""
    try:
        return model.model_validate(values, context=context)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(model, error.errors(include_url=False)[0])}") from None


TYPES = {"int_type": "int", "float_type": "float", "bool_type": "bool", "string_type": "str"}
LIMITS = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "above {gt}",
    "less_than": "below {lt}",
}


def _sentence(model: type[Section], fault: Any) -> str:
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    path = [str(part) for part in fault["loc"] if not isinstance(part, int)]
    name = cut(".".join(path))
    if kind == "extra_forbidden":
        return _unknown_key(model, path)
    if kind == "model_type":
        return f"{name} is a section of keys, not the value {shown(value)}"
    if kind in ("value_error", "rule"):  # a rule of this package
        return f"{name} {context.get('error') or context['problem']}".strip()
    if kind == "literal_error":
        return f"{name} must be one of {context['expected'].replace(chr(39), '')}, not {shown(value)}"
    if kind in LIMITS:
        return f"{name} must be {LIMITS[kind].format(**context)}, not {shown(value)}"
    if kind in TYPES:
        remedy = "; quote it" if kind == "string_type" and not isinstance(value, list | dict | None) else ""
        return f"{name} must be of type {TYPES[kind]}, not {shown(value)}{remedy}"
    if kind == "finite_number":
        return f"{name} must be a finite number, not {shown(value)}"
    if kind == "tuple_type":
        return f"{name} must be a list of numbers, not {shown(value)}"
    if kind in ("missing", "too_long", "too_short"):
        return f"{name} holds too few or too many values" if isinstance(value, list | tuple) else f"{name} is missing"
    return f"{name}: {fault['msg']}, not {shown(value)}"


def _unknown_key(model: type[Section], path: list[str]) -> str:
    *sections, unknown = path
    inside: Any = model
    for part in sections:  # each a section, or a dictionary of sections
        inside = get_args(inside)[1] if get_origin(inside) is dict else inside.model_fields[part].annotation
    if unknown in inside.renamed:
        return f"{cut('.'.join(path))} is now {inside.renamed[unknown]}"
    return f"unknown key {cut('.'.join(path))}; {closest(unknown, inside, '.'.join([*sections, '']))}"


def closest(unknown: str, section: type[Section], prefix: str) -> str:
    """A hint at the known key that resembles an unknown one, or all known keys."""
    known = section.model_fields
    close = difflib.get_close_matches(unknown[:100], known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(known)}"


_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxdict, _repr.maxtuple, _repr.maxset, _repr.maxstring = 2, 4, 4, 4, 4, 60


def shown(value: Any) -> str:
    """A value for a message, truncated to at most 60 characters."""
    try:
        return cut(_repr.repr(value))
    except ValueError:  # Python refuses to write out numbers of more than 4,300 digits
        return "a number with thousands of digits"


def plain(value: Any) -> str:
    """A value as YAML writes it."""
    return cut(yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip())


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with keys such as ``train.epochs``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found
