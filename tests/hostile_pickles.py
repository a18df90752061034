"""Hostile ``.pdparams`` files, one for each way to attack whoever reads a pickle. They are bytes; nothing here unpickles."""

from __future__ import annotations

import pickle as p
import struct
from collections.abc import Iterable


def text(value: str) -> bytes:
    raw = value.encode()
    return p.BINUNICODE + struct.pack("<I", len(raw)) + raw


def content(raw: bytes) -> bytes:
    return p.BINBYTES + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return p.LONG1 + bytes([len(raw)]) + raw


def function(module: str, name: str) -> bytes:
    return p.GLOBAL + f"{module}\n{name}\n".encode()


def values(*items: bytes) -> bytes:
    return p.MARK + b"".join(items) + p.TUPLE


def call(what: bytes, *arguments: bytes) -> bytes:
    return what + values(*arguments) + p.REDUCE


def put(index: int) -> bytes:
    return p.LONG_BINPUT + struct.pack("<I", index)


def get(index: int) -> bytes:
    return p.LONG_BINGET + struct.pack("<I", index)


def dtype(code: str = "f4", order: str = "<", *more: bytes) -> bytes:
    state = more or (p.NONE, p.NONE, p.NONE, number(-1), number(-1), number(0))
    made = call(function("numpy", "dtype"), text(code), p.NEWFALSE, p.NEWTRUE)
    return made + values(number(3), text(order), *state) + p.BUILD


def array(shape: Iterable[int], data: bytes, kind: bytes | None = None, module: str = "numpy.core.multiarray") -> bytes:
    empty = call(function(module, "_reconstruct"), function("numpy", "ndarray"), values(number(0)), content(b"b"))
    state = values(number(1), values(*map(number, shape)), kind or dtype(), p.NEWFALSE, data)
    return empty + state + p.BUILD


def saved(*entries: tuple[bytes, bytes]) -> bytes:
    """A file with these (key, value) pairs in its dictionary."""
    return p.PROTO + b"\3" + p.EMPTY_DICT + p.MARK + b"".join(key + value for key, value in entries) + p.SETITEMS + p.STOP


def one(value: bytes) -> bytes:
    return saved((text("blocks.0.conv.weight"), value))


def encoded(string: str, codec: str) -> bytes:
    return call(function("_codecs", "encode"), text(string), text(codec))


def doubled(start: bytes) -> bytes:
    """A tuple of the value twice, of that tuple twice, and so on: 2 ** 60 leaves in seven bytes each time."""
    return start + put(0) + b"".join(get(index) + p.TUPLE2 + put(index + 1) for index in range(60))


def doubled_dictionaries() -> list[tuple[bytes, bytes]]:
    """Each holds the one before it twice."""
    first = (text("d0"), p.EMPTY_DICT + put(0))
    twice = [p.MARK + text("a") + get(index) + text("b") + get(index) + p.SETITEMS for index in range(60)]
    return [first, *((text(f"d{index + 1}"), p.EMPTY_DICT + pair + put(index + 1)) for index, pair in enumerate(twice))]


def touch(path: str) -> list[bytes]:
    """The arguments of a call that leaves a file behind where it is made."""
    return [text(f"touch {path}")]


