"""Scoring of neighbouring candidates: plain extracted subnets, the walker subnet by subnet, and along shared prefixes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.priors import cost
from paddle_pgonas.progress import progress
from paddle_pgonas.published.reference import golden_values
from paddle_pgonas.scoring.tree import build_tree, scoring_order
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import TRACK1, Arch

OFFICIAL_CODES = (3, 3, 5, 7)
"""Highest width code per stage among the official 45,000."""


def neighbours(count: int, seed: int = 0) -> list[Arch]:
    """Neighbours from the middle of 45,000 sorted architectures sampled like the official ones."""
    rng = random.Random(seed)
    archs = [TRACK1.sample(rng, OFFICIAL_CODES) for _ in range(45_000)]
    order = scoring_order(archs)[22_500 : 22_500 + count]
    return [archs[position] for position in order]


def measure(subnets: int = 256, images: int = 64, side: int = 64, rounds: int = 4) -> dict[str, Any]:
    """Seconds of the three ways, alternating for ``rounds`` rounds, with their ratios and the largest difference of logits."""
    archs = neighbours(subnets)
    net = _random_supernet()
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal((images, 3, side, side)).astype("float32"))
    walkers = {"alone": Walker(net, "running"), "shared": Walker(net, "running")}
    seconds = dict.fromkeys(("extracted", "alone", "shared"), 0.0)
    difference, same = 0.0, True
    peak = _convolution_rate()
    for turn in progress(range(rounds), "benchmark", "rounds"):
        part = archs[turn * subnets // rounds : (turn + 1) * subnets // rounds]
        logits: dict[str, list[np.ndarray]] = {}
        logits["extracted"] = []
        for arch in part:
            subnet = extract(net, arch)  # not timed: only the forward passes are compared
            started = time.perf_counter()
            with paddle.no_grad():
                logits["extracted"].append(subnet(x).numpy())
            seconds["extracted"] += time.perf_counter() - started
        ways: dict[str, Callable[[], list[np.ndarray]]] = {
            "alone": lambda part=part: [_walk(walkers["alone"], [arch], x)[0] for arch in part],
            "shared": lambda part=part: _walk(walkers["shared"], part, x),
        }
        for name, way in ways.items():
            started = time.perf_counter()
            logits[name] = way()
            seconds[name] += time.perf_counter() - started
        for ours, theirs in zip(logits["shared"], logits["extracted"], strict=True):
            difference = max(difference, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
            same = same and bool((ours.argmax(1) == theirs.argmax(1)).all())
    macs_alone = sum(cost.macs(arch, side, 1000) for arch in archs) * images
    rates = {"alone": macs_alone / seconds["alone"], "shared": walkers["shared"].macs / seconds["shared"]}
    return {
        "subnets": subnets,
        "images": images,
        "side": side,
        "seconds": seconds,
        "speedup": seconds["alone"] / seconds["shared"],
        "speedup_over_extracted": seconds["extracted"] / seconds["shared"],
        "loop_over_extracted": seconds["alone"] / seconds["extracted"],
        "macs_ratio": macs_alone / walkers["shared"].macs,
        "macs_per_second": rates,
        "share_of_convolution_rate": {name: rate / peak for name, rate in rates.items()},
        "largest_relative_difference": difference,
        "same_predictions": same,
    }


def _random_supernet() -> Supernet:
    """Random weights with random BatchNorm statistics."""
    net = Supernet(TRACK1)
    for name, tensor in net.weights().items():
        tensor.set_value(golden_values(name, tensor.shape))
    net.eval()
    return net


def _walk(walker: Walker, archs: Sequence[Arch], x: paddle.Tensor) -> list[np.ndarray]:
    logits_of: dict[int, np.ndarray] = {}
    walker.walk(build_tree(archs), x, lambda node, logits: logits_of.update(dict.fromkeys(node.candidates, logits.numpy())))
    return [logits_of[position] for position in range(len(archs))]


def _convolution_rate() -> float:
    """Highest MACs per second of a convolution of favourable size: 128 channels, 16x16, 64 images."""
    x, weight = paddle.randn([64, 128, 16, 16]), paddle.randn([128, 128, 3, 3])
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        F.conv2d(x, weight, padding=1).numpy()
        best = min(best, time.perf_counter() - started)
    return x.size * 128 * 9 / best
