"""A pickle interpreter that cannot run code: it imports nothing, calls nothing and creates no objects.

It knows only the opcodes that ``paddle.save`` (2.1 to 3.3, pickle protocols 2 to 4) writes for arrays in dictionaries. Functions
and classes that they name are never looked up: a name becomes a role (``_ROLES``), a call an inert record. Time and memory are
bounded: ``MAX_STEPS`` instructions, no length beyond the end of the file, at most four bytes for a character of a text.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 100_000  # opcodes in a file: an array takes about 30, so 3,000 arrays are possible; the supernet has 300
MAX_NAME = 256  # characters of an array's name

_ROLES = {  # by module and name
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    "collections OrderedDict": "dictionary",
    "builtins tuple": "tuple",
    "__builtin__ tuple": "tuple",
    "__builtin__ bytes": "bytes",
}


class Refused(Exception):
    """The file differs from what ``paddle.save`` writes; the message says where."""


@dataclass(frozen=True)
class Role:
    """A global named by the file, represented by its entry of ``_ROLES``."""

    role: str


@dataclass(eq=False, slots=True)
class Call:
    """A call requested by the file: recorded, never executed."""

    role: str
    arguments: tuple[Any, ...]
    state: tuple[Any, ...] | None = None


_MARK = object()


def check_beginning(first: bytes) -> None:
    """Raise Refused for other first two bytes than those of a pickle of protocol 2, 3 or 4."""
    if first[:1] != pickle.PROTO or first[1:] not in (b"\2", b"\3", b"\4"):
        raise Refused("it does not begin as paddle.save's files do")


class Machine:
    """The interpreter: :meth:`run` executes the file's opcodes and returns the final value."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Execute the opcodes to the end of the file."""
        check_beginning(data[:2])
        opcodes = pickletools.genops(data)
        try:
            next(opcodes)
            for _, (opcode, argument, place) in zip(range(MAX_STEPS), opcodes, strict=False):
                if opcode.name == "STOP":
                    if len(self.stack) != 1 or place != len(data) - 1:
                        raise Refused("it has data after its end, or is truncated")
                    return self.stack[0]
                if opcode.name not in _INSTRUCTIONS:
                    raise Refused(f"instruction {opcode.name} at byte {place} is not one that paddle.save writes")
                _INSTRUCTIONS[opcode.name](self, argument)
        except ValueError as error:
            raise Refused(f"it is cut short or damaged: {str(error)[:200]}") from None
        raise Refused(f"it has more than {MAX_STEPS:,} instructions")

    def push(self, value: Any) -> None:
        """Push a number, a text or bytes."""
        if type(value) is int and value.bit_length() > 63:  # no step, epoch or seed is longer
            raise Refused(f"it holds an integer of {value.bit_length()} bits")
        self.stack.append(value)

    def pop(self) -> Any:
        """The topmost value."""
        if not self.stack or self.stack[-1] is _MARK:
            raise Refused("an instruction lacks its value")
        return self.stack.pop()

    def pop_many(self, count: int | None = None) -> list[Any]:
        """The ``count`` topmost values, or those above the last mark."""
        values: list[Any] = []
        while len(values) != count:
            if count is None and self.stack and self.stack[-1] is _MARK:
                self.stack.pop()
                break
            values.append(self.pop())
        return values[::-1]

    def push_role(self, name: str) -> None:
        """Push the role of a global, named by its module and its name."""
        if name not in _ROLES:
            raise Refused(f"it asks for {ascii(name.replace(' ', '.'))[1:-1]:.200}, which weights do not need")
        self.stack.append(Role(_ROLES[name]))

    def get(self, number: int) -> None:
        """Push the memo's value under a number."""
        if number not in self.memo:
            raise Refused("it refers to a value that it does not hold")
        self.stack.append(self.memo[number])

    def put(self, number: int | None) -> None:
        """Store the topmost value in the memo, without a number under the next free one."""
        value = self.pop()
        self.memo[len(self.memo) if number is None else number] = value
        self.stack.append(value)

    def append(self, count: int | None) -> None:
        """Append ``count`` values, or all above the mark, to a list."""
        values = self.pop_many(count)
        target = self.pop()
        if not isinstance(target, list):
            raise Refused("it appends to something other than a list")
        target += values
        self.stack.append(target)

    def set_items(self, count: int | None) -> None:
        """Put ``count`` keys and values, or all above the mark, into a dictionary. Only names and integers are hashed."""
        values = self.pop_many(count)
        target = self.pop()
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused("it puts values into something other than a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key if type(key) is int else short_text(key)] = value
        self.stack.append(target)

    def reduce(self) -> None:
        """Record a call."""
        function, arguments = self.pop_many(2)
        if not isinstance(function, Role) or not isinstance(arguments, tuple):
            raise Refused("it calls something other than a function")
        role, count = function.role, len(arguments)
        if role == "dictionary" and count == 0:
            self.stack.append({})
        elif role == "bytes" and count == 0:
            self.stack.append(b"")
        elif role == "tuple" and count == 1 and isinstance(arguments[0], tuple):
            self.stack.append(arguments[0])
        elif (role, count) in (("array", 3), ("dtype", 3), ("scalar", 2), ("encode", 2)):
            self.stack.append(Call(role, arguments))
        else:
            raise Refused(f"it calls the {role} with {count} values")

    def build(self) -> None:
        """Record the state of an array or a number type."""
        call, state = self.pop_many(2)
        if not isinstance(call, Call) or call.role not in ("array", "dtype") or call.state or not isinstance(state, tuple):
            raise Refused("it sets a state on something that has none")
        call.state = state
        self.stack.append(call)


_SURROGATE = re.compile("[\ud800-\udfff]")


def short_text(value: Any) -> str:
    """A name: a short text that can be written as UTF-8."""
    if not isinstance(value, str) or len(value) > MAX_NAME or _SURROGATE.search(value):
        raise Refused("a name in it is not a short text")
    return value


_VALUES = "BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
_INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(_VALUES.split(), Machine.push),
    "FRAME": lambda machine, length: None,  # not needed here
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop_many(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop_many(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop_many(3))),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_many())),
    "APPEND": lambda machine, _: machine.append(1),
    "APPENDS": lambda machine, _: machine.append(None),
    "SETITEM": lambda machine, _: machine.set_items(2),
    "SETITEMS": lambda machine, _: machine.set_items(None),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Machine.get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    "GLOBAL": Machine.push_role,
    "STACK_GLOBAL": lambda machine, _: machine.push_role(" ".join(map(short_text, machine.pop_many(2)))),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
