"""The scoring job of the command line: plan it, or run it and write the submission with its record."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.data.sources import open_source
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import content_digest, refuse_overwriting, write_json, write_text
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.by_name import with_prior
from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.progress import progress
from paddle_pgonas.runtime import command_line, select_device, versions
from paddle_pgonas.scores.files import Candidate, check_submission, read_candidates, write_scores
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.scorer import chunked
from paddle_pgonas.scoring.session import measure_with, metric_values
from paddle_pgonas.scoring.tree import build_tree, scoring_order, walk_cost
from paddle_pgonas.space.arch import Arch

AGREEMENT = {500: (0.522, 0.69), 1000: (0.659, 0.799), 2500: (0.822, 0.904)}
"""Kendall tau between the rankings by so many images and by 5,000: by top-1 and by likelihood (studies/scoring_choices)."""


def write_submission(
    config: Config,
    weights: str | Path | Sequence[str | Path],
    path: str | Path,
    output: str | Path,
    metric: str = "top1",
    candidates: Sequence[Candidate] | None = None,
    prior: tuple[str, float] | None = None,
) -> None:
    """Score the candidates, write ``output`` (``NAME.json``), ``NAME.metrics.json`` and ``NAME.record.json``, and check the file.

    Args:
        weights: a supernet's weights; of several (few-shot supernets) each scores the candidates of its ``train.depth_ranges``.
            An empty list scores the network of ``model.pretrained`` before any training.
        path: the candidate file.
        metric: one of ``top1``, ``top5``, ``probability`` or ``likelihood`` (``exp(-loss)``); becomes ``acc``.
        candidates: the file's entries to score; all by default.
        prior: name and weight of a prior that is added to the metric, see :func:`~paddle_pgonas.priors.by_name.with_prior`.

    Raises:
        UserError: weights or images do not fit, an output is an input, a file cannot be written, the candidate file changed
            meanwhile, or the prior is the same for all candidates.
    """
    started = time.time()
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    stem = Path(output).with_suffix("")
    refuse_overwriting([output, f"{stem}.metrics.json", f"{stem}.record.json"], [*files, path])
    content = content_digest(path)
    candidates = candidates or read_candidates(path, config.search_space)
    archs = [candidate.arch for candidate in candidates]
    if prior is not None:
        _prior_values(config, prior[0], archs[:1])  # an imported prior that fails must not cost hours of scoring
    measured, sessions = measure_with(config, files, archs, Path(config.output_dir) / "scores")
    if processes.rank() != 0:
        return
    images = len(sessions[0].data.labels)
    if content_digest(path) != content:
        raise UserError(f"{path}: the candidates changed while they were scored; give the command again to score what is new")
    acc = metric_values(measured, metric)
    if prior is not None:
        name, weight = prior
        values = _prior_values(config, name, archs)
        if np.ptp(values) == 0:
            raise UserError(f"--prior {name} is the same for all candidates ({len(archs)}); leave it out")
        acc = with_prior(acc, name, values, weight)
    write_scores(output, candidates, [float(value) for value in acc])
    check_submission(output, candidates, config.search_space)
    _write_metrics(f"{stem}.metrics.json", candidates, measured)
    record = {
        "acc": metric,
        "prior": prior and f"{prior[0]}, weight {prior[1]:g}",
        "bn": config.score.bn,
        "weights": [str(file) for file in files],
        "trained_steps": [session.trained.get("step") for session in sessions],
        "candidates": len(candidates),
        "images": images,
        "seconds": round(time.time() - started, 1),
        "device": sessions[0].device,
        "command": command_line(),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
    write_json(f"{stem}.record.json", record)
    shown = metric if prior is None else f"{metric} with {prior[0]}"
    print(f"{len(candidates)} candidates, {images} images, {shown} {acc.min():.4f} to {acc.max():.4f}: {output}")


def _prior_values(config: Config, name: str, archs: Sequence[Arch]) -> np.ndarray:
    """The prior of each architecture for the configuration's images and classes."""
    prior = config.prior(name)
    return np.array([prior(arch) for arch in progress(archs, name, "subnets")])


