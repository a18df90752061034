"""Walking the tree of shared prefixes gives the logits of each subnet alone, for the work that was planned."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest
from conftest import REPOSITORY, alone, flops, golden_supernet, some_archs

from paddle_pgonas.nn.elastic import calibrate
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.priors import cost
from paddle_pgonas.scores.files import read_candidates
from paddle_pgonas.scoring.tree import build_tree, scoring_order, walk_cost
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import MINI, TRACK1

OFFICIAL = REPOSITORY.parent / "shared" / "data" / "CVPR_2022_NAS_Track1_test.json"


def images(count: int, side: int, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(seed).standard_normal((count, 3, side, side)).astype("float32"))


@pytest.mark.parametrize("bn", ["running", "calibrated", "batch"])
def test_shared_prefixes_give_the_logits_of_extracted_subnets(bn: str) -> None:
    net, archs = golden_supernet(), some_archs(MINI, 16)
    calibration, x = images(16, 16, seed=1), images(8, 16)
    walker, root = Walker(net, bn), build_tree(archs)
    if bn == "calibrated":
        walker.calibrate(root, [[calibration]])
    before = {name: tensor.numpy().copy() for name, tensor in net.weights().items()}
    found: dict[int, np.ndarray] = {}
    walker.walk(root, x, lambda node, logits: found.update({position: logits.numpy() for position in node.candidates}))
    assert len(found) == len(archs)
    for position, arch in enumerate(archs):
        wanted = alone(net, arch, bn, calibration, x)
        assert np.abs(found[position] - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert all((before[name] == tensor.numpy()).all() for name, tensor in net.weights().items())


@pytest.mark.parametrize("micro_batch", [5, 16])
def test_calibration_in_batches_is_the_average_of_their_statistics_however_they_are_cut(micro_batch: int) -> None:
    net, archs = golden_supernet(), some_archs(MINI, 6)
    batches, x = [images(16, 16, seed=1), images(16, 16, seed=2), images(9, 16, seed=3)], images(8, 16)
    walker, root = Walker(net, "calibrated"), build_tree(archs)
    walker.calibrate(root, ([x[start : start + micro_batch] for start in range(0, len(x), micro_batch)] for x in batches))
    logits: dict[int, np.ndarray] = {}
    walker.walk(root, x, lambda node, values: logits.update({position: values.numpy() for position in node.candidates}))
    for position, arch in enumerate(archs):
        subnet = extract(net, arch)
        calibrate(subnet, batches)
        wanted = subnet(x).numpy()
        assert np.abs(logits[position] - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_track1_prefixes_give_the_logits_of_extracted_subnets() -> None:
    net = golden_supernet(TRACK1)
    base = TRACK1.sample(random.Random(1))
    # Neighbours that differ in one place each, so that every kind of sharing occurs.
    archs = [base, TRACK1.build((*base.conv1[:3], (1, 2)), base.conv2), TRACK1.build((*base.conv1[:3], (3, 2)), base.conv2)]
    archs.append(TRACK1.build((*base.conv1[:3], (1, 2)), (*base.conv2[:3], 7)))
    root = build_tree(archs)
    found: dict[int, np.ndarray] = {}
    walker, x = Walker(net, "running"), images(2, 32)
    walker.walk(root, x, lambda node, logits: found.update({position: logits.numpy() for position in node.candidates}))
    for position, arch in enumerate(archs):
        wanted = alone(net, arch, "running", x, x)
        assert np.abs(found[position] - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_planned_cost_is_the_work_done() -> None:
    archs = some_archs(MINI, 30)
    walker, root = Walker(golden_supernet(), "running"), build_tree(archs)
    walker.walk(root, images(2, 16), None)
    without_head = walk_cost(root, archs[0], 16, 0).macs
    assert walker.macs == 2 * without_head
    walker.macs = 0
    walker.walk(root, images(2, 16), lambda node, logits: None)
    assert walker.macs == 2 * walk_cost(root, archs[0], 16, 10).macs


def test_an_unshared_walk_costs_what_the_subnets_cost() -> None:
    archs = some_archs(MINI, 10)
    shared = sum(walk_cost(build_tree([arch]), arch, 16, 10).macs for arch in archs)
    assert shared == sum(cost.macs(arch, 16, 10) for arch in archs)
    assert walk_cost(build_tree(archs), archs[0], 16, 10).macs < shared


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official candidate file is not beside the clone")
@pytest.mark.parametrize(("first", "saved"), [(3000, 1.5), pytest.param(None, 2.0, marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_official_file_shares_half_its_work(first: int | None, saved: float) -> None:
    """Of fewer candidates less is shared."""
    archs = [candidate.arch for candidate in read_candidates(OFFICIAL, TRACK1)[:first]]
    archs = [archs[position] for position in scoring_order(archs)]
    shared = walk_cost(build_tree(archs), archs[0], 224, 1000).macs
    assert sum(map(flops, archs)) / shared > saved


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_a_walk_in_another_precision_gives_nearly_the_same_logits(activation: str) -> None:
    """In float64, which processors can do; it shows that every map and weight is converted and the logits come back."""
    paddle.seed(0)
    net, archs, logits = Supernet(MINI, 10, activation), some_archs(MINI, 4), {}
    net.eval()
    x = images(20, 16)
    for dtype in ("float32", "float64"):
        walker, out = Walker(net, "running", dtype), {}
        if dtype == "float64":  # Paddle wants BatchNorm's parameters in the type of the maps here, unlike on a GPU
            walker.weights.vector = lambda name, width: net.weights()[name].detach()[:width].astype("float64")  # type: ignore[method-assign]
        walker.walk(build_tree(archs), x, lambda node, values, out=out: out.update({node.candidates[0]: values.numpy()}))
        logits[dtype] = np.stack([out[index] for index in sorted(out)])
    assert logits["float64"].dtype == np.float32
    np.testing.assert_allclose(logits["float32"], logits["float64"], rtol=1e-3, atol=1e-3)
