"""The training methods, one file each: its paper, its options, the subnets that it samples, and the passes of a step.

A method has two classes. Its options are a section of the configuration (``method:``), which needs no Paddle; ``start`` makes
of them the callable that runs the forward and backward passes of every step. :data:`METHODS` lists the built-in ones.
"""

from typing import Any

from pydantic import ValidationInfo

from paddle_pgonas.import_paths import is_import_path
from paddle_pgonas.methods.balanced_sandwich import BalancedSandwichOptions
from paddle_pgonas.methods.base import Imported, Method
from paddle_pgonas.methods.pgonas import PgonasOptions
from paddle_pgonas.methods.sandwich import FairSandwichOptions, SandwichOptions
from paddle_pgonas.methods.single_path import LargestOptions, PhasesOptions, ProgressiveOptions, UniformOptions
from paddle_pgonas.schema import broken_rule, closest, shown

METHODS: dict[str, type[Method]] = {
    "uniform": UniformOptions,
    "progressive": ProgressiveOptions,
    "phases": PhasesOptions,
    "largest": LargestOptions,
    "sandwich": SandwichOptions,
    "fair_sandwich": FairSandwichOptions,
    "balanced_sandwich": BalancedSandwichOptions,
    "pgonas": PgonasOptions,
}
"""Options by the method's name."""


def read_method(value: Any, info: ValidationInfo) -> Method | None:
    """The options that a value of the key ``method`` stands for: a method's name, or its keys with ``name``; None for none.

    Raises pydantic's ValidationError if there is no such method or key, or a value is wrong.
    """
    if value is None or isinstance(value, Method):
        return value
    keys = {"name": value} if isinstance(value, str) else value
    if not isinstance(keys, dict):
        raise broken_rule("", f"is a section of keys or a method's name, not the value {shown(value)}")
    name = keys.get("name")
    if is_import_path(name):
        return Imported.model_validate(keys, context=info.context)
    if not isinstance(name, str) or name not in METHODS:
        known = f"{', '.join(METHODS)}, or an import path such as my_module:MyOptions"
        raise broken_rule("name", f"must be one of {known}, not {shown(name)}")
    options = METHODS[name]
    for unknown in sorted(map(str, keys.keys() - options.model_fields.keys())):
        raise broken_rule(unknown, f"is no key of the method {name}; {closest(unknown, options, 'method.')}")
    return options.model_validate(keys, context=info.context)
