"""The site's page on the library: public names in the order of paddle_pgonas/__init__.pyi, and the keys of a configuration."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

import paddle_pgonas
from paddle_pgonas.config.loading import Config
from paddle_pgonas.methods import METHODS
from paddle_pgonas.schema import Section, is_free

RETURNED = (
    "searching.search.Result",
    "searching.evolution.ScoredSubnet",
    "report.comparison.Comparison",
    "report.comparison.Row",
)
WORDS = {
    "Integer": "integer",
    "Number": "number",
    "Deviation": "number above 0",
    "Share": "number from 0 to 1",
    "Range": "least and greatest integer",
    "Colour": "three numbers",
    "Folder": "folder",
    "File": "file",
    "bool": "true or false",
    "TrainingPrior": "name, sum of names or import path",
    "SpaceKey": "name or file",
    "Method": "name, import path or section",
}
"""How a key's type is called; those that are not here stand as they are in the source."""


def page() -> str:
    """The whole page as reStructuredText, which the docstrings are written in."""
    return "\n".join([*names(), *keys(), ""])


def names() -> Iterator[str]:
    """The public names, and the classes of what they return."""
    yield heading("Library reference", "=")
    yield "``import paddle_pgonas as pg``, then ``pg.train`` and so on.\n\n.. module:: paddle_pgonas"
    stub = ast.parse(Path(paddle_pgonas.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    for line in stub.body:
        for alias in line.names if isinstance(line, ast.ImportFrom) else []:
            value = getattr(paddle_pgonas, alias.name)
            if inspect.isroutine(value):
                yield f"\n.. autofunction:: paddle_pgonas.{alias.name}"
            elif inspect.isclass(value):
                signature = "()" if issubclass(value, Section) else ""
                yield f"\n.. autoclass:: paddle_pgonas.{alias.name}{signature}\n   :members:"
            else:
                yield f"\n.. data:: {alias.name}\n\n{described(f'paddle_pgonas.{line.module}', '', alias.name)}"
    yield heading("What they return", "-")
    for name in RETURNED:
        yield f"\n.. autoclass:: paddle_pgonas.{name}()\n   :members:"


def keys() -> Iterator[str]:
    """The keys of a configuration, section by section; those of the methods once, with the methods that have them."""
    yield heading("Configuration keys", "=")
    yield "A *free* key may change when a run is resumed."
    sections = {name: field.default for name, field in Config.model_fields.items() if isinstance(field.default, Section)}
    for prefix, section in {"": Config, **{f"{name}.": type(value) for name, value in sections.items()}}.items():
        yield heading(prefix.rstrip(".") or "Top level", "-")
        yield from (described_key(prefix, section, name) for name in section.model_fields if prefix or name not in sections)
    yield heading("method", "-")
    users: dict[tuple[type, str], list[str]] = {}
    for method, options in METHODS.items():
        for name in list(options.model_fields)[1:]:  # the first is the method's name
            users.setdefault((home_of(options, name), name), []).append(method)
    seen: set[str] = set()
    for (_, name), methods in users.items():
        note = f"Of {', '.join(f'``{method}``' for method in methods)}."
        yield described_key("method.", METHODS[methods[0]], name, note, again=name in seen)
        seen.add(name)


def described_key(prefix: str, section: type[Section], name: str, note: str = "", again: bool = False) -> str:
    """One key: type, range and default, meaning. Of keys of the same name only the first can be linked to."""
    field, home = section.model_fields[name], home_of(section, name)
    analyzer = ModuleAnalyzer.for_module(home.__module__)
    analyzer.analyze()
    kind = type_of(ast.parse(analyzer.annotations[home.__qualname__, name], mode="eval").body)
    for part in field.metadata:
        for bound, text in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            if (value := getattr(part, bound, None)) is not None and value != 2**63:
                kind += f", {text} {value}"
    default = json.dumps(field.default).strip('"') + (" (free)" if is_free(field) else "")
    text = f"{described(home.__module__, home.__qualname__, name)}\n\n   {note}".rstrip()
    options = f"   :type: {kind}\n   :default: {default}" + ("\n   :no-index:" if again else "")
    return f"\n.. confval:: {prefix}{name}\n{options}\n\n{text}"


def home_of(section: type[Section], name: str) -> type:
    """The class that declares a key."""
    return next(base for base in section.__mro__ if name in vars(base).get("__annotations__", {}))


def type_of(annotation: ast.expr) -> str:
    """A type in words: ``folder or digits`` for a Literal, without what only validates."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *_])):
            return type_of(kind)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            choices = ast.literal_eval(values)
            return " or ".join(json.dumps(value).strip('"') for value in (choices if isinstance(choices, tuple) else [choices]))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[kind, *_])):
            return f"list of {type_of(kind)}"
        case ast.Subscript(value=ast.Name(id="SerializeAsAny"), slice=kind):
            return type_of(kind)
        case ast.BinOp(left=left, right=right):
            return f"{type_of(left)} or {type_of(right)}"
        case ast.Constant(value=None):
            return "null"
    text = ast.unparse(annotation)
    return WORDS.get(text, text)


def described(module: str, qualified: str, name: str) -> str:
    """The docstring behind an attribute, indented."""
    found = ModuleAnalyzer.for_module(module).find_attr_docs().get((qualified, name), [])
    return textwrap.indent("\n".join(found).strip(), "   ")


def heading(text: str, underline: str) -> str:
    """A section's title."""
    return f"\n{text}\n{underline * len(text)}\n"
