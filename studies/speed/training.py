"""A PGONAS step: that of this project, that of the published code, and only the necessary forward and backward passes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_pgonas.methods.base import Parts, Step
from paddle_pgonas.methods.losses import cross_entropy, soft_cross_entropy
from paddle_pgonas.methods.pgonas import PgonasOptions
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.progress import progress
from paddle_pgonas.space.arch import TRACK1, Arch
from paddle_pgonas.space.subspace import Subspace

OPTIONS = PgonasOptions(rank_lambda="constant")  # from the first step on, so that the pairs run


def measure() -> dict[str, Any]:
    """At batch 4, and under ``batch_32`` at batch 32."""
    return measure_steps() | {"batch_32": measure_steps(batch=32)}


def measure_steps(batch: int = 4, side: int = 64, steps: int = 3) -> dict[str, Any]:
    """Seconds of each way for the same ``steps`` steps, alternating, and their ratios.

    ``passes`` runs the forward and backward passes that change a weight on plain networks built beforehand: no slicing, no
    sampling, no optimizer. ``overhead`` is this project's time over that, ``speedup`` the published step's over this project's.
    """
    rng = np.random.RandomState(0)
    x = paddle.to_tensor(rng.standard_normal((batch, 3, side, side)).astype("float32"))
    y = paddle.to_tensor(rng.randint(0, 1000, batch))
    paddle.seed(0)
    net = Supernet(TRACK1)
    net.train()
    teacher = extract(net, TRACK1.largest)
    teacher.eval()
    optimizer = paddle.optimizer.Momentum(1e-4, 0.9, net.model.parameters())
    parts = Parts(Subspace(TRACK1), 0, lambda name: make_prior(name, TRACK1, 224, 1000), lambda path: teacher)
    strategy = OPTIONS.start(parts)

    def ours(seed: int) -> None:
        strategy(net, x, y, Step(random.Random(seed)))
        optimizer.step()
        optimizer.clear_grad()

    def straightforward(seed: int) -> None:
        _straightforward(net, teacher, x, y, random.Random(seed))
        optimizer.step()
        optimizer.clear_grad()

    ours(0)  # the first step fills caches and creates the optimizer's state
    seconds = dict.fromkeys(("straightforward", "ours", "passes"), 0.0)
    for seed in progress(range(1, steps + 1), "benchmark", "steps"):
        networks = _networks(net, random.Random(seed))
        ways: dict[str, Callable[[int], None]] = {
            "straightforward": straightforward,
            "ours": ours,
            "passes": lambda seed, networks=networks: _passes(networks, x, y),
        }
        for name, way in ways.items():
            started = time.perf_counter()
            way(seed)
            seconds[name] += time.perf_counter() - started
    return {
        "batch": batch,
        "side": side,
        "steps": steps,
        "seconds_per_step": {name: value / steps for name, value in seconds.items()},
        "speedup": seconds["straightforward"] / seconds["ours"],
        "overhead": seconds["ours"] / seconds["passes"],
    }


def _straightforward(net: Supernet, teacher: ResNet, x: paddle.Tensor, y: paddle.Tensor, rng: random.Random) -> None:
    """The step of the published code: a teacher beside every forward pass, FLOPs by building networks, every backward pass."""

    def logits(arch: Arch) -> paddle.Tensor:
        with paddle.no_grad():
            teacher(x)
        net.set_active_subnet(arch)
        return net(x)

    largest = logits(TRACK1.largest)
    cross_entropy(largest, y).backward()
    for arch in (TRACK1.smallest, *(TRACK1.sample(rng) for _ in range(OPTIONS.random_subnets))):
        soft_cross_entropy(logits(arch), largest.detach()).backward()
    for _ in range(OPTIONS.pairs):
        first, second = TRACK1.sample(rng), TRACK1.sample(rng)
        flops = [paddle.flops(ResNet(arch, 1000, "relu"), [1, 3, 224, 224]) for arch in (first, second)]
        loss_first, loss_second = cross_entropy(logits(first), y).detach(), cross_entropy(logits(second), y)
        pair = (loss_second, loss_first) if flops[1] > flops[0] else (loss_first, loss_second)
        F.relu(pair[0] - pair[1]).backward()


def _networks(net: Supernet, rng: random.Random) -> list[tuple[ResNet, ResNet | None]]:
    """The step's subnets as plain networks in training mode; a pair's two members together."""
    archs = [TRACK1.largest, TRACK1.smallest, *(TRACK1.sample(rng) for _ in range(OPTIONS.random_subnets))]
    singles = [(extract(net, arch), None) for arch in archs]
    pairs = [(extract(net, TRACK1.sample(rng)), extract(net, TRACK1.sample(rng))) for _ in range(OPTIONS.pairs)]
    return [*singles, *pairs]


def _passes(networks: list[tuple[ResNet, ResNet | None]], x: paddle.Tensor, y: paddle.Tensor) -> None:
    """The necessary passes: forward and backward of each subnet; for a pair the second's backward only if it is out of order."""
    for first, second in networks:
        if second is None:
            cross_entropy(first(x), y).backward()
            continue
        with paddle.no_grad():
            loss_first = cross_entropy(first(x), y)
        loss_second = cross_entropy(second(x), y)
        better_second = cost.macs(second.arch, 224, 1000) > cost.macs(first.arch, 224, 1000)
        hinge = F.relu(loss_second - loss_first if better_second else loss_first - loss_second)
        if float(hinge) > 0:
            hinge.backward()
