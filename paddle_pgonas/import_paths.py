"""Users' own code by import path, such as ``my_module:my_prior``. Only a configuration that names one runs code."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from paddle_pgonas.errors import UserError

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_import_path(text: object) -> bool:
    """Whether a value looks like ``package.module:name``."""
    return isinstance(text, str) and _IMPORT_PATH.fullmatch(text) is not None


def import_callable(path: str, what: str) -> Callable[..., Any]:
    """What ``module:name`` names; the module is looked for as Python does, and at last in the working folder.

    Raises UserError, which says ``what`` was named (``prior``), if it cannot be imported, is not there or cannot be called.
    """
    if not is_import_path(path):
        raise UserError(f"{what} {path!r}: an import path looks like my_module:name")
    name, _, attribute = path.partition(":")
    if "" not in sys.path:
        sys.path.append("")  # last, so that a file of the working folder never shadows an installed module
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"{what} {path}: importing {name} fails: {error}") from error
        where = "put its file into the working folder, or its folder into PYTHONPATH"
        raise UserError(f"{what} {path}: there is no module {error.name!r}; {where}") from None
    except Exception as error:
        raise UserError(f"{what} {path}: importing {name} fails: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {name}:{close[0]}?" if close else ""
        raise UserError(f"{what} {path}: {module.__file__ or name} defines no {attribute!r}{hint}")
    value = getattr(module, attribute)
    if not callable(value):
        raise UserError(f"{what} {path}: {attribute} is a {type(value).__name__}, not something to call")
    return value
