"""Reading and writing weights: safetensors with a record, and ``.pdparams`` for Paddle, which is read without unpickling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.io.files import atomic_path
from paddle_pgonas.io.pdparams import read_pdparams
from paddle_pgonas.io.records import Arrays, DamagedFile, Record
from paddle_pgonas.io.weight_files import check_weight_file
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.supernet import Supernet, plain_name
from paddle_pgonas.space.arch import Arch, SearchSpace

SLOPE = ".act._weight"
OPTIMIZER = "optimizer/"  # prefix of the optimizer's arrays in a training checkpoint; readers of weights ignore them
BLOCKS = "blocks."
"""How every name of the challenge begins."""

Check = Callable[[str | Path, Record], None]
"""Compares a file's record with what is done with its weights, before they are loaded; raises UserError for a contradiction."""


def unchecked(path: str | Path, record: Record) -> None:
    """The :data:`Check` that compares nothing."""


def read_weights(path: str | Path) -> tuple[Arrays, Record]:
    """Weights under the challenge's names, and the record that was saved with them ({} for ``.pdparams``).

    A ``.pdparams`` file is a pickle: it is read without unpickling it (:mod:`paddle_pgonas.io.pdparams`). Known parts of
    published names (``model.``, ``_layers.``, ``.fn.``) and any other prefix that all names share are removed, and the second
    copy under ``ofa_teacher_model.`` is left out.

    Raises UserError for a file that is not readable or of neither format, for a pickle that requests more than arrays, for two
    different arrays of one name, or for no array of the challenge's names.
    """
    arrays, record = read_arrays(path)
    named = named_weights(path, arrays)
    if not any(name.startswith(BLOCKS) for name in named):  # so every detail would differ
        held = f"arrays such as {next(iter(named))}" if named else "no arrays"
        raise UserError(f"{path}: holds no weights of this network, but {held}, and no {BLOCKS}*; give a supernet's weights")
    return named, record


def named_weights(path: str | Path, arrays: Arrays) -> Arrays:
    """The weights among the arrays of ``path``, under the challenge's names. Raises UserError for two of one name."""
    named: Arrays = {}
    theirs = [name for name in arrays if "ofa_teacher_model." not in name and not name.startswith(OPTIMIZER)]
    plain = {name: re.sub(r"^((model|_layers)\.)+", "", name) for name in theirs}
    prefix = _shared_prefix(plain.values())
    for name in theirs:
        array, ours = arrays[name], challenge_name(plain[name].removeprefix(prefix), arrays[name])
        if ours in named and not np.array_equal(named[ours], array):
            raise UserError(f"{path}: holds two different arrays for {ours}")
        named[ours] = array
    return named