def _write_metrics(path: str, candidates: Sequence[Candidate], measured: np.ndarray) -> None:
    """Every metric of every candidate, one line each: ``{"arch1": {"top1": ..., ...}, ...}``."""
    lines = (
        f"{json.dumps(entry.name)}: {json.dumps(dict(zip(METRICS, row.tolist(), strict=True)))}"
        for entry, row in zip(candidates, measured, strict=True)
    )
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def dry_run(config: Config, archs: Sequence[Arch], json_path: str | None) -> None:
    """Print the plan of a scoring job: the MACs with and without sharing, memory, and an estimate of the time."""
    select_device(config.device)
    side, classes = config.data.image_size, config.model.num_classes
    order = [archs[position] for position in scoring_order(archs)]
    chunks = chunked(order)
    costs = [walk_cost(build_tree(chunk), chunk[0], side, classes) for chunk in chunks]
    shared = sum(cost_of.macs for cost_of in costs)
    alone = sum(cost.macs(arch, side, classes) for arch in archs)
    images = _count_images(config)
    calibrating = config.score.calibration_images if config.score.bn == "calibrated" else 0
    rate = _measured_rate(config, chunks[0][:4])
    together = _images_together(config)
    activations = together * _activation_bytes(config, archs)
    plan = {
        "candidates": len(archs),
        "prefixes": sum(cost_of.blocks for cost_of in costs),
        "prefixes_alone": sum(len(arch.blocks) for arch in archs),
        "macs_per_image": shared,
        "macs_per_image_alone": alone,
        "macs_ratio": alone / shared,
        "images": images,
        "calibration_images": calibrating,
        "chunks": len(chunks),
        "activation_bytes": activations,
        "macs_per_second": rate,
        "seconds": shared * (images + calibrating) / rate if images else None,
    }
    print(f"candidates       {plan['candidates']:,} in {plan['chunks']:,} chunks")
    print(f"blocks computed  {plan['prefixes']:,} instead of {plan['prefixes_alone']:,}")
    print(f"per image        {shared:.3e} multiply-accumulates instead of {alone:.3e}: {alone / shared:.3f} times less")
    print(f"activations      at most {activations / 2**20:,.0f} MiB for {together} images at a time")
    print(f"measured here    {rate:.3e} multiply-accumulates per second, one process")
    if images:
        print(f"images           {images:,}" + (f", after calibrating on {calibrating:,}" if calibrating else ""))
        print(f"time             about {_duration(shared * (images + calibrating) / rate)} in one process")
        print_sizes(images, shared / rate, calibrating)
    else:
        print("images           unknown: give data.root for an estimate of the time")
    if json_path:
        write_json(json_path, plan)


def print_sizes(images: int, seconds_per_image: float, calibrating: int = 0) -> None:
    """The time for fewer images, and how much of the ranking they keep; more images can be added to them later.

    Args:
        images: of the whole set.
        calibrating: number of calibration images, which take their time whatever the number of images is.
    """
    fewer = {count: tau for count, tau in AGREEMENT.items() if count < images}
    if fewer:
        print("fewer images     data.val_limit, time, Kendall tau by top-1 and by likelihood with the ranking of 5,000 images")
        print("                 (measured on CIFAR-10, studies/scoring_choices); raise data.val_limit later to add images")
    for count, (top1, likelihood) in fewer.items():
        print(f"{count:>16,} {_duration((count + calibrating) * seconds_per_image):>14} {top1:10.3f} {likelihood:8.3f}")


def _count_images(config: Config) -> int | None:
    if config.data.source == "folder" and config.data.root is None:
        return None
    return len(open_source(config.data, "val", config.model.num_classes).labels)


def _measured_rate(config: Config, archs: Sequence[Arch]) -> float:
    """MACs per second of a short walk over random images, whose number is doubled until the walk takes a second."""
    from paddle_pgonas.scoring.walker import Walker

    net = Supernet(config.search_space, config.model.num_classes, config.model.activation)
    net.eval()
    walker = Walker(net, "running")
    root = build_tree(archs)
    batch = 1
    while True:
        side = config.data.image_size
        x = paddle.rand([batch, 3, side, side])
        walker.macs, started = 0, time.perf_counter()
        walker.walk(root, x, lambda node, logits: logits.numpy())
        seconds = time.perf_counter() - started
        if seconds > 1 or batch * 2 > config.score.batch_size:
            return walker.macs / seconds
        batch *= 2


def _images_together(config: Config) -> int:
    """Largest number of images whose feature maps are in memory together: a batch that is scored, or one that calibrates."""
    score = config.score
    if score.bn != "calibrated":
        return score.batch_size
    return max(score.batch_size, min(score.calibration_batch or score.calibration_images, score.calibration_images))


def _activation_bytes(config: Config, archs: Sequence[Arch]) -> int:
    """Upper bound of a walk's activations for one image: on the deepest path each block's input, inner map, sum and output."""
    kept = {"conv1": 1, "conv2": 3}  # maps of a layer's output shape; an input is the output of the block before
    worst = 0
    for arch in archs[:: max(1, len(archs) // 500)]:
        listed = layers(arch, config.data.image_size)
        worst = max(worst, sum(kept.get(layer.part, 0) * layer.c_out * layer.side**2 for layer in listed))
    return 4 * worst


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
