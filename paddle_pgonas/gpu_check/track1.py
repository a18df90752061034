"""The real network on random images: speed and memory of training and scoring, and what is said when memory runs out."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from paddle_pgonas.config.loading import CONFIGS, Config, load_config
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_check import hours
from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.runtime import DEVICE_ERRORS, out_of_memory, select_device
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scoring import scorer
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.memory import scoring_memory
from paddle_pgonas.scoring.tree import build_tree, scoring_order, walk_cost
from paddle_pgonas.training.memory import check_memory, training_bytes
from paddle_pgonas.training.run import Run
from paddle_pgonas.training.trainer import start_run, without_images

STEPS_PER_EPOCH = 100
SAME = {"off": 1e-3, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference of a loss, relative to it, that rounding explains, by precision."""
LEAST_KENDALL = 0.9
"""Of rankings by a random network in two precisions: its subnets differ little, so rounding reorders many."""


def configuration(job: Job, space: str, side: int, images: int, *overrides: str) -> Config:
    """PGONAS from random weights at this size, with pairs in every step."""
    options = [f"space={space}", "model.pretrained=null", "method.rank_lambda=constant"]
    options += [f"data.image_size={side}", f"data.resize={side}", f"train.batch_size={images}"]
    options += [f"train.amp={job.amp}", f"score.amp={job.amp}", f"device={job.device}"]
    return load_config(CONFIGS / "track1" / "pgonas_prelu_flops.yaml", [*options, *overrides])


def start(config: Config) -> Run:
    """A run of the configuration without images of its own, on its device."""
    select_device(config.device, config.exhaustive_search)
    return start_run(config, without_images(STEPS_PER_EPOCH))


