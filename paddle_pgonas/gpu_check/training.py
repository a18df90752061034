"""Training on the digits in each precision: checkpoints, a kill, a resume, types of the feature maps; and bitwise repetition."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from paddle_pgonas.config.loading import CONFIGS, load_config
from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.gpu_check.track1 import STEPS_PER_EPOCH, configuration, random_batch, start
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import read_arrays
from paddle_pgonas.runtime import PRECISIONS, select_device
from paddle_pgonas.training.run import Run
from paddle_pgonas.training.trainer import open_batches, start_run, train_supernet

PER_EPOCH, BATCH = 5, 16
KILLED_AT = 2 * PER_EPOCH
"""Step whose checkpoint a killed run does not write any more."""
SAME = 0.05
"""Largest distance of two trained networks, relative to their norm, that rounding explains if kernels are not deterministic."""


def settings(job: Job, folder: Path, steps: int) -> list[str]:
    """Overrides of the demo's configuration: few digits, a checkpoint every five steps, a learning rate that rises to the end."""
    epochs = steps // PER_EPOCH
    return [
        *(f"output_dir={folder}", f"device={job.device}", f"train.amp={job.amp}", f"train.batch_size={BATCH}"),
        *(f"data.train_limit={BATCH * PER_EPOCH}", f"train.epochs={epochs}", f"train.warmup_epochs={epochs}"),
        *("train.log_every=1", "train.watch_images=0", "train.watch_subnets=0"),
    ]


def resume(job: Job, steps: int) -> tuple[str, dict[str, Any]]:
    """Train, and train again with a kill and a resume. Raises Failed if the weights or loss scales differ, or types are wrong."""
    whole, cut = (settings(job, job.folder / name, steps) for name in ("whole", "cut"))
    first = read_arrays(train_supernet(load_config(CONFIGS / "demo.yaml", whole)))
    call = f"from {__name__} import train_until_killed; train_until_killed({cut!r})"
    killed = subprocess.run([sys.executable, "-c", call], check=False)
    if killed.returncode != -signal.SIGKILL:
        raise Failed(f"the training that was to be killed ended with status {killed.returncode}")
    second = read_arrays(train_supernet(load_config(CONFIGS / "demo.yaml", cut), resume=True))
    lines = read_json_lines(job.folder / "whole" / "metrics.jsonl")
    details: dict[str, Any] = {
        "distance": distance(first[0], second[0]),
        "loss_scales": [record["loss_scale"] for _, record in (first, second)],
        "losses": [line["loss/largest"] for line in lines],
        "types": types(start_run(config := load_config(CONFIGS / "demo.yaml", whole), open_batches(config))),
    }
    how = "bit for bit" if details["distance"] == 0 else f"but for {details['distance']:.1e}"
    scale = f", loss scale {details['loss_scales'][0].get('scale')}" if job.amp == "fp16" else ""
    line = f"{steps} steps, killed and resumed: the same {how}; maps {_words(details['types'])}{scale}"
    if details["distance"] > (0 if job.device == "cpu" else SAME) or details["loss_scales"][0] != details["loss_scales"][1]:
        raise Failed(f"a resumed run differs: {line}", details)
    if any(found != [PRECISIONS[job.amp].dtype] for found in details["types"].values()):
        raise Failed(f"feature maps are not in {PRECISIONS[job.amp].dtype}: {line}", details)
    return line, details


def train_until_killed(overrides: list[str]) -> None:
    """Train until just before the checkpoint of step KILLED_AT, then die as by the system."""

    def die(net: Supernet, step: int) -> dict[str, float]:
        if step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    train_supernet(load_config(CONFIGS / "demo.yaml", overrides), watch=die)


def types(run: Run) -> dict[str, list[str]]:
    """Types of the outputs of convolutions, BatchNorms and activations in a step."""
    found: dict[str, set[str]] = {}
    for name, layer in run.net.named_sublayers():
        if kind := _kind(name, layer):
            layer.register_forward_post_hook(
                lambda layer, inputs, out, kind=kind: found.setdefault(kind, set()).add(str(out.dtype).rpartition(".")[2])
            )
    run.step(0, *next(run.batches_from(0)))
    return {kind: sorted(names) for kind, names in found.items()}


def _kind(name: str, layer: nn.Layer) -> str | None:
    if name.endswith(".act"):
        return "activations"
    kinds = {nn.Conv2D: "convolutions", nn.BatchNorm2D: "BatchNorms"}
    return next((kind for base, kind in kinds.items() if isinstance(layer, base)), None)


def _words(found: Mapping[str, list[str]]) -> str:
    names = sorted({name for names in found.values() for name in names})
    return names[0] if len(names) == 1 else ", ".join(f"{kind} {'/'.join(names)}" for kind, names in found.items())


def distance(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Norm of the difference of named arrays relative to that of ``theirs``; infinite for other names or values that are none."""
    if ours.keys() != theirs.keys():
        return math.inf
    difference = sum(float(np.square(ours[name].astype(np.float64) - theirs[name]).sum()) for name in ours)
    whole = sum(float(np.square(array.astype(np.float64)).sum()) for array in theirs.values())
    return math.sqrt(difference / whole) if math.isfinite(difference) and whole else math.inf


def repeat(job: Job, space: str, side: int, images: int, steps: int) -> tuple[str, dict[str, Any]]:
    """Run the same steps twice. Raises Failed unless all weights agree bit for bit."""
    select_device(job.device)
    x, y = random_batch(images, side)
    outcomes = []
    for _ in range(2):
        run = start(configuration(job, space, side, images))
        for step in range(steps):
            run.step(STEPS_PER_EPOCH + step, x, y)
        outcomes.append({name: tensor.numpy() for name, tensor in run.net.weights().items()})
        del run
    other = [name for name, array in outcomes[0].items() if not np.array_equal(array, outcomes[1][name], equal_nan=True)]
    what = f"{steps} steps of {images} images at {side} px in {PRECISIONS[job.amp].dtype}"
    if other:
        gap = f"{len(other)} of {len(outcomes[0])} tensors differ, by {distance(*outcomes):.1e} of the norm"
        raise Failed(f"{what}: {gap}", {"differ": other})
    return f"{what} twice: equal bit for bit", {"tensors": len(outcomes[0])}
