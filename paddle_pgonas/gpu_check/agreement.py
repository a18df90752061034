"""Agreement in float32: with the published code's steps, and of the GPU with the CPU."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import paddle

from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.gpu_check.track1 import STEPS_PER_EPOCH, configuration, random_batch, random_images, start
from paddle_pgonas.gpu_check.training import distance
from paddle_pgonas.published import STEPS
from paddle_pgonas.published.compare import print_differences
from paddle_pgonas.published.reference import first_weights
from paddle_pgonas.published.replay import replay
from paddle_pgonas.scoring import scorer

SAME = {"logits": 1e-4, "gradients": 2e-2, "statistics": 1e-4, "scores": 1e-4}
"""Largest distance of two devices' results, relative to the norm, that rounding explains. Gradients change most: where a value
is zero within rounding, a ReLU passes it on one device only. With TF32, emulated on a CPU, logits are 4.5e-4 apart and gradients
3.3e-2."""


def published(job: Job, steps: int, files: int) -> tuple[str, dict[str, Any]]:
    """Replay the first steps of the first reference files. Raises Failed for a difference that rounding does not explain."""
    wrong = list[str]()
    for path in STEPS[:files]:
        differences = replay(path, job.device, steps=steps)
        print_differences(path, differences)
        wrong += [f"{entry.quantity} in step {entry.step} of {path.name}" for entry in differences if not entry.within]
    if wrong:
        raise Failed(f"not the published steps: {', '.join(wrong)}", {"wrong": wrong})
    return f"steps of the published code, {steps} of each of {files} files: within rounding", {}


def devices(job: Job, space: str, side: int, images: int) -> tuple[str, dict[str, Any]]:
    """The same network on the CPU and on the job's device. Raises Failed if anything differs by more than rounding."""
    ours, theirs = (outcome(replace(job, device=device), space, side, images) for device in (job.device, "cpu"))
    distances = {what: distance(ours[what], theirs[what]) for what in SAME}
    line = ", ".join(f"{what} {value:.1e}" for what, value in distances.items())
    if not all(value <= SAME[what] for what, value in distances.items()):
        raise Failed(f"the GPU differs from the CPU by more than rounding: {line}", distances)
    return f"relative distance of {line}", distances


def outcome(job: Job, space: str, side: int, images: int) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by name, for each key of SAME: of a network with fixed weights, its first step, and calibrated scores after it."""
    run = start(configuration(job, space, side, images, f"score.calibration_images={images}", "score.batch_size=4"))
    net, config, rng = run.net, run.config, random.Random(0)
    for name, tensor in net.weights().items():  # the seed gives other weights on another device
        tensor.set_value(first_weights(name, tensor.shape))
    archs = [config.subspace.largest, config.subspace.smallest, *(config.subspace.sample(rng) for _ in range(6))]
    x, y = random_batch(images, side)
    logits = {}
    with paddle.no_grad():
        for arch in archs[:4]:
            net.set_active_subnet(arch)
            logits[arch.code] = net(x).numpy()
    run.step(STEPS_PER_EPOCH, x, y)
    gradients = {name: weight.grad.numpy() for name, weight in net.named_parameters() if weight.grad is not None}
    statistics = {name: tensor.numpy() for name, tensor in net.weights().items() if name.endswith(("_mean", "_variance"))}
    scores = scorer.score(net, archs, random_images(side, images, images), config.data, config.score)
    return {"logits": logits, "gradients": gradients, "statistics": statistics, "scores": {"of all": scores}}
