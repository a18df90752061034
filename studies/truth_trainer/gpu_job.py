"""What gpu.py trains, as one file: subnets, recipe and decoded images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from lanes import layout, normalisation
from layout import Batches

from paddle_pgonas.config.loading import Config
from paddle_pgonas.io.files import atomic_path
from paddle_pgonas.scores.files import Candidate
from paddle_pgonas.training.schedules import learning_rate


def write_job(
    path: Path,
    config: Config,
    recipe: str,
    entries: list[Candidate],
    batches: Batches,
    train: tuple[Any, Any],
    val: tuple[Any, Any],
) -> None:
    """Write a job file.

    Args:
        path: of the new file.
        recipe: a digest that each result repeats.
        train: images, uint8 [N, S, S, 3], and labels, [N].
        val: the same of the validation images.
    """
    settings, side, classes = config.train, config.data.image_size, config.model.num_classes
    shapes = [layout(entry.arch, side, classes) for entry in entries]
    about = {
        "recipe": recipe,
        "subnets": [
            {"name": entry.name, "arch": entry.arch.code, "stem": one.stem, "blocks": one.blocks}
            for entry, one in zip(entries, shapes, strict=True)
        ],
        "side": side,
        "classes": classes,
        "epochs": settings.epochs,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
        "normalisation": [values.tolist() for values in normalisation(config.data)],
        "batches": {name: getattr(batches, name) for name in ("count", "size", "pad", "flip", "seeds", "streams")},
    }
    steps = settings.epochs * batches.steps
    arrays = {
        "about": np.array(json.dumps(about)),
        "rates": np.array([learning_rate(settings, step, batches.steps, settings.batch_size) for step in range(steps)]),
        **{f"{name}_images": np.asarray(images) for name, (images, _) in (("train", train), ("val", val))},
        **{f"{name}_labels": np.asarray(labels, dtype=np.int16) for name, (_, labels) in (("train", train), ("val", val))},
    }
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
