"""A pickle interpreter that cannot run code: it imports nothing, calls nothing and creates no objects.

It knows only the opcodes that ``paddle.save`` (2.1 to 3.3, pickle protocols 2 to 4) writes for arrays in dictionaries.
The functions and classes that they name are never looked up: a name becomes a role (``_ROLES``), a call an inert record, and
text and bytes are represented by spans of the file. Time and memory are bounded by the file's own size: at most ``MAX_STEPS``
instructions, and no length beyond the file's end.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

MAX_STEPS = 100_000
"""Largest number of opcodes in a file: an array takes about 30, so 3,000 arrays are possible; the supernet has 300."""
MAX_NAME = 256
"""Largest number of bytes of an array's name."""

_ROLES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "dictionary",
    ("builtins", "tuple"): "tuple",
    ("__builtin__", "tuple"): "tuple",
    ("__builtin__", "bytes"): "bytes",
}


class Refused(Exception):
    """The file differs from what ``paddle.save`` writes; the message says where."""


class Role:
    """A global named by the file, represented by its entry of ``_ROLES``."""

    def __init__(self, role: str) -> None:
        self.role = role


class Call:
    """A call requested by the file: recorded, never executed."""

    __slots__ = ("arguments", "role", "state")

    def __init__(self, role: str, arguments: tuple[Any, ...]) -> None:
        self.role, self.arguments = role, arguments
        self.state: tuple[Any, ...] | None = None


class Span:
    """Text (UTF-8) or bytes, as a position in the file."""

    __slots__ = ("is_text", "name", "start", "stop")

    def __init__(self, start: int, stop: int, is_text: bool) -> None:
        self.start, self.stop, self.is_text = start, stop, is_text
        self.name: str | None = None


_MARK = object()


