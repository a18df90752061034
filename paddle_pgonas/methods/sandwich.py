"""The sandwich rule (BigNAS, arXiv 2003.11142) with in-place distillation, also with fair sampling (FairNAS, arXiv 1907.01845).

A step, gradients summed:

1. the largest subnet learns from the labels; its logits, detached, are the teacher;
2. the smallest subnet learns from the teacher;
3. so do ``random_subnets`` random ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from paddle_pgonas.methods.base import Distilling, Metrics, Parts, RandomSubnets, Step, Strategy
from paddle_pgonas.methods.published import pgonas_sampler
from paddle_pgonas.methods.sampling import Sampling
from paddle_pgonas.schema import Integer, key
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.subspace import Subspace

if TYPE_CHECKING:
    import paddle

    from paddle_pgonas.nn.supernet import Supernet


class SandwichBase(Distilling):
    """Options of every sandwich."""

    label_epochs: Integer = key(0, at_least=0)
    """Number of first epochs in which the smaller subnets learn from the labels. Distillation from an untrained teacher slows
    training; a pretrained network needs none (as published)."""

    def start(self, parts: Parts) -> Strategy:
        """The sandwich with these options."""
        return Sandwich(self, parts.subspace, self.subnets(parts))


class SandwichOptions(SandwichBase, Sampling):
    """Random subnets from a sampler."""

    name: Literal["sandwich"] = "sandwich"
    published = staticmethod(pgonas_sampler)


class FairSandwichOptions(SandwichBase):
    """Random subnets whose depths and widths are sampled without replacement within a step."""

    name: Literal["fair_sandwich"] = "fair_sandwich"

    def subnets(self, parts: Parts) -> RandomSubnets:
        """Fair samples."""
        return lambda step: fair_subnets(parts.subspace, step.rng, self.random_subnets)


def fair_subnets(subspace: Subspace, rng: random.Random, count: int) -> list[Arch]:
    """Depths and widths sampled without replacement; with more architectures than values a new round of values begins."""

    def values(low: int, high: int) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < count:
            chosen += rng.sample(range(low, high + 1), high + 1 - low)
        return chosen[:count]

    depths = [values(*bounds) for bounds in subspace.depths]
    conv2 = [values(1, code) for code in subspace.codes]
    conv1 = [[values(1, code) for _ in range(most)] for code, (_, most) in zip(subspace.codes, subspace.depths, strict=True)]
    archs = []
    for i in range(count):
        stages = zip(conv1, depths, strict=True)
        mids = tuple(tuple(mid[i] for mid in of_stage[: depth[i]]) for of_stage, depth in stages)
        archs.append(subspace.space.build(mids, tuple(out[i] for out in conv2)))
    return archs


@dataclass
class Sandwich:
    """Largest subnet with labels, then the smallest and random ones with its logits (or at first with labels)."""

    options: SandwichBase
    subspace: Subspace
    subnets: RandomSubnets

    def __call__(self, net: Supernet, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """See :class:`~paddle_pgonas.methods.base.Strategy`."""
        from paddle_pgonas.methods.losses import cross_entropy

        metrics = Metrics()
        net.set_active_subnet(self.subspace.largest)
        logits = net(x)
        loss = cross_entropy(logits, y)
        step.backward(loss)
        metrics.add("largest", loss)
        metrics.note_accuracy(logits, y)

        with_labels = step.epoch < self.options.label_epochs
        target, loss_of = (y, cross_entropy) if with_labels else (logits.detach(), self.options.distil())
        smaller = [("smallest", self.subspace.smallest), *(("random", arch) for arch in self.subnets(step))]
        for kind, arch in smaller:
            net.set_active_subnet(arch)
            loss = loss_of(net(x), target)
            step.backward(loss)
            metrics.add(kind, loss)
        return metrics
