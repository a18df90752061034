"""Checkpoints of a supernet or a stand-alone subnet: one file each, written atomically; the last few are kept."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddle_pgonas.errors import UserError
from paddle_pgonas.io import outputs, records
from paddle_pgonas.io.files import is_own_file, read_json_lines, remove_left_parts
from paddle_pgonas.io.outputs import wrote
from paddle_pgonas.io.records import Arrays, DamagedFile, Record
from paddle_pgonas.nn.supernet import Supernet, plain_name
from paddle_pgonas.nn.weights import OPTIMIZER, named_weights, put_plain_weights, put_weights, save_weights

TRAINING = "train_supernet"
"""The command whose outputs a run's files are (:mod:`paddle_pgonas.io.outputs`)."""
VELOCITY = "_velocity_0"  # Paddle's suffix for the momentum of a parameter

_CHECKPOINT = re.compile(r"step-\d{8}\.safetensors", re.ASCII)
NEEDED = {"step": int, "processes": int, "loss_scale": dict, "config": dict}
"""Keys that the record of a checkpoint must have, and their types."""


def save_checkpoint(folder: Path, net: nn.Layer, optimizer: paddle.optimizer.Optimizer, record: Record, keep: int) -> Path:
    """Write weights, momentum and the record of the step, then remove all but the last ``keep`` checkpoints."""
    path = folder / name_of(record["step"])
    save_weights(path, net, record, extra=_momentum(net, optimizer))
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def name_of(step: int) -> str:
    """The file name of the checkpoint after ``step`` steps."""
    return f"step-{str(step).rjust(8, '0')}.safetensors"  # a damaged record may hold anything


def checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first: files of exactly the names that :func:`save_checkpoint` gives."""
    return sorted(path for path in folder.glob("step-*.safetensors") if _CHECKPOINT.fullmatch(path.name))


def refuse_overwriting(folder: Path, resume: bool, checkpoint_every: int) -> None:
    """Raise UserError if the folder holds a run that is not to be resumed, one that has lost its checkpoints, or none to resume.

    Checkpoints were lost if there are none after ``checkpoint_every`` epochs; before, a run begins again. A log that no run wrote
    is not replaced either.
    """
    kept, log = checkpoints(folder / "checkpoints"), folder / "metrics.jsonl"
    finished, begun = (folder / "supernet.safetensors").exists(), wrote(TRAINING, folder / "config.yaml")
    lines = [] if kept else read_json_lines(log)
    if is_own_file(log) and log.stat().st_size and not (kept or lines or begun):
        raise UserError(f"{log}: exists, and is not the log of a run; move it away, or choose another output_dir")
    epochs = [line["epoch"] for line in lines if isinstance(line.get("epoch"), int)]
    if not kept and (finished or max(epochs, default=0) >= checkpoint_every):
        raise UserError(f"{folder} holds a run whose checkpoints are missing; choose another output_dir")
    if resume and not (kept or lines or begun):
        raise UserError(
            f"resume=True: {folder} holds no run to continue; correct output_dir, or leave out resume=True to start anew"
        )
    if not resume and (kept or lines):
        raise UserError(
            f"{folder} already holds a run; resume=True continues it, overwrite=True begins anew; or choose another output_dir"
        )


def files_of_run(folder: Path, inputs: Iterable[str]) -> list[Path]:
    """What an earlier run wrote to the folder that a new one must not find: weights, checkpoints, log, curves, measurements.

    Raises UserError where no training wrote the folder's configuration, and for a file among the ``inputs`` of the new run.
    """
    log, weights = folder / "metrics.jsonl", folder / "supernet.safetensors"
    found = [path for path in (weights, log) if is_own_file(path)] + checkpoints(folder / "checkpoints")
    found += [*folder.glob("visualdl/vdlrecords.*.log"), *folder.glob("watched/[0-9]*.json")]
    if found and not wrote(TRAINING, folder / "config.yaml"):
        raise UserError(f"{found[0]}: exists, and is of no run that was begun here; move it away, or choose another output_dir")
    outputs.refuse_overwriting(found, inputs)
    return found


def load_latest(
    folder: Path, net: nn.Layer, optimizer: paddle.optimizer.Optimizer, check: Callable[[Record], None]
) -> Record | None:
    """Load the newest intact checkpoint into network and optimizer and return its record; None if there is no checkpoint.

    A damaged file is named on stderr, and the one before it is used; UserError if all are damaged. Temporary files of a killed
    run are removed. ``check`` is called with the record before anything changes and raises if it is another run's.
    """
    remove_left_parts(folder)
    paths = checkpoints(folder)
    for path in reversed(paths):
        try:
            arrays, record = records.read(path)
            if wrong := [key for key, kind in NEEDED.items() if not isinstance(record.get(key), kind)]:
                raise DamagedFile(f"{path}: its record lacks {wrong[0]!r}")
            if path.name != name_of(record["step"]):
                raise DamagedFile(f"{path}: holds step {record['step']}, not that of its name")
        except DamagedFile as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        check(record)
        try:
            weights = named_weights(path, arrays)
            momentum, used = _momentum_of(path, net, arrays)
            if isinstance(net, Supernet):
                put_weights(net, path, weights, record)
            else:
                put_plain_weights(net, path, weights)
        except UserError as error:  # the configuration is that of the run, so the file must be damaged
            print(f"skipped: {error}", file=sys.stderr)
            continue
        # Paddle accepts a state of all parameters or of none; that of an unused one is read at its first use.
        optimizer.set_state_dict(momentum)
        zero_gradients(used)
        return record
    if paths:
        raise UserError(f"{folder}: all checkpoints are damaged; choose another output_dir to start again")
    return None


def _parameters(net: nn.Layer) -> dict[str, paddle.Tensor]:
    """Parameters by the challenge's name."""
    layer = net.model if isinstance(net, Supernet) else net
    return {plain_name(name): parameter for name, parameter in layer.named_parameters()}


def _momentum(net: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> Arrays:
    """Momentum by the parameter's structured name: Paddle's own names number the layers of a process and are not stable."""
    state = optimizer.state_dict()
    named = {OPTIMIZER + name: state.get(parameter.name + VELOCITY) for name, parameter in _parameters(net).items()}
    return {name: momentum.numpy() for name, momentum in named.items() if momentum is not None}


def _momentum_of(path: Path, net: nn.Layer, arrays: Arrays) -> tuple[dict[str, paddle.Tensor], list[paddle.Tensor]]:
    """The optimizer's state, and the parameters that have a momentum: the optimizer must find a gradient of theirs."""
    state, used = {}, []
    for name, parameter in _parameters(net).items():
        value = arrays.get(OPTIMIZER + name)
        if value is not None:
            used.append(parameter)
            if list(value.shape) != list(parameter.shape):
                raise DamagedFile(f"{path}: the momentum of {name} has shape {list(value.shape)}, not {parameter.shape}")
        state[parameter.name + VELOCITY] = paddle.zeros_like(parameter) if value is None else paddle.to_tensor(np.asarray(value))
    return state, used


def zero_gradients(parameters: list[paddle.Tensor]) -> None:
    """Set the gradient of each of these trained parameters to zero, as ``clear_grad`` does after a step.

    A block that the next step does not use is then still updated by momentum and weight decay; without a gradient the optimizer
    would skip it until its first use in this process.
    """
    if trained := [parameter.sum() for parameter in parameters if not parameter.stop_gradient]:
        (paddle.add_n(trained) * 0.0).backward()
