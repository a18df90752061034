"""Reads ``.pdparams`` files without unpickling them, so that an untrusted file cannot run code.

:mod:`.pickle_machine` interprets the file's opcodes and returns inert records. Arrays are built from these at the end, each
from a dtype (float, integer, bool), a shape, and bytes of exactly that length. Together they hold no more bytes than the file.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.pickle_machine import Call, Machine, Refused, Role, short_text

Tree = dict[str, Any]  # contents of a file by name: arrays and nested trees; numbers and texts are left out

MAX_DEPTH = 8  # of nested dictionaries
_SLICED = "UnpackBigParamInfor@@"  # key under which protocols 2 and 3 list the arrays that are stored in slices


def read_pdparams(path: str | Path) -> Tree:
    """The arrays that ``paddle.save`` wrote, by name; a nested dictionary stays nested.

    A tensor outside a state dict is saved as (name, array) and returned as the array. Tensors of more than 1 GB, which
    protocols 2 and 3 store in slices, are concatenated. A bfloat16 tensor is returned as uint16, as Paddle saves it. Raises
    UserError if the file cannot be read, or holds anything that ``paddle.save`` does not write for arrays.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        value = Machine().run(data)
        if not isinstance(value, dict):
            raise Refused("it holds no dictionary of arrays")
        return _Builder(len(data)).tree(value, 0)
    except Refused as error:
        raise UserError(f"{path}: not a safe .pdparams file: {error}") from None


class _Builder:
    """Builds arrays from the machine's records, each record once."""

    def __init__(self, size: int) -> None:
        """Build at most ``size`` bytes, those of the file, and join as many."""
        self.left = self.left_joined = size
        self.made: dict[int, Any] = {}  # by the record's identity; the records outlive this

    def tree(self, items: dict[str | int, Any], depth: int) -> Tree:
        """The arrays of a dictionary and of the dictionaries in it."""
        if depth > MAX_DEPTH:
            raise Refused("its dictionaries are nested too deeply")
        if id(items) in self.made:
            return self.made[id(items)]
        tree: Tree = {}
        for key, value in items.items():
            if isinstance(value, tuple) and len(value) == 2 and _is_array(value[1]):
                value = value[1]
            if isinstance(value, dict):
                tree[str(key)] = self.tree(value, depth + 1)
            elif _is_array(value):
                if id(value) not in self.made:
                    self.made[id(value)] = self.array(value)
                tree[str(key)] = self.made[id(value)]
        if isinstance(parts := items.get(_SLICED), dict):
            self.join(tree, parts)
        self.made[id(items)] = tree
        return tree

    def array(self, call: Call) -> np.ndarray:
        """The array of a record of ``_reconstruct`` and its state (version, shape, dtype, column order, content)."""
        if call.state is None or len(call.state) != 5 or call.arguments[0] != Role("ndarray"):
            raise Refused("an array lacks its state")
        _, shape, dtype, columns_first, content = call.state
        kind = self.dtype(dtype)
        count = math.prod(_shape(shape))
        if not isinstance(columns_first, bool) or count * kind.itemsize > self.left:
            raise Refused("its arrays claim more bytes than it has")
        self.left -= count * kind.itemsize
        values = np.frombuffer(self.content(content, count * kind.itemsize), dtype=kind, count=count)
        return values.reshape(shape, order="F" if columns_first else "C").copy(order="C")

    def dtype(self, call: Any) -> np.dtype:
        """A dtype: float, integer or bool, with a byte order."""
        if not isinstance(call, Call) or call.role != "dtype" or not call.state or len(call.state) < 2:
            raise Refused("an array lacks its dtype")
        code, order = short_text(call.arguments[0]), short_text(call.state[1])
        if not re.fullmatch("f[248]|[iu][1248]|b1", code) or order not in ("<", ">", "|", "="):
            raise Refused(f"an array has the dtype {order + code!a}")
        return np.dtype(code if order == "|" else order + code)

    def content(self, value: Any, size: int) -> bytes:
        """The bytes of an array: as they are, or (protocol 2) a text in which each character is a byte."""
        if isinstance(value, Call) and value.role == "encode" and short_text(value.arguments[1]) == "latin1":
            text = value.arguments[0]
            if isinstance(text, str) and len(text) == size:
                with suppress(UnicodeEncodeError):
                    value = text.encode("latin-1")
        if not isinstance(value, bytes) or len(value) != size:
            raise Refused("the number of bytes of an array does not match its shape")
        return value

    def join(self, tree: Tree, parts: dict[str | int, Any]) -> None:
        """Concatenate the slices of large arrays, as ``paddle.load`` does."""
        for key, record in parts.items():
            if not isinstance(record, dict) or not isinstance(names := record.get("slices"), list):
                raise Refused("the record of a sliced array is damaged")
            slices = [tree.pop(short_text(name), None) for name in names]
            shape = _shape(record.get("OriginShape"))
            flat = [piece for piece in slices if isinstance(piece, np.ndarray) and piece.ndim == 1]
            self.left_joined -= sum(piece.nbytes for piece in flat)
            complete = flat and len(flat) == len(slices) and sum(piece.size for piece in flat) == math.prod(shape)
            if not complete or self.left_joined < 0:
                raise Refused("the slices of an array do not fit together")
            tree[str(key)] = np.concatenate(flat).reshape(shape)
        tree.pop(_SLICED, None)


def _is_array(value: Any) -> bool:
    return isinstance(value, Call) and value.role == "array"


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 8 or not all(type(side) is int and 0 <= side < 1 << 40 for side in value):
        raise Refused("an array has no shape")
    return value
