"""The estimate of scoring's memory is an upper bound of what Paddle allocates."""

from __future__ import annotations

import random

import paddle
import pytest
from conftest import TINY, some_archs, tiny_config
from paddle.base import core

from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.scoring.memory import Batch, scoring_memory, statistics_bytes, walk_bytes
from paddle_pgonas.scoring.tree import build_tree
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import MINI, Arch, SearchSpace

needs_reset = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2 cannot reset the peak of its allocations")


def siblings(space: SearchSpace) -> list[Arch]:
    """Many widths of the same few blocks: most accumulators, slices and shortcuts are in memory together."""
    rng = random.Random(0)
    shallow = [space.sample(rng) for _ in range(150)]
    return [arch for arch in shallow if arch.depths == min(other.depths for other in shallow)]


SETS = {"the largest": lambda space: [space.largest], "random": lambda space: some_archs(space, 12), "siblings": siblings}


@needs_reset
@pytest.mark.parametrize("space", [MINI, TINY], ids=["mini", "tiny"])
@pytest.mark.parametrize("name", list(SETS))
@pytest.mark.parametrize("micro_batch", [8, 3])
def test_no_walk_takes_more_than_its_bound(space: SearchSpace, name: str, micro_batch: int) -> None:
    """At the peak of a walk or of a calibration in micro-batches, with all slices of the weights in the cache."""
    archs, side, images = SETS[name](space), 32, 8
    net, root = Supernet(space, 10, "mish"), build_tree(archs)
    net.eval()
    walker = Walker(net, "running")

    def walk() -> None:
        if micro_batch < images:
            batch = paddle.rand([images, 3, side, side])
            walker.calibrate(root, [[batch[start : start + micro_batch] for start in range(0, images, micro_batch)]])
        else:
            walker.walk(root, paddle.rand([images, 3, side, side]), lambda node, logits: logits.numpy())

    walk()
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    walk()
    measured = core.host_memory_stat_peak_value("Allocated", 0) - before
    bound = walk_bytes(root, space, side, 10, Batch(images, micro_batch))
    assert measured <= bound < 2 * measured
    kept = sum(2 * mean.size * 4 for node in _nodes(root) for mean, _ in node.statistics.values())
    assert kept <= statistics_bytes(root)


def _nodes(root):
    yield root
    for child in root.children.values():
        yield from _nodes(child)


def test_low_precision_and_smaller_batches_take_less(tmp_path) -> None:
    def bound(*overrides: str) -> int:
        return scoring_memory(tiny_config(tmp_path, *overrides), [build_tree(some_archs(TINY, 20))], 30).maps

    assert bound("score.amp=fp16") < 0.7 * bound() == 0.7 * bound("score.amp=tf32")
    assert bound("score.calibration_images=20", "score.batch_size=10") < bound()
