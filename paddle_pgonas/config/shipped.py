"""The configurations that the project brings: by name from any folder, and what each is for."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_text

_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""The folder of the project's configurations: inside the installed package, or beside it in a checkout."""


def shipped() -> dict[str, Path]:
    """The project's configurations by name, such as ``mini/digits.yaml``."""
    return {path.relative_to(CONFIGS).as_posix(): path for path in sorted(CONFIGS.rglob("*.yaml"))}


def purposes() -> dict[str, str]:
    """What each of them is for, by name: the first line of the file, a comment."""
    return {name: read_text(path, "configuration").partition("\n")[0].lstrip("# ") for name, path in shipped().items()}


def find_config(path: str | Path) -> Path:
    """The path of a configuration: of a file, if there is one, or else of the project's one of this name.

    The name may begin with ``configs/``, as in a checkout. Raises UserError for another name that resembles some of these;
    whoever reads a path without such a file says why that fails.
    """
    if os.path.lexists(path):
        return Path(path)
    known, name = shipped(), Path(path).as_posix().removeprefix("configs/")
    if name in known:
        return known[name]
    stems = {Path(one).stem: one for one in known}
    if near := difflib.get_close_matches(Path(name).stem[:100], stems, n=3, cutoff=0.5):
        close = ", ".join(stems[stem] for stem in near)
        raise UserError(f"{path}: cannot read the configuration (no such file); of the project's own, {close} resemble it")
    return Path(path)
