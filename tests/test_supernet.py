"""The supernet equals the challenge's network, plain layers and its own extracted subnets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import fill_golden, some_archs
from paddle import nn
from paddle.base.core import TracerEventType
from paddle.profiler import Profiler, ProfilerTarget

from paddle_pgonas.nn.elastic import ElasticBatchNorm2D
from paddle_pgonas.nn.resnet import ACTIVATIONS, ResNet
from paddle_pgonas.nn.supernet import Supernet, extract, reorder_channels
from paddle_pgonas.space.arch import MINI, TRACK1

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "golden_subnets.json").read_text())


def images(count: int, side: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.RandomState(0).standard_normal((count, 3, side, side)).astype("float32"))


@pytest.fixture(scope="module")
def track1() -> Supernet:
    net = Supernet(TRACK1)
    fill_golden(net)
    net.eval()
    return net


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", list(GOLDEN["subnets"]))
def test_subnet_logits_equal_the_golden_ones(track1: Supernet, name: str) -> None:
    golden = GOLDEN["subnets"][name]
    track1.set_active_subnet(TRACK1.parse(golden["arch"]))
    with paddle.no_grad():
        logits = track1(images(2, 64)).numpy()
    largest = np.abs(logits).max()
    assert np.abs(logits[:, :8] - golden["logits_first8"]).max() < 1e-5 * largest
    assert abs(logits.sum() - golden["logits_sum"]) < 1e-5 * np.abs(logits).sum()
    assert (logits.astype("float64") ** 2).sum() == pytest.approx(golden["logits_sq"], rel=1e-5)
    assert logits.argmax(1).tolist() == golden["argmax"]


def test_full_network_logits_equal_the_golden_ones(track1: Supernet) -> None:
    track1.set_active_subnet(TRACK1.largest)
    with paddle.no_grad():
        logits = track1(images(2, 64)).numpy()
    assert np.abs(logits[:, :8] - GOLDEN["full_logits_first8"]).max() < 1e-5 * np.abs(logits).max()


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_active_subnet_equals_its_extraction(activation: str) -> None:
    net = Supernet(MINI, 10, activation)
    fill_golden(net)
    net.eval()
    for arch in some_archs(MINI, 8):
        net.set_active_subnet(arch)
        ours = net(images(2, 16)).numpy()
        assert relative_error(ours, extract(net, net.active_subnet)(images(2, 16)).numpy()) < 1e-6


def test_outer_activation_is_exchanged_and_the_inner_one_is_not() -> None:
    net = ResNet(MINI.largest, 10, "mish")
    kinds = {type(layer) for layer in net.sublayers()} & set(ACTIVATIONS.values())
    assert kinds == {nn.Mish}
    block = net.blocks["1"]
    fill_golden(block)
    block.eval()
    x = images(2, 8).tile([1, 4, 1, 1])
    inner = F.relu(block.bn1(block.conv1(x)))
    assert relative_error(block(x).numpy(), F.mish(block.bn2(block.conv2(inner)) + x).numpy()) < 1e-6


def test_full_width_training_equals_plain_layers() -> None:
    """Logits, gradients and running statistics of one training step, against the unconverted network."""
    net = Supernet(MINI, 10)
    fill_golden(net)
    plain = extract(net, MINI.largest)
    net.train()
    plain.train()
    x = images(8, 16)
    ours, theirs = net(x), plain(x)
    assert relative_error(ours.numpy(), theirs.numpy()) < 1e-6
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for name, tensor in plain.state_dict().items():
        mine = net.weights()[name]
        assert relative_error(mine.numpy(), tensor.numpy()) < 1e-5, name
        if tensor.grad is not None:
            assert relative_error(mine.grad.numpy(), tensor.grad.numpy()) < 1e-4, name


def test_a_subnets_gradients_are_its_extractions_and_zero_elsewhere() -> None:
    for arch in some_archs(MINI, 4):
        net = Supernet(MINI, 10)
        fill_golden(net)
        net.train()
        net.set_active_subnet(arch)
        plain = extract(net, net.active_subnet)
        x = images(8, 16)
        net(x).square().mean().backward()
        plain(x).square().mean().backward()
        theirs = {name: tensor.grad for name, tensor in plain.state_dict().items() if tensor.grad is not None}
        for name, mine in net.weights().items():
            if mine.grad is None:
                assert name not in theirs
                continue
            found = mine.grad.numpy()
            inside = tuple(slice(0, size) for size in theirs[name].shape)
            assert relative_error(found[inside], theirs[name].numpy()) < 1e-4, name
            found[inside] = 0
            assert not found.any(), name


def test_narrow_training_moves_only_the_leading_statistics() -> None:
    bn, plain = ElasticBatchNorm2D(8), nn.BatchNorm2D(5)
    x = images(4, 8).tile([1, 2, 1, 1])[:, :5] * 3 + 1
    bn.train()
    plain.train()
    assert relative_error(bn(x).numpy(), plain(x).numpy()) < 1e-6
    np.testing.assert_allclose(bn._mean.numpy()[:5], plain._mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(bn._variance.numpy()[:5], plain._variance.numpy(), rtol=1e-6)
    assert (bn._mean.numpy()[5:] == 0).all()
    assert (bn._variance.numpy()[5:] == 1).all()


def test_batch_norm_switches_modes_back_and_forth() -> None:
    bn = ElasticBatchNorm2D(4)
    x = images(4, 8).tile([1, 2, 1, 1])[:, :4] * 2 + 3
    for _ in range(2):  # whichever mode comes first must not stick
        bn.eval()
        by_hand = (x - bn._mean.reshape([1, -1, 1, 1])) / (bn._variance.reshape([1, -1, 1, 1]) + 1e-5).sqrt()
        assert relative_error(bn(x).numpy(), by_hand.numpy()) < 1e-5
        bn.train()
        assert abs(float(bn(x).mean())) < 1e-5


def test_frozen_batch_norm_trains_on_running_statistics_and_keeps_them() -> None:
    bn = ElasticBatchNorm2D(4)
    bn.frozen = True
    fill_golden(bn)
    before = bn._mean.numpy().copy(), bn._variance.numpy().copy()
    bn.train()
    x = images(4, 8).tile([1, 2, 1, 1])[:, :3]
    x.stop_gradient = False
    out = bn(x)
    (out * out.detach()).sum().backward()
    scale = (bn.weight / (bn._variance + 1e-5).sqrt())[:3].reshape([1, -1, 1, 1])
    by_hand = (x.detach() - bn._mean[:3].reshape([1, -1, 1, 1])) * scale + bn.bias[:3].reshape([1, -1, 1, 1])
    assert relative_error(out.numpy(), by_hand.numpy()) < 1e-5
    assert relative_error(x.grad.numpy(), (by_hand * scale).numpy()) < 1e-5
    assert relative_error(bn.bias.grad.numpy()[:3], by_hand.sum([0, 2, 3]).numpy()) < 1e-4
    assert (bn._mean.numpy() == before[0]).all()
    assert (bn._variance.numpy() == before[1]).all()


def test_two_forwards_before_their_backwards_keep_their_own_gradients() -> None:
    net = Supernet(MINI, 10)
    fill_golden(net)
    net.train()
    x, weight = images(4, 16), net.weights()["blocks.1.conv1.weight"]

    def gradient(order: list[int]) -> np.ndarray:
        net.clear_gradients()
        losses = []
        for arch in (MINI.largest, MINI.smallest):
            net.set_active_subnet(arch)
            losses.append(net(x).square().mean())
        for position in order:
            losses[position].backward()
        return weight.grad.numpy().copy()

    assert relative_error(gradient([0, 1]), gradient([1, 0])) < 1e-5


@pytest.mark.parametrize("widths", [(8, 8), (8, 5), (5, 8), (5, 3)])
def test_two_batch_norms_before_their_backwards_do_not_interfere(widths: tuple[int, int]) -> None:
    """The kernel writes into the running statistics themselves; a backward pass must not read them."""
    together, apart, maps = ElasticBatchNorm2D(8), ElasticBatchNorm2D(8), images(4, 8).tile([1, 3, 1, 1])
    inputs = [[maps[:, :width] * (number + 2) for number, width in enumerate(widths)] for _ in range(2)]
    for tensor in (*inputs[0], *inputs[1]):
        tensor.stop_gradient = False
    paddle.add_n([(together(x) ** 3).sum() for x in inputs[0]]).backward()
    for x in inputs[1]:
        (apart(x) ** 3).sum().backward()
    for ours, theirs in zip(inputs[0], inputs[1], strict=True):
        assert (ours.grad == theirs.grad).all()
    for name, tensor in together.state_dict().items():
        assert (tensor == apart.state_dict()[name]).all(), name
    assert relative_error(together.weight.grad.numpy(), apart.weight.grad.numpy()) < 1e-6


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="the profiler of a GPU wheel needs CUPTI")
@pytest.mark.parametrize(("width", "most"), [(8, 1), (5, 3)])
def test_batch_norm_copies_no_statistics(width: int, most: int) -> None:
    """One dispatch, and two slices of the weights where the layer is not used in its whole width."""
    bn, x = ElasticBatchNorm2D(8), images(4, 8).tile([1, 3, 1, 1])[:, :width]
    with Profiler(targets=[ProfilerTarget.CPU], on_trace_ready=lambda profiler: None) as profiler:
        bn(x)
    pending, names = list(profiler.profiler_result.get_data().values()), []
    while pending:
        node = pending.pop()
        pending += node.children_node
        names += [node.name] if node.type == TracerEventType.Operator else []
    assert 0 < len(names) <= most, names


def test_reordering_keeps_the_function_and_sorts_by_importance() -> None:
    net = Supernet(MINI, 10)
    fill_golden(net)
    net.eval()
    before = net(images(2, 16)).numpy()
    reorder_channels(net)
    assert relative_error(net(images(2, 16)).numpy(), before) < 1e-5
    importance = np.abs(net.weights()["blocks.6.conv2.weight"].numpy()).sum((0, 2, 3))
    assert (np.diff(importance) <= 0).all()


@pytest.mark.gpu
def test_gpu_logits_equal_the_processors() -> None:
    arch, x = some_archs(MINI, 3)[2], images(2, 16).numpy()
    logits = []
    for device in ("cpu", "gpu"):
        paddle.set_device(device)
        net = Supernet(MINI, 10, "prelu")
        fill_golden(net)
        net.eval()
        net.set_active_subnet(arch)
        logits.append(net(paddle.to_tensor(x)).numpy())
    paddle.set_device("cpu")
    assert relative_error(logits[1], logits[0]) < 1e-3  # TF32 convolutions keep ten bits
