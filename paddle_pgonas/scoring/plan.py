"""The plan of a scoring job: what its prefix tree saves, memory, time, and what fewer images would do to the ranking."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle

from paddle_pgonas.config.loading import Config, Score
from paddle_pgonas.data.images import open_images
from paddle_pgonas.io.files import write_json
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.priors import cost
from paddle_pgonas.progress import progress, say_once
from paddle_pgonas.runtime import compute_dtype, select_device, tf32
from paddle_pgonas.scoring.memory import scoring_memory
from paddle_pgonas.scoring.scorer import chunked
from paddle_pgonas.scoring.smoothing import TOGETHER, Sample, Smoothing
from paddle_pgonas.scoring.tree import Cost, Node, build_tree, scoring_order, walk_cost
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import Arch

FEWER_IMAGES = json.loads((Path(__file__).parent / "fewer_images.json").read_text(encoding="utf-8"))
"""How well rankings by fewer images agree with that by all, as a study measured it; the file names its source."""


def dry_run(config: Config, archs: Sequence[Arch], json_path: str | None, sample: Sample | None = None) -> None:
    """Print the plan of a scoring job: the MACs with and without sharing, memory, and an estimate of the time.

    With a ``sample`` only its architectures are scored; errors as of :class:`~paddle_pgonas.scoring.smoothing.Smoothing`.
    """
    select_device(config.device, config.exhaustive_search)
    images = len(open_images(config).val_source.labels) if config.data.given else None
    side, classes = config.data.image_size, config.model.num_classes
    step = len(archs)
    if sample is not None:
        archs, step = [archs[position] for position in Smoothing(archs, sample, side, classes).positions], TOGETHER
    parts = [archs[start : start + step] for start in range(0, len(archs), step)]
    chunks = [chunk for part in parts for chunk in chunked([part[position] for position in scoring_order(part)])]
    costs: list[Cost] = []

    def trees() -> Iterator[Node]:  # each is large, and read by both counts
        for chunk in progress(chunks, "counting", "chunks"):
            tree = build_tree(chunk)
            costs.append(walk_cost(tree, chunk[0], side, classes))
            yield tree

    memory = scoring_memory(config, trees(), images or 0)
    shared = sum(cost_of.macs for cost_of in costs)
    alone = sum(cost.macs(arch, side, classes) for arch in archs)
    settings = config.score
    calibrating = settings.calibration_images if settings.bn == "calibrated" else 0
    net = Supernet(config.search_space, classes, config.model.activation)
    say_once("timing a few subnets on this machine", error=False)
    rate = _measured_rate(net, chunks[0][:4], side, settings)
    seconds = shared * (images + calibrating) / rate if images else None
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
        "memory_bytes": memory.total,
        "map_bytes": memory.maps,
        "macs_per_second": rate,
        "seconds": seconds,
    }
    _print_plan(plan)
    if json_path:
        write_json(json_path, plan)


def _print_plan(plan: Mapping[str, Any]) -> None:
    macs, alone, images, calibrating = (
        plan[name] for name in ("macs_per_image", "macs_per_image_alone", "images", "calibration_images")
    )
    print(f"candidates       {plan['candidates']:,} in {plan['chunks']:,} chunks")
    print(f"blocks computed  {plan['prefixes']:,} instead of {plan['prefixes_alone']:,}")
    print(f"per image        {macs:.3e} multiply-accumulates instead of {alone:.3e}: {plan['macs_ratio']:.3f} times less")
    maps, rest = plan["map_bytes"] / 2**20, (plan["memory_bytes"] - plan["map_bytes"]) / 2**20
    print(f"memory           at most {maps:,.0f} MiB of feature maps, {rest:,.0f} MiB of weights, images and workspace")
    print(f"measured here    {plan['macs_per_second']:.3e} multiply-accumulates per second, one process")
    if images:
        print(f"images           {images:,}" + (f", after calibrating on {calibrating:,}" if calibrating else ""))
        print(f"time             about {_duration(plan['seconds'])} in one process")
        print_sizes(images, macs / plan["macs_per_second"], calibrating)
    else:
        print("images           unknown: give data.root for an estimate of the time")


def print_sizes(images: int, seconds_per_image: float, calibrating: int = 0) -> None:
    """The time for fewer than all ``images``, each time after ``calibrating`` on some, and how much of the ranking they keep."""
    fewer = {int(count): tau for count, tau in FEWER_IMAGES["kendall"].items() if int(count) < images}
    if fewer:
        whole = f"the ranking of {FEWER_IMAGES['images']:,} images"
        print(f"fewer images     data.val_limit, time, Kendall tau with {whole} by {', '.join(next(iter(fewer.values())))}")
        print(f"                 (measured on {FEWER_IMAGES['source']}); raise data.val_limit later to add images")
    for count, tau in fewer.items():
        duration = _duration((count + calibrating) * seconds_per_image)
        print(f"{count:>16,} {duration:>14}   " + " ".join(f"{value:8.3f}" for value in tau.values()))


def _measured_rate(net: Supernet, archs: Sequence[Arch], side: int, settings: Score) -> float:
    """MACs per second of a walk over random images, whose number is doubled (to a batch) until it takes a second.

    A CPU measures in float32 what is to be scored with low precision on a GPU.
    """
    net.eval()
    amp = "off" if paddle.get_device() == "cpu" else settings.amp
    walker = Walker(net, "running", compute_dtype(amp, "score.amp"))
    root, batch, seconds = build_tree(archs), 1, 0.0
    with tf32(amp):
        while seconds <= 1 and batch <= settings.batch_size:
            x = paddle.rand([batch, 3, side, side])
            walker.macs, started = 0, time.perf_counter()
            walker.walk(root, x, lambda node, logits: logits.numpy())
            seconds = time.perf_counter() - started
            batch *= 2
    return walker.macs / seconds


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
