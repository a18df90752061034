"""Checkpoints of a run: one safetensors file each, written atomically, the last few kept, a damaged one passed over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet, plain_name
from paddle_pgonas.nn.weights import OPTIMIZER, Arrays, Record, load_weights, read_arrays, save_weights

VELOCITY = "_velocity_0"  # Paddle's name for the momentum of a parameter, behind the parameter's own


def save_checkpoint(folder: Path, net: Supernet, optimizer: paddle.optimizer.Optimizer, record: Record, keep: int) -> Path:
    """Write weights, momentum and the record of the step, then remove all but the last ``keep`` checkpoints."""
    path = folder / f"step-{record['step']:08d}.safetensors"
    save_weights(path, net, record, extra=_momentum(net, optimizer))
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def load_latest(folder: Path, net: Supernet, optimizer: paddle.optimizer.Optimizer) -> Record | None:
    """Put the newest whole checkpoint into network and optimizer and return its record; None if there is none.

    A file that is damaged is named on stderr, and the one before it is taken.
    """
    for path in reversed(checkpoints(folder)):
        try:
            arrays, record = read_arrays(path)
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
            continue
        load_weights(net, path)
        _set_momentum(net, optimizer, arrays)
        return record
    return None


def _momentum(net: Supernet, optimizer: paddle.optimizer.Optimizer) -> Arrays:
    """Momentum by the parameter's structured name: Paddle's own names count layers per process and do not last."""
    state = optimizer.state_dict()
    found = {}
    for name, parameter in net.model.named_parameters():
        if parameter.name + VELOCITY in state:
            found[OPTIMIZER + plain_name(name)] = state[parameter.name + VELOCITY].numpy()
    return found


def _set_momentum(net: Supernet, optimizer: paddle.optimizer.Optimizer, arrays: Arrays) -> None:
    """Give each parameter that has one its momentum, and the gradient of zero that says that a step has used it."""
    state: dict[str, Any] = {}
    used = []
    for name, parameter in net.model.named_parameters():
        value = arrays.get(OPTIMIZER + plain_name(name))
        if value is not None:
            used.append(parameter)
        # Paddle takes a state of all parameters or of none; that of an unused one is looked at on its first use.
        state[parameter.name + VELOCITY] = paddle.zeros_like(parameter) if value is None else paddle.to_tensor(np.asarray(value))
    optimizer.set_state_dict(state)
    zero_gradients(used)


def zero_gradients(parameters: list[paddle.Tensor]) -> None:
    """Give every trained parameter of these a gradient of zero, as ``clear_grad`` leaves it after a step.

    A block that the next step does not use then moves on by its momentum and weight decay; without a gradient the optimizer
    would pass it over until its first use in this process.
    """
    if trained := [parameter.sum() for parameter in parameters if not parameter.stop_gradient]:
        (paddle.add_n(trained) * 0.0).backward()