def read_arrays(path: str | Path) -> tuple[Arrays, Record]:
    """All arrays of a weight file or checkpoint as named in it, and its record. Other programs' files need no checksum."""
    check_weight_file(path)
    path = Path(path)
    if path.suffix == ".safetensors":
        return records.read(path, checked=False)
    arrays = {name: value for name, value in read_pdparams(path).items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise UserError(f"{path}: holds no arrays by name, or only inside further dictionaries; save the state dict alone")
    return arrays, {}


def _shared_prefix(names: Iterable[str]) -> str:
    """What stands before ``blocks.`` in all the names, such as ``module.``; nothing if they differ in it."""
    matches = [re.match(rf"(.*?\.)??{BLOCKS}", name) for name in names]
    found = {match and match[1] for match in matches}
    return (found.pop() if len(found) == 1 else None) or ""


def challenge_name(name: str, array: np.ndarray) -> str:
    """The challenge's name for a parameter of a published checkpoint, whose prefixes are removed."""
    name = plain_name(name)
    # A block's only parameter with a single value is the slope of its PReLU, whatever its layer is called.
    if array.size == 1 and (match := re.match(r"(blocks\.\d+)\.\w+\._weight$", name)):
        return f"{match[1]}{SLOPE}"
    return name


def trained_alone(record: Record) -> str | None:
    """The code of the subnet whose stand-alone weights a record describes; None for a supernet's or an unknown network's."""
    code = record.get("arch")
    return code if isinstance(code, str) else None


def is_supernet(record: Record) -> bool:
    """Whether a record says that the weights are those of a trained supernet."""
    return "step" in record and trained_alone(record) is None


def load_weights(
    supernet: Supernet, path: str | Path, *, pretrained: bool = False, subnets: bool = False, check: Check = unchecked
) -> Record:
    """Load a file's weights into the supernet and return its record. Raises UserError if the file is not of this network.

    ``pretrained`` weights start a training: they may be those of another activation, and missing PReLU slopes keep their initial
    value (the published runs started from a ReLU network). With ``subnets`` a file of any subnet's stand-alone weights is loaded
    too: they become the slices of that subnet (:func:`trained_alone`), and everything else is 0.
    """
    arrays, record = read_weights(path)
    check(path, record)
    arch = _alone(path, supernet.space, record)
    if arch not in (None, supernet.space.largest):
        if not subnets:
            raise UserError(f"{path}: holds the stand-alone weights of subnet {arch}; give those of the full network")
        _put_subnet(supernet, arch, path, arrays, record)
    else:
        put_weights(supernet, path, arrays, record, pretrained=pretrained)
    return record


def _alone(path: str | Path, space: SearchSpace, record: Record) -> Arch | None:
    code = trained_alone(record)
    try:
        return None if code is None else space.parse(code)
    except UserError as error:
        raise UserError(f"{path}: holds the stand-alone weights of a subnet that space {space.name!r} lacks: {error}") from None


def put_weights(supernet: Supernet, path: str | Path, arrays: Arrays, record: Record, *, pretrained: bool = False) -> None:
    """Load weights that were read from ``path`` into the supernet, all or none. Arguments and errors as :func:`load_weights`."""
    targets, space = supernet.weights(), supernet.space
    optional = {name for name in targets if pretrained and name.endswith(SLOPE)}
    if pretrained:
        arrays = {name: array for name, array in arrays.items() if name in targets or not name.endswith(SLOPE)}
    else:
        _check_activation(path, supernet.activation, arrays, record)
    where = f"these are not weights of space {space.name!r}"
    for name, array in _checked(path, targets, where, arrays, optional).items():
        targets[name].set_value(array)


def _put_subnet(supernet: Supernet, arch: Arch, path: str | Path, arrays: Arrays, record: Record) -> None:
    """Make a subnet's stand-alone weights its slices of the supernet, which uses the leading channels of every tensor."""
    subnet = ResNet(arch, supernet.num_classes, supernet.activation)
    load_alone(subnet, supernet.activation, path, arrays, record)
    slices = subnet.state_dict()
    for name, tensor in supernet.weights().items():
        whole = np.zeros(tensor.shape, np.float32)
        if name in slices:
            whole[tuple(slice(0, size) for size in slices[name].shape)] = slices[name].numpy()
        tensor.set_value(whole)


def load_alone(net: ResNet, activation: str, path: str | Path, arrays: Arrays, record: Record) -> None:
    """Load stand-alone weights that were read from ``path`` into a network of one architecture.

    Raises UserError if they are not those of this subnet with this activation.
    """
    targets, code = net.state_dict(), trained_alone(record)
    if is_supernet(record):
        raise UserError(f"{path}: holds a supernet's weights; give a subnet's: export it first (tools/export_subnet.py)")
    if code not in (None, net.arch.code):
        raise UserError(f"{path}: holds the stand-alone weights of subnet {code}, not of {net.arch}")
    _check_activation(path, activation, arrays, record)
    for name, array in _checked(path, targets, f"these are not weights of subnet {net.arch}", arrays).items():
        targets[name].set_value(array)


def activation_of(arrays: Arrays, record: Record) -> str | None:
    """The activation with which weights were trained, if their record or PReLU's slopes tell it."""
    activation = record.get("activation", "prelu" if any(name.endswith(SLOPE) for name in arrays) else None)
    return None if activation is None else str(activation)


def _check_activation(path: str | Path, ours: str, arrays: Arrays, record: Record) -> None:
    has_slopes = any(name.endswith(SLOPE) for name in arrays)
    theirs = activation_of(arrays, record) or ours
    if theirs != ours or has_slopes != (ours == "prelu"):
        theirs = "another activation" if theirs == ours else repr(theirs)
        raise UserError(
            f"{path}: trained with {theirs}, but model.activation is {ours!r}; use the configuration it was trained with"
        )


def _checked(
    path: str | Path, targets: Mapping[str, paddle.Tensor], where: str, arrays: Arrays, optional: Set[str] = frozenset()
) -> Arrays:
    """The arrays as float32; checks that they are those of the network and finite."""
    for name in sorted(set(targets) - set(arrays) - optional):
        raise UserError(f"{path}: lacks {name} (its first array is {next(iter(arrays), None)}); {where}")
    for name in sorted(set(arrays) - set(targets)):
        raise UserError(f"{path}: has {name}, which the network lacks; {where}")
    for name, array in arrays.items():
        theirs, ours = list(array.shape), list(targets[name].shape)
        if theirs != ours and ".fc." in name and theirs[:-1] == ours[:-1]:
            raise UserError(f"{path}: has {theirs[-1]} classes; set model.num_classes={theirs[-1]} (it is {ours[-1]})")
        if theirs != ours:
            raise UserError(f"{path}: {name} has shape {theirs}, not {ours}; {where}")
        if array.dtype.kind != "f":
            kind = "uint16, as Paddle saves bfloat16" if array.dtype == np.uint16 else str(array.dtype)
            raise UserError(f"{path}: {name} holds {kind}; convert the weights to float32 before saving them")
    with np.errstate(over="ignore"):  # float64 values may overflow in float32
        converted = {name: array.astype(np.float32) for name, array in arrays.items()}
    for name, array in converted.items():
        if not np.isfinite(array).all():  # a ReLU may turn NaN into 0, which would hide the error
            raise UserError(f"{path}: {name} holds values that are not numbers in float32; the training diverged")
    return converted


def put_plain_weights(net: nn.Layer, path: str | Path, arrays: Arrays) -> None:
    """Load arrays that were read from ``path`` into a plain network. Raises DamagedFile for other names or shapes."""
    tensors = net.state_dict()
    if {name: list(array.shape) for name, array in arrays.items()} != {name: tensor.shape for name, tensor in tensors.items()}:
        raise DamagedFile(f"{path}: holds the weights of another network")
    for name, array in arrays.items():
        tensors[name].set_value(array)


def convert_weights(source: str | Path, target: str | Path) -> int:
    """Convert weights to the format of the target's suffix, under the challenge's names; returns the number of arrays.

    ``paddle.load`` reads ``.pdparams``. This format has no place for the record, which is dropped. Copies of a teacher and an
    optimizer's state are left out. Raises UserError if the source cannot be read, or the target has another suffix.
    """
    suffix = Path(target).suffix
    if suffix not in (".safetensors", ".pdparams"):
        raise UserError(f"{target}: a weight file ends with .safetensors or .pdparams")
    arrays, record = read_weights(source)
    if suffix == ".safetensors":
        records.write(target, record, arrays)
    else:
        with atomic_path(target) as part:
            paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, str(part))
    return len(arrays)


def save_weights(path: str | Path, layer: nn.Layer, record: Record, extra: Arrays | None = None) -> None:
    """Write a layer's tensors (and ``extra`` arrays) as one safetensors file with a record and a checksum inside, atomically."""
    tensors = layer.weights() if isinstance(layer, Supernet) else layer.state_dict()
    records.write(path, record, {name: tensor.numpy() for name, tensor in tensors.items()} | (extra or {}))
