"""What a checkpoint says of its run, and what must be equal for another run to go on from it."""

from __future__ import annotations

from typing import Any

from paddle_pgonas import distributed
from paddle_pgonas.config import Config, free_on_resume
from paddle_pgonas.container import Record
from paddle_pgonas.errors import UserError
from paddle_pgonas.runtime import versions


def run_record(config: Config, step: int, loss_scale: dict[str, Any]) -> Record:
    """What the weights after ``step`` steps are, kept with them."""
    model = config.model
    return {
        "space": config.space,
        "activation": model.activation,
        "num_classes": model.num_classes,
        "step": step,
        "processes": distributed.world(),
        "loss_scale": loss_scale,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }


def check_same_run(now: Record, then: Record) -> None:
    """Compare this run's record with a checkpoint's.

    Raises:
        UserError: a key that can change a weight differs, or the number of processes.
    """
    ours, theirs = _flat(now["config"]), _flat(then["config"])
    for key in sorted((set(ours) | set(theirs)) - free_on_resume()):
        if _plain(ours.get(key)) != _plain(theirs.get(key)):
            raise UserError(f"--resume: the run was started with {key}={theirs.get(key)}, now it is {ours.get(key)}")
    if then["processes"] != now["processes"]:
        raise UserError(f"--resume: the run was started with {then['processes']} processes, now there are {now['processes']}")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
