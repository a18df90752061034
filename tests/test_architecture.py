"""The package's structure: imports point to lower layers only, without cycles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "paddle_pgonas"
# Modules and subpackages from the bottom to the top; each imports only what stands before it (docs/architecture.md).
LAYERS = (
    ("errors", "interrupts", "gpu_libraries", "peers", "processes", "progress", "io", "runtime", "import_paths", "schema"),
    ("space", "priors", "scores", "nn", "methods"),
    ("config", "report", "data", "inputs", "scoring", "training", "searching", "exporting"),
    ("published", "gpu_check", "cli"),
)
ORDER = [name for layer in LAYERS for name in layer]


def modules() -> dict[str, Path]:
    """Files by module name, without the package's own ``__init__``, which loads its names when they are asked for."""
    names = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))}
    found = {name.removesuffix(".__init__"): path for path, name in names.items()}
    del found["paddle_pgonas"]
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The package's modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            source = node.module or ""
            names = [f"{source}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else source for name in names if name in MODULES or source in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


IMPORTS = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    """The module or subpackage directly in the package: ``nn`` of ``paddle_pgonas.nn.weights``."""
    return module.split(".")[1]


def test_every_module_has_its_place_in_the_order() -> None:
    assert sorted(ORDER) == sorted({room(module) for module in MODULES})


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_downward(name: str) -> None:
    below = set(ORDER[: ORDER.index(name) + 1])
    upward = {(module, used) for module in MODULES if room(module) == name for used in IMPORTS[module] if room(used) not in below}
    assert not upward


def test_the_package_needs_nothing_of_the_studies() -> None:
    """They are not installed with it."""
    outside = re.compile(r"^\s*(?:from|import) studies\b", re.M)
    assert not [name for name, path in MODULES.items() if outside.search(path.read_text(encoding="utf-8"))]


def test_imports_run_in_no_circle() -> None:
    """Within the subpackages too; a circle raises and is named."""
    assert len(list(TopologicalSorter(IMPORTS).static_order())) == len(MODULES)
