"""Weights in and out: safetensors with a record of what they are, ``.pdparams`` for the ecosystem, read without running it."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from paddle_pgonas.errors import UserError
from paddle_pgonas.files import atomic_path
from paddle_pgonas.nn.supernet import Supernet

Arrays = dict[str, np.ndarray]
Record = dict[str, Any]

SLOPE = ".act._weight"
OPTIMIZER = "optimizer/"
"""Prefix of the optimizer's arrays in a training checkpoint, which is a weight file for everyone else."""

# Everything that pickled NumPy arrays, as paddle.save writes them, need to come back. Nothing here can call out.
_PICKLE_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("builtins", "tuple"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays, strings, numbers and plain containers; any other global stops the load before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")
        return super().find_class(module.replace("numpy._core", "numpy.core"), name)


def read_weights(path: str | Path) -> tuple[Arrays, Record]:
    """Weights under the challenge's names, and the record that was saved with them ({} for ``.pdparams``).

    A ``.pdparams`` file is a pickle: it is read with an unpickler that can only make arrays, strings, numbers and plain
    containers. Known prefixes of published checkpoints (``model.``, ``_layers.``, ``.fn.``) are taken off, and the second
    copy under ``ofa_teacher_model.`` is left out.

    Raises:
        UserError: not readable, not one of the two formats, or a pickle that asks for more than arrays.
    """
    arrays, record = read_arrays(path)
    named: Arrays = {}
    for name, array in arrays.items():
        if "ofa_teacher_model." not in name and not name.startswith(OPTIMIZER):
            named[challenge_name(name, array)] = array
    return named, record


def read_arrays(path: str | Path) -> tuple[Arrays, Record]:
    """All arrays of a weight file or checkpoint as they are named in it, and its record."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pdparams(path), {})


def _read_safetensors(path: Path) -> tuple[Arrays, Record]:
    try:
        with safe_open(path, framework="numpy") as file:
            record = json.loads((file.metadata() or {}).get("record", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118 (no dictionary)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None


def _read_pdparams(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:
            values = _ArrayUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a safe .pdparams file: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: not a .pdparams file ({type(error).__name__}: {error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a .pdparams file holds a dictionary of arrays, this one a {type(values).__name__}")
    arrays: Arrays = {}
    for name, value in values.items():
        if isinstance(value, tuple) and len(value) == 2:  # paddle.save writes a tensor outside a state dict as (name, array)
            value = value[1]
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            arrays[str(name)] = value
    if not arrays:
        raise UserError(f"{path}: holds no arrays")
    return arrays


def challenge_name(name: str, array: np.ndarray) -> str:
    """The challenge's name for a parameter of a published checkpoint.

    The slope of a block's PReLU is its only parameter of one value; whatever its layer is called, it belongs to ``act``.
    """
    name = re.sub(r"^((model|_layers)\.)+", "", name).replace(".fn.", ".")
    if array.size == 1 and (match := re.match(r"(blocks\.\d+)\.\w+\._weight$", name)):
        name = f"{match[1]}.act._weight"
    return name


def load_weights(supernet: Supernet, path: str | Path, *, pretrained: bool = False) -> Record:
    """Put a file's weights into the supernet and return the file's record.

    Args:
        pretrained: the weights start a training: they may be those of another activation, and PReLU slopes that they lack
            keep their initial value (the published runs started from a ReLU network).

    Raises:
        UserError: weights of another space, activation or number of classes.
    """
    arrays, record = read_weights(path)
    targets = supernet.weights()
    slopes = {name for name in targets if name.endswith(SLOPE)}
    if pretrained:
        arrays = {name: array for name, array in arrays.items() if name in targets or not name.endswith(SLOPE)}
        optional = slopes
    else:
        _check_activation(path, supernet, arrays, record)
        optional = set()
    _check_arrays(path, supernet, arrays, optional)
    for name, array in arrays.items():
        targets[name].set_value(array.astype(np.float32))
    return record


def _check_activation(path: str | Path, supernet: Supernet, arrays: Arrays, record: Record) -> None:
    has_slopes = any(name.endswith(SLOPE) for name in arrays)
    theirs = record.get("activation", "prelu" if has_slopes else supernet.activation)
    if theirs != supernet.activation or has_slopes != (supernet.activation == "prelu"):
        ours = supernet.activation
        theirs = "another activation" if theirs == ours else repr(theirs)
        raise UserError(
            f"{path}: trained with {theirs}, but model.activation is {ours!r}; use the configuration it was trained with"
        )


def _check_arrays(path: str | Path, supernet: Supernet, arrays: Arrays, optional: set[str]) -> None:
    targets, space = supernet.weights(), supernet.space
    where = f"these are not weights of space {space.name!r}"
    for name in sorted(set(targets) - set(arrays) - optional):
        raise UserError(f"{path}: lacks {name}; {where}")
    for name in sorted(set(arrays) - set(targets)):
        raise UserError(f"{path}: has {name}, which the supernet lacks; {where}")
    classifier = f"blocks.{space.first_blocks[-1]}.fc."
    for name, array in arrays.items():
        theirs, ours = list(array.shape), list(targets[name].shape)
        if theirs != ours and name.startswith(classifier) and theirs[:-1] == ours[:-1]:
            raise UserError(f"{path}: tells {theirs[-1]} classes apart; set model.num_classes={theirs[-1]} (it is {ours[-1]})")
        if theirs != ours:
            raise UserError(f"{path}: {name} has shape {theirs}, not {ours}; {where}")
        if not np.isfinite(array).all():  # a ReLU would turn them into plausible zeros
            raise UserError(f"{path}: {name} holds values that are not numbers; the training diverged")


def convert_weights(source: str | Path, target: str | Path) -> int:
    """Write a file's weights in the format of the target's name, under the challenge's names; returns how many there are.

    ``.pdparams`` is what ``paddle.load`` reads; the record stays behind, as that format has no place for it. Copies of a
    teacher and an optimizer's state are left out.

    Raises:
        UserError: the source cannot be read, or the target's name ends otherwise.
    """
    arrays, record = read_weights(source)
    suffix = Path(target).suffix
    if suffix not in (".safetensors", ".pdparams"):
        raise UserError(f"{target}: a weight file ends with .safetensors or .pdparams")
    with atomic_path(target) as part:
        if suffix == ".safetensors":
            save_file(arrays, part, metadata={"record": json.dumps(record)})
        else:
            paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, str(part))
    return len(arrays)


def save_weights(path: str | Path, layer: nn.Layer, record: Record, extra: Arrays | None = None) -> None:
    """Write a layer's tensors (and ``extra`` arrays) as one safetensors file with a JSON record inside, atomically."""
    tensors = layer.weights() if isinstance(layer, Supernet) else layer.state_dict()
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    with atomic_path(path) as part:
        save_file(arrays | (extra or {}), part, metadata={"record": json.dumps(record)})