def random_batch(images: int, side: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Images [N, 3, S, S] and labels [N], the same in every process."""
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((images, 3, side, side), np.float32)
    return paddle.to_tensor(pixels), paddle.to_tensor(rng.integers(0, 1000, images))


class Peak:
    """Most memory since this was made: allocated by Paddle on a GPU, resident in addition on a CPU."""

    def __init__(self) -> None:
        self.before = 0
        if paddle.get_device() == "cpu":
            with open("/proc/self/statm", encoding="ascii") as file:
                self.before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def bytes(self) -> int:
        """The most so far."""
        if paddle.get_device() == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before
        return int(paddle.device.cuda.max_memory_allocated())


def train(
    job: Job, space: str, side: int, batches: Sequence[int], steps: int, overrides: Sequence[str] = ()
) -> tuple[str, dict[str, Any]]:
    """PGONAS steps with growing batches until one does not fit: images per second, and peak memory against the estimate.

    Raises Failed if not even the first batch fits, or a peak is below the estimate, which is promised to be a lower bound.
    """
    select_device(job.device)
    peak = Peak()
    run = start(configuration(job, space, side, batches[0], *overrides))
    rows, refusal = list[dict[str, Any]](), ""
    for images in batches:
        try:
            rows.append(_timed(run, side, images, steps) | {"peak_bytes": peak.bytes()})
        except Failed:
            raise
        except (UserError, *DEVICE_ERRORS) as error:
            if not (isinstance(error, UserError) or out_of_memory(error)):
                raise
            refusal = str(error)
            break
    if not rows:
        raise Failed(f"not even {batches[0]} images train: {refusal}")
    best, last = max(row["images_per_second"] for row in rows), rows[-1]
    details: dict[str, Any] = {"space": space, "side": side, "batches": rows, "refusal": refusal, "images_per_second": best}
    details["macs_per_second"] = best * hours.training_macs(run.config.search_space, side)["PGONAS"]
    sizes = f"peak {_gib(last['peak_bytes'])}, estimated {_gib(last['estimate_bytes'])} or more"
    if wrong := [row["images"] for row in rows if row["peak_bytes"] < row["estimate_bytes"]]:
        raise Failed(f"batch {wrong[0]} takes less memory than estimated; largest batch {last['images']}: {sizes}", details)
    return f"{space} at {side} px: batch {last['images']} trains, {sizes}; {best:.3g} images/s", details


def _timed(run: Run, side: int, images: int, steps: int) -> dict[str, Any]:
    """Steps on a batch of this size, run once before they are timed, so that kernels are chosen and subnets are the same."""
    run.settings = run.config.changed(train={"batch_size": images}).train
    everything = layers(run.config.subspace.largest, side, 1000)
    check_memory(everything, run.settings)
    x, y = random_batch(images, side)
    for _ in range(2):
        started = time.perf_counter()
        for step in range(steps):
            metrics = run.step(STEPS_PER_EPOCH + step, x, y)
        losses = [float(loss) for _, loss in metrics.losses]  # waits for the device
        seconds = time.perf_counter() - started
    if not np.isfinite(losses).all():
        raise Failed(f"batch {images}: losses that are not numbers: {losses}")
    estimate = training_bytes(everything, run.settings.amp, images)
    return {"images": images, "images_per_second": images * steps / seconds, "estimate_bytes": estimate}


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def score(
    job: Job,
    space: str,
    side: int,
    narrowest: list[int],
    candidates: int,
    batches: Sequence[int],
    calibration: int,
    overrides: Sequence[str] = (),
) -> tuple[str, dict[str, Any]]:
    """Calibrated scores of random candidates with several batch sizes: rate, peak memory, agreement with each other and float32.

    ``narrowest`` limits their widths as ``train.narrowest_codes`` does. Raises Failed if the batches disagree by more than
    rounding, the ranking is not that in float32, or, on a GPU, the peak exceeds the estimate, which is promised to be a bound.
    """
    limits = f"score.calibration_images={calibration}", f"train.narrowest_codes={narrowest}"
    config = configuration(job, space, side, 8, *limits, *overrides)
    select_device(config.device, config.exhaustive_search)
    rows, losses = _scored(config, candidates, batches)
    details: dict[str, Any] = {"space": space, "side": side, "batches": rows, "loss": losses[0].tolist()}
    details["macs_per_second"] = max(row["macs_per_second"] for row in rows)
    details["between_batches"] = difference = _largest(losses[0], losses[-1])
    agreement, tau = f"batches differ by {difference:.1e}", 1.0
    if "scoring" in job.earlier and job.amp != "off":
        exact = np.array(job.earlier["scoring"]["loss"])
        details["kendall_with_float32"] = tau = kendall(exact, losses[0])
        details["from_float32"] = apart = _largest(exact, losses[0])
        agreement, difference = f"{agreement}, from float32 by {apart:.1e} (Kendall tau {tau:.3f})", max(difference, apart)
    peak, bound = (max(row[key] for row in rows) for key in ("peak_bytes", "estimate_bytes"))
    sizes = f"peak {_gib(peak)}, estimated {_gib(bound)} at most"
    line = f"{candidates} candidates of {space} at {side} px: {details['macs_per_second']:.2e} MACs/s, {agreement}, {sizes}"
    if difference > SAME[job.amp] or tau < LEAST_KENDALL:
        raise Failed(f"scores differ by more than rounding: {line}", details)
    if job.device != "cpu" and any(row["peak_bytes"] > row["estimate_bytes"] for row in rows):
        raise Failed(f"takes more memory than estimated: {line}", details)
    return line, details


def _scored(config: Config, candidates: int, batches: Sequence[int]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """For each batch size a row with rate and memory, and the losses [candidates] on the same images."""
    peak, rows, losses = Peak(), list[dict[str, Any]](), list[np.ndarray]()
    paddle.seed(0)
    net, rng = Supernet(config.search_space, 1000, config.model.activation), random.Random(0)
    archs = [config.subspace.sample(rng) for _ in range(candidates)]
    side, calibration, count = config.data.image_size, config.score.calibration_images, max(batches)
    images, chunks = random_images(side, count, calibration), scorer.chunked([archs[i] for i in scoring_order(archs)])
    work = sum(walk_cost(build_tree(chunk), chunk[0], side, 1000).macs for chunk in chunks) * (count + calibration)
    for batch in batches:
        changed = config.changed(score={"batch_size": batch})
        settings, bound = changed.score, scoring_memory(changed, map(build_tree, chunks), count).total
        scorer.score(net, archs[:2], images, config.data, settings)  # loads what the device needs
        started = time.perf_counter()
        losses.append(scorer.score(net, archs, images, config.data, settings)[:, METRICS.index("loss")])
        rate = work / (time.perf_counter() - started)
        rows.append({"batch": batch, "macs_per_second": rate, "peak_bytes": peak.bytes(), "estimate_bytes": bound})
    return rows, losses


def random_images(side: int, count: int, calibration: int) -> DecodedImages:
    """Random images to score on, and others to calibrate on."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count + calibration, side, side, 3), np.uint8)
    labels = rng.integers(0, 1000, count)
    return DecodedImages(pixels[:count], labels, "random", np.arange(count), count, pixels[count:])


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the values."""
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


LEFT = 2**30
"""Bytes of address space that a CPU's process may still take, as if that were the memory of its device."""
BLOCK = 2**26


def exhaust(job: Job, space: str, side: int, images: int) -> tuple[str, dict[str, Any]]:
    """Fill the memory, then train a step: the line that a user reads. Raises Failed if another exception comes out, or none."""
    run = start(configuration(job, space, side, images))
    x, y = random_batch(images, side)
    _timed(run, side, 1, 1)  # loads what the device needs
    run.settings = run.config.train
    if job.device == "cpu":
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + LEFT, resource.RLIM_INFINITY))
    filled = list[paddle.Tensor]()
    try:
        while True:
            filled.append(paddle.ones([BLOCK], "uint8"))
    except DEVICE_ERRORS as error:
        if not out_of_memory(error):
            raise
    try:
        run.step(0, x, y)
    except UserError as error:
        if "out of memory" in str(error):
            return f"after {len(filled) * BLOCK / 2**30:.1f} GiB: {error}", {}
        raise
    raise Failed(f"a step of {images} images ran although {len(filled) * BLOCK / 2**30:.1f} GiB filled the memory")
