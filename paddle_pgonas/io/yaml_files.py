"""Reading untrusted YAML: plain values only, bounded time and memory, every error in one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import expanded, read_text

MOST_ALIASES = 20  # in a file; nested lists of aliases would grow without bound
MOST_BRACKETS = 100  # largest depth of nested brackets


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses duplicate keys in a section (PyYAML drops the first) and many aliases."""

    aliases = 0

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level > MOST_BRACKETS:  # PyYAML would read ahead over nested brackets in quadratic time
            raise yaml.YAMLError("nested too deeply")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > MOST_ALIASES:
            raise yaml.YAMLError(f"more than {MOST_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"the key {cut(twice)} occurs twice in line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str, what: str, remedy: str = "") -> Any:
    """The value of a YAML text. Raises UserError for any other, with ``source``, ``what`` it was to be, and ``remedy``."""
    try:
        value = yaml.load(text, _Loader)
        json.dumps(value, default=str)  # raises for an alias of a part inside that part
        return value
    except Exception as error:  # on texts such as 0b_ or 2026-13-45 PyYAML raises whatever its conversions do
        reason = "nested too deeply" if isinstance(error, RecursionError) else cut(" ".join(str(error).split()), 300)
        raise UserError(f"{source}: {what} is not valid YAML ({reason or type(error).__name__}){remedy}") from None


def read_section(path: Path, what: str) -> dict[str, Any]:
    """The keys of a YAML file, none of an empty one. Raises UserError if it cannot be read, is not YAML, or holds no keys."""
    values = parse_yaml(read_text(path, what, regular=True), str(path), f"the {what}")
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path}: the {what} is a set of 'key: value' lines")
    return values or {}


def read_with_bases(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The values of a configuration's bases and then its own, each with the name to use in errors."""
    layers: dict[str, tuple[str, dict[str, Any]]] = {}
    while True:
        values = read_section(path, "configuration")
        real = os.path.realpath(path)
        if real in layers:
            raise UserError(f"{path}: the 'base:' entries form a circle")
        base = values.pop("base", None)
        layers[real] = str(path), values
        if base is None:
            return list(layers.values())[::-1]
        if not isinstance(base, str):
            raise UserError(f"{path}: base must be the name of a file, not {cut(repr(base))}; quote it")
        path = path.parent / expanded(base)


def read_override(override: str, texts: Collection[str] = ()) -> tuple[str, dict[str, Any]]:
    """The value that ``section.key=value`` sets, with the name to use in errors.

    It is YAML, but for the keys in ``texts``: text as it stands, where a ``#`` begins no comment. YAML too are null, nothing, a
    value in quotes and one in braces.
    """
    source = f"-o {cut(override, 100)}"
    dotted, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{source}: an override looks like key=value, for example train.batch_size=64")
    key = dotted.strip()
    value: Any = text
    if key not in texts or text in ("", "null") or re.fullmatch(r"""".*"|'.*'|\{.*\}""", text, re.DOTALL):
        value = parse_yaml(text, source, "the value", "; quote it")
    return source, nested(key, value)


def nested(key: str, value: Any) -> dict[str, Any]:
    """The sections that hold the value of a key such as ``train.epochs``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def cut(text: str, length: int = 60) -> str:
    """The text, truncated to a length that fits into a message."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
