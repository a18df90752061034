"""Short trainings on the digits, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import TINY_CONFIG

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.methods import METHODS
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import read_arrays

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


OF_METHODS = {name for options in METHODS.values() for name in options.model_fields}


def config(folder: Path, method: str | None = None, **settings: Any) -> Config:
    """Five steps of the demo's method, or of another one, with these keys of ``train`` or of the method."""
    base = load_config(TINY_CONFIG, ["train.watch_images=0", "train.watch_subnets=0", "train.batch_size=32"])
    own = {name: settings.pop(name) for name in list(settings) if name in OF_METHODS} | ({"name": method} if method else {})
    train = {"epochs": 2, "max_steps": 5, "log_every": 1} | settings
    return base.changed(output_dir=str(folder), method=own, train=train)


def weights(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path)[0]


def plain(net: Supernet) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net.weights().items()}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
