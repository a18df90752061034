"""Short trainings on the digits, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import read_arrays

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def config(folder: Path, **train_settings: Any) -> Config:
    base = load_config(CONFIGS / "demo.yaml", ["train.watch_images=0", "train.watch_subnets=0", "train.batch_size=32"])
    if train_settings.get("strategy", "pgonas") != "pgonas":
        train_settings = {"stretch_lambda": False, "rank_gradient": "second"} | train_settings
    if train_settings.get("strategy") == "uniform":
        train_settings = {"label_epochs": 0} | train_settings
    return base.changed(output_dir=str(folder), train={"epochs": 2, "max_steps": 5, "log_every": 1} | train_settings)


def weights(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path)[0]


def plain(net: Supernet) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net.weights().items()}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
