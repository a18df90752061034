"""Write docs/api.md, the reference of the library's public names, from their docstrings (`make docs`).

griffe reads the source without running it, so the page depends on the source alone, not on what is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
RETURNED = (
    "searching.search.Result",
    "searching.evolution.ScoredSubnet",
    "report.comparison.Comparison",
    "report.comparison.Row",
)

KEYS = """The keys of a configuration file as `name: type = default`. In `key(default, ...)`

* `at_least`, `at_most` and `below` bound the value;
* `free=True` means that a resumed run may change it;
* `only` names the settings that use the key; with others it must keep its default. `TAUGHT`, `SANDWICHES` and `PGONAS` are the
  strategies with a teacher, those with the sandwich, and `pgonas`; `WATCHED` is `train.watch_images` above 0."""


def reference() -> str:
    """The whole page as Markdown."""
    package = griffe.load("paddle_pgonas", search_paths=[str(ROOT)])
    homes = [member.target_path for member in package.members.values() if member.is_alias]  # as __init__.pyi names them
    parts = [
        "# Library reference",
        "Made by `make docs` from the docstrings; do not edit. `import paddle_pgonas as pg`, then `pg.train` and so on; "
        "[example.py](example.py) shows them at work.",
    ]
    parts += [_describe(package[home.removeprefix("paddle_pgonas.")]) for home in homes if home.startswith("paddle_pgonas.")]
    parts += ["# What they return", *(_describe(package[path]) for path in RETURNED)]
    parts += ["# Configuration", KEYS]
    parts.append(_describe(package["config.loading.Config"], name=""))
    parts += [
        _describe(package[f"config.sections.{section}"], name=section.lower()) for section in ("Data", "Model", "Train", "Score")
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _describe(item: griffe.Object, name: str | None = None) -> str:
    """One name: its signature or value, its docstring, and the public members of a class."""
    parts = [f"## {item.name}" if name is None else f"## {name or 'top level'}"]
    if item.is_function:
        parts.append(_code(_signature(item)))
    elif item.is_class and "__init__" in item.members:
        parts.append(_code(item.name + _signature(item["__init__"]).removeprefix("__init__").removesuffix(" -> None")))
    elif item.is_attribute:
        parts.append(_code(f"{item.name}: {item.annotation}" if item.annotation else item.name))
    if item.docstring:
        parts.append(_text(item.docstring.value))
    if item.is_class and (name is not None or item.name != "Config"):
        parts.append("\n".join(_member(member) for member in item.members.values() if _shown(member)))
    return "\n\n".join(part for part in parts if part)


def _shown(member: griffe.Object) -> bool:
    return not member.name.startswith("_") and not member.is_alias and (member.is_function or member.is_attribute)


def _member(member: griffe.Object) -> str:
    if member.is_function:
        head = _signature(member)
    else:
        value = f" = {member.value}" if member.value is not None and "property" not in member.labels else ""
        head = f"{member.name}: {member.annotation}{value}"
    text = f": {_text(member.docstring.value)}" if member.docstring else ""
    return re.sub(r"\n(?=.)", "\n  ", f"- `{head}`{text}")


def _signature(function: griffe.Function) -> str:
    parts, star = [], False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            parts.append("*")
            star = True
        annotation = f": {parameter.annotation}" if parameter.annotation else ""
        default = f" = {parameter.default}" if parameter.default is not None else ""
        parts.append(f"{parameter.name}{annotation}{default}")
    return f"{function.name}({', '.join(parts)})" + (f" -> {function.returns}" if function.returns else "")


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _text(docstring: str) -> str:
    """A docstring in Markdown: roles and double backquotes as code, the sections' heads in bold, their entries as lists."""
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", docstring).replace("``", "`")
    lines = []
    for line in text.splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            lines.append(f"**{line}**\n")
        elif re.match(r" {4}\w+: ", line):
            entry, _, rest = line.strip().partition(": ")
            lines.append(f"- `{entry}`: {rest}")
        elif line.startswith(" " * 8):  # an entry's next line
            lines.append("  " + line.strip())
        else:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    target = ROOT / "docs" / "api.md"
    target.write_text(reference(), encoding="utf-8")
    print(f"reference: {target.relative_to(ROOT)}", file=sys.stderr)