class Machine:
    """The interpreter: :meth:`run` executes the file's opcodes and returns the final value."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute the opcodes to the end of the file."""
        if self.data[:1] != pickle.PROTO or self.data[1:2] not in (b"\2", b"\3", b"\4"):
            raise Refused("it does not begin as paddle.save's files do")
        self.place = 2
        for _ in range(MAX_STEPS):
            code = self.data[self.take(1)]
            if code == pickle.STOP[0]:
                if len(self.stack) != 1 or self.place != len(self.data):
                    raise Refused("it has data after its end, or is truncated")
                return self.stack[0]
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Refused(f"instruction 0x{code:02x} at byte {self.place - 1} is not one that paddle.save writes")
            instruction(self)
        raise Refused(f"it has more than {MAX_STEPS:,} instructions")

    def take(self, count: int) -> int:
        """Start of the next ``count`` bytes; moves past them."""
        start, self.place = self.place, self.place + count
        if self.place > len(self.data):
            raise Refused("it is cut short")
        return start

    def skip(self, count: int, value: float | None = None) -> None:
        """Skip ``count`` bytes and push the value, if any, that represents them."""
        self.take(count)
        if value is not None:
            self.stack.append(value)

    def number(self, size: int, signed: bool = False) -> int:
        """A little-endian integer of ``size`` bytes."""
        start = self.take(size)
        return int.from_bytes(self.data[start : start + size], "little", signed=signed)

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

    def span(self, size: int, is_text: bool) -> None:
        """Push text or bytes preceded by their length in ``size`` bytes."""
        length = self.number(size)
        start = self.take(length)
        self.stack.append(Span(start, start + length, is_text))

    def long(self) -> None:
        """Push an integer of up to 8 bytes; no step, epoch or seed is longer."""
        size = self.number(1)
        if size > 8:
            raise Refused(f"it holds an integer of {size} bytes")
        self.stack.append(self.number(size, signed=True))

    def line(self) -> str:
        """A text up to the next line break, of at most ``MAX_NAME`` bytes."""
        end = self.data.find(b"\n", self.place, self.place + MAX_NAME)
        if end < 0:
            raise Refused("the name of a function is cut short")
        start = self.take(end + 1 - self.place)
        return self.data[start:end].decode("latin-1")

    def push_role(self, module: str, name: str) -> None:
        """Push the role of a global."""
        role = _ROLES.get((module, name))
        if role is None:
            raise Refused(f"it asks for {ascii(module + '.' + name)[1:-1]}, which weights do not need")
        self.stack.append(Role(role))

    def stack_global(self) -> None:
        """Push the role of the global whose module and name are on top of the stack."""
        module, name = self.pop_many(2)
        self.push_role(short_text(self.data, module), short_text(self.data, name))

    def get(self, size: int) -> None:
        """Push the memo's value under a number."""
        number = self.number(size)
        if number not in self.memo:
            raise Refused("it refers to a value that it does not hold")
        self.stack.append(self.memo[number])

    def put(self, size: int | None) -> None:
        """Store the topmost value in the memo, without a size under the next free number."""
        number = len(self.memo) if size is None else self.number(size)
        self.memo[number] = self.pop()
        self.stack.append(self.memo[number])

    def append(self, marked: bool) -> None:
        """Append one value, or all above the mark, to a list."""
        values = self.pop_many(None if marked else 1)
        target = self.pop()
        if not isinstance(target, list):
            raise Refused("it appends to something other than a list")
        target += values
        self.stack.append(target)

    def set_items(self, marked: bool) -> None:
        """Put one pair, or all above the mark, into a dictionary. Only names and integers are hashed."""
        values = self.pop_many(None if marked else 2)
        target = self.pop()
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused("it puts values into something other than a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key if type(key) is int else short_text(self.data, key)] = value
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
            self.stack.append(Span(0, 0, False))
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


def decode(raw: bytes) -> str:
    """A text of the file, which is UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("a text in it is not UTF-8") from None


def short_text(data: bytes, span: Any) -> str:
    """A short text of the file. Decoded once and cached, so a name used many times takes memory once."""
    if not isinstance(span, Span) or not span.is_text or span.stop - span.start > MAX_NAME:
        raise Refused("a name in it is not a short text")
    if span.name is None:
        span.name = decode(data[span.start : span.stop])
    return span.name


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _tuple(count: int | None) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(tuple(machine.pop_many(count)))


_INSTRUCTIONS: dict[int, Callable[[Machine], None]] = {
    code[0]: instruction
    for code, instruction in {
        pickle.FRAME: lambda m: m.skip(8),  # frame length: not needed here
        pickle.MARK: _constant(_MARK),
        pickle.NONE: _constant(None),
        pickle.NEWTRUE: _constant(True),
        pickle.NEWFALSE: _constant(False),
        pickle.BININT: lambda m: m.stack.append(m.number(4, signed=True)),
        pickle.BININT1: lambda m: m.stack.append(m.number(1)),
        pickle.BININT2: lambda m: m.stack.append(m.number(2)),
        pickle.LONG1: Machine.long,
        pickle.BINFLOAT: lambda m: m.skip(8, 0.0),  # the value is not needed: no array is built from such floats
        pickle.SHORT_BINUNICODE: lambda m: m.span(1, True),
        pickle.BINUNICODE: lambda m: m.span(4, True),
        pickle.BINUNICODE8: lambda m: m.span(8, True),
        pickle.SHORT_BINBYTES: lambda m: m.span(1, False),
        pickle.BINBYTES: lambda m: m.span(4, False),
        pickle.BINBYTES8: lambda m: m.span(8, False),
        pickle.EMPTY_TUPLE: _constant(()),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.TUPLE: _tuple(None),
        pickle.EMPTY_LIST: lambda m: m.stack.append([]),
        pickle.APPEND: lambda m: m.append(False),
        pickle.APPENDS: lambda m: m.append(True),
        pickle.EMPTY_DICT: lambda m: m.stack.append({}),
        pickle.SETITEM: lambda m: m.set_items(False),
        pickle.SETITEMS: lambda m: m.set_items(True),
        pickle.BINGET: lambda m: m.get(1),
        pickle.LONG_BINGET: lambda m: m.get(4),
        pickle.BINPUT: lambda m: m.put(1),
        pickle.LONG_BINPUT: lambda m: m.put(4),
        pickle.MEMOIZE: lambda m: m.put(None),
        pickle.GLOBAL: lambda m: m.push_role(m.line(), m.line()),
        pickle.STACK_GLOBAL: Machine.stack_global,
        pickle.REDUCE: Machine.reduce,
        pickle.BUILD: Machine.build,
    }.items()
}