def hostile_pickles(path: str) -> dict[str, bytes]:
    """The files by name; what runs of any of them makes the file ``path``."""
    small = content(bytes(8))
    raw_memory = dtype("V8", "|", p.NONE, values(text("a")), p.EMPTY_DICT, number(8), number(1), number(63))
    return {
        "calls os.system": one(call(function("posix", "system"), *touch(path))),
        "calls eval, as paddle.save does for a DenseTensor": one(
            call(function("builtins", "eval"), text(f"open({path!r}, 'w')"))
        ),
        "calls a name from the stack": p.PROTO
        + b"\4"
        + p.EMPTY_DICT
        + text("x")
        + call(text("os") + text("system") + p.STACK_GLOBAL, *touch(path))
        + p.SETITEM
        + p.STOP,
        "instance of an old class": p.PROTO + b"\2" + p.MARK + touch(path)[0] + p.INST + b"posix\nsystem\n" + p.STOP,
        "new object of a class": one(function("subprocess", "Popen") + values(*touch(path)) + p.NEWOBJ),
        "object array over raw memory": one(array([1], content(struct.pack("<Q", 0x4141414141414141)), dtype("O8", "|"))),
        "state set on a class": one(function("numpy", "ndarray") + values(number(1)) + p.BUILD),
        "state set twice": one(
            array([2], small) + values(number(1), values(number(1 << 60)), dtype(), p.NEWFALSE, small) + p.BUILD
        ),
        "number type with fields over raw memory": one(array([1], small, raw_memory)),
        "scalar of an object": one(call(function("numpy.core.multiarray", "scalar"), dtype("O8", "|"), small)),
        "nested tuples to hash": saved((p.EMPTY_TUPLE + p.TUPLE1 * 90_000, p.NONE)),
        "doubled tuple to hash": saved((doubled(p.EMPTY_TUPLE), p.NONE)),
        "keys of equal hash": saved(*((number(index * (2**61 - 1)), p.NONE) for index in range(30_000))),
        "doubled tuple as a value": one(doubled(array([2], small))),
        "doubled dictionary": saved(*doubled_dictionaries()),
        "doubled dictionary, the last alone": saved(
            (text("x"), p.EMPTY_LIST + p.MARK + b"".join(value for _, value in doubled_dictionaries()) + p.APPENDS),
            (text("y"), get(60)),
        ),
        "dictionary in itself": p.PROTO + b"\3" + p.EMPTY_DICT + put(0) + text("a") + get(0) + p.SETITEM + p.STOP,
        "claimed shape": one(array([1 << 40], small)),
        "claimed shape of nothing": one(array([0, 1 << 62], content(b""))),
        "negative shape": one(array([-2, -1], small)),
        "claimed length": one(p.BINBYTES8 + struct.pack("<Q", 1 << 62)),
        "claimed length of a text": one(p.BINUNICODE + struct.pack("<I", (1 << 32) - 1)),
        "claimed frame": p.PROTO + b"\4" + p.FRAME + struct.pack("<Q", 1 << 62) + p.EMPTY_DICT + p.STOP,
        "hex codec": one(array([1 << 20], encoded("00" * (1 << 20), "hex"))),
        "wide characters": one(array([1 << 23], encoded("a" * (1 << 23) + "\U0001f600", "latin1"), dtype("u1", "|"))),
        "one array under many names": saved(
            (text("a0"), array([1 << 18], content(bytes(1 << 20))) + put(0)), *((text(f"a{i}"), get(0)) for i in range(1, 20_000))
        ),
        "one content in many arrays": saved(
            (text("x"), content(bytes(1 << 20)) + put(0)), *((text(f"a{i}"), array([1 << 18], get(0))) for i in range(1000))
        ),
        "one array in many slices": saved(
            (text("a0"), array([1 << 18], content(bytes(1 << 20))) + put(0)),
            *((text(f"a{i}"), get(0)) for i in range(1, 10_000)),
            (
                text("UnpackBigParamInfor@@"),
                p.EMPTY_DICT
                + text("big")
                + p.EMPTY_DICT
                + p.MARK
                + text("OriginShape")
                + values(number(10_000 << 18))
                + text("slices")
                + p.EMPTY_LIST
                + p.MARK
                + b"".join(text(f"a{i}") for i in range(10_000))
                + p.APPENDS
                + p.SETITEMS
                + p.SETITEM,
            ),
        ),
        "persistent id": p.PROTO + b"\3" + p.NONE + p.BINPERSID + p.STOP,
        "extension registry": p.PROTO + b"\3" + p.EXT1 + b"\1" + p.STOP,
        "buffer outside the file": p.PROTO + b"\5" + p.NEXT_BUFFER + p.STOP,
        "deep nesting": one(p.EMPTY_LIST * 45_000 + p.APPEND * 44_999),
        "endless nesting": one(p.EMPTY_TUPLE + p.TUPLE1 * 4_000_000),
        "huge whole number": one(p.LONG4 + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20)),
        "millions of dictionaries": p.PROTO + b"\3" + p.EMPTY_DICT * 8_000_000 + p.STOP,
        "memory for numbers": p.PROTO + b"\3" + p.EMPTY_DICT + b"".join(put(i << 12) for i in range(99_000)) + p.STOP,
        "long names of wide characters": saved(*((text(f"{i:x}\U0001f600" + "a" * 240), p.NONE) for i in range(49_000))),
        "cut short": one(array([2], small))[:-20],
        "lone surrogate in a name": saved((p.BINUNICODE + struct.pack("<I", 3) + b"\xed\xa0\x80", array([2], small))),
    }
