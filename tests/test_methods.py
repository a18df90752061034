"""Strategies, losses, samplers and schedules follow the paper, and omitted work does not change the result."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import fill_golden, flops

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config, Data, Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.samplers import Step, draw_fair, draw_ordered_pair, draw_pair, once_for_all_phase
from paddle_pgonas.space.arch import MINI, TRACK1, Arch
from paddle_pgonas.space.subspace import Region
from paddle_pgonas.training.losses import adaptive_alpha_divergence, kl_divergence, soft_cross_entropy
from paddle_pgonas.training.schedules import RANK_LAMBDAS, learning_rate, rank_lambda
from paddle_pgonas.training.strategies import Metrics, make_strategy


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("warmup", {0: 0, 5: 0.5, 20: 2, 69: 2}),
        ("constant", {0: 1, 69: 1}),
        ("sine", {0: 0, 35: 2 * math.sin(0.4 * math.pi), 70: 2 * math.sin(0.8 * math.pi)}),
        ("multi_stage", {0: 0, 5: 0, 11: 0.8, 20: 2, 49: 2, 50: 2, 60: 1, 70: 0}),
    ],
)
def test_rank_loss_weight_follows_the_paper(name: str, values: dict[int, float]) -> None:
    for epoch, value in values.items():
        assert rank_lambda(Train(rank_lambda=name), 3 * epoch + 2, 3) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", list(RANK_LAMBDAS))
def test_a_stretched_weight_goes_through_the_same_values(name: str) -> None:
    long, short = Train(rank_lambda=name), Train(rank_lambda=name, epochs=3, stretch_lambda=True)
    assert [rank_lambda(short, step, 70) for step in range(210)] == [rank_lambda(long, step, 3) for step in range(210)]


def test_published_learning_rate_on_imagenet_mini_never_leaves_the_warm_up() -> None:
    settings = Train(schedule="published")
    rates = [learning_rate(settings, step, 135, 256) for step in range(9450)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(3.78e-4, rel=1e-3)
    assert np.allclose(np.diff(rates), 0.001 / 25020)


def test_cosine_learning_rate_rises_and_falls_per_step_and_scales_with_the_batch() -> None:
    settings = Train(epochs=10, warmup_epochs=2, lr_per_256=0.1)
    rates = [learning_rate(settings, step, 5, 256) for step in range(50)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[30] == pytest.approx(0.05)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(settings, 30, 5, 512) == pytest.approx(0.1)


def test_pairs_keep_their_distance() -> None:
    rng = random.Random(0)
    assert all(first.distance(second) >= 33 for first, second in (draw_pair(TRACK1, rng, 33) for _ in range(50)))
    with pytest.raises(UserError, match=r"train\.pair_distance"):
        draw_pair(MINI, rng, 26)  # more digits than can differ


def test_pairs_are_redrawn_until_their_priors_are_apart() -> None:
    rng, flops = random.Random(0), make_prior("flops", MINI, 32, 10)
    pairs = [draw_ordered_pair(MINI, rng, 5, flops, 2.0) for _ in range(50)]
    assert all(max(map(flops, pair)) >= 2 * min(map(flops, pair)) and pair[0].distance(pair[1]) >= 5 for pair in pairs)
    assert draw_ordered_pair(MINI, random.Random(1), 0, flops, 1.0) == draw_pair(MINI, random.Random(1), 0)
    with pytest.raises(UserError, match=r"train\.pair_ratio"):
        draw_ordered_pair(MINI, rng, 0, flops, 20)  # more than from the smallest to the largest


def configured(train: Train) -> Config:
    return Config(space="mini", data=Data(image_size=MINI.image_size), train=train)


def batch() -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.RandomState(0)
    return paddle.to_tensor(rng.standard_normal((8, 3, 8, 8)).astype("float32")), paddle.to_tensor(rng.randint(0, 10, 8))


def golden_net(bn: str = "batch") -> Supernet:
    net = Supernet(MINI, 10, bn=bn)
    fill_golden(net)
    net.weights()["blocks.13.fc.weight"].set_value(net.weights()["blocks.13.fc.weight"] * 0.05)  # losses of trained size
    net.train()
    return net


def straightforward(net: Supernet, settings: Train, x: paddle.Tensor, y: paddle.Tensor, step: Step, teacher: Any) -> None:
    """Algorithm 1 and its relatives, written down as plainly as possible: every pass, every backward, one loss after another."""

    def logits(arch: Arch) -> paddle.Tensor:
        net.set_active_subnet(arch)
        return net(x)

    if settings.strategy in ("uniform", "progressive"):
        for _ in range(settings.random_subnets):
            progressive = settings.strategy == "progressive"
            out = logits((once_for_all_phase(step.region, step.progress) if progressive else net.space).sample(step.rng))
            (F.cross_entropy(out, y) + soft_cross_entropy(out, teacher(x).detach())).backward()
        return
    largest = logits(net.space.largest)
    F.cross_entropy(largest, y).backward()
    if settings.strategy == "fair_sandwich":
        middle = draw_fair(step.region, step.rng, settings.random_subnets)
    else:
        middle = [net.space.sample(step.rng) for _ in range(settings.random_subnets)]
    for arch in (net.space.smallest, *middle):
        soft_cross_entropy(logits(arch), largest.detach()).backward()
    if settings.strategy != "pgonas":
        return
    for _ in range(settings.pairs):
        first, second = net.space.sample(step.rng), net.space.sample(step.rng)
        loss_first, loss_second = F.cross_entropy(logits(first), y), F.cross_entropy(logits(second), y)
        second_is_better = flops(second) > flops(first)
        if settings.rank_gradient == "second" or (settings.rank_gradient == "better" and second_is_better):
            loss_first = loss_first.detach()
        elif settings.rank_gradient == "better":
            loss_second = loss_second.detach()
        difference = loss_second - loss_first if second_is_better else loss_first - loss_second
        (step.rank_lambda * F.relu(difference)).backward()


METHODS = [
    {"strategy": "uniform"},
    {"strategy": "progressive"},
    {"strategy": "sandwich"},
    {"strategy": "fair_sandwich"},
    *({"strategy": "pgonas", "pairs": 4, "rank_gradient": side} for side in ("second", "both", "better")),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())))
def test_weights_after_twenty_steps_equal_the_straightforward_ones(method: dict[str, Any]) -> None:
    """Whatever is skipped - passes without a gradient, backwards of pairs in order, pairs without weight - changes no weight.

    BatchNorm is frozen, as published: with batch statistics a skipped forward also leaves the running ones alone.
    """
    settings = Train(**method)
    teacher = extract(golden_net(), MINI.largest)
    teacher.eval()
    x, y = batch()
    results, orders = [], set()
    for ours in (True, False):
        net = golden_net(bn="frozen")
        optimizer = paddle.optimizer.Momentum(0.0003, 0.9, net.model.parameters())
        strategy = make_strategy(configured(settings), teacher)
        for index in range(20):
            step = Step(random.Random(index), Region(MINI), rank_lambda=index % 3 * 0.75, progress=index / 20)
            if ours:
                metrics = strategy(net, x, y, step)
                orders |= {metrics.pairs_out_of_order} if metrics.pairs else set()
            else:
                straightforward(net, settings, x, y, step, teacher)
            optimizer.step()
            optimizer.clear_grad()
        results.append({name: tensor.numpy() for name, tensor in net.weights().items()})
    assert method["strategy"] != "pgonas" or len(orders) > 1  # the steps must hold both kinds of pair
    start = golden_net().weights()
    for name, wanted in results[1].items():
        assert np.abs(results[0][name] - wanted).max() <= 1e-6 * np.abs(wanted).max(), name
    assert any((results[1][name] != start[name].numpy()).any() for name in start)


@pytest.mark.parametrize("side", ["second", "both", "better"])
def test_rank_loss_reaches_the_sides_it_should_and_raises_the_worse(side: str) -> None:
    x, y = batch()
    seen = set()
    for seed in range(12):
        net = golden_net()
        strategy = make_strategy(configured(Train(pairs=1, rank_gradient=side)), None)
        pair = draw_pair(MINI, random.Random(seed), 0)
        step, metrics = Step(random.Random(seed), Region(MINI), rank_lambda=1.0), Metrics()
        strategy.rank(net, x, y, step, metrics, *pair)  # the pair alone, without the sandwich before it
        bias = net.weights()["blocks.13.fc.bias"]
        if not metrics.pairs_out_of_order:
            assert bias.grad is None
            continue
        found, wanted = bias.grad.numpy(), np.zeros(10)
        second_is_better = flops(pair[1]) > flops(pair[0])
        seen.add(second_is_better)
        for position, arch in enumerate(pair):
            is_better = second_is_better == (position == 1)
            if side == "both" or (side == "second" and position == 1) or (side == "better" and is_better):
                net.clear_gradients()
                net.set_active_subnet(arch)
                F.cross_entropy(net(x), y).backward()
                wanted += (1 if is_better else -1) * bias.grad.numpy()
        assert np.abs(found - wanted).max() < 1e-6
    assert seen == {True, False}


def out_of_order_pair(net: Supernet, strategy: Any, first: Arch, second: Arch) -> Metrics:
    x, y = batch()
    metrics = Metrics()
    strategy.rank(net, x, y, Step(random.Random(0), Region(MINI), rank_lambda=1.0), metrics, first, second)
    return metrics


def test_of_equal_priors_the_second_is_worse_as_published_or_the_pair_is_left_out() -> None:
    pair = draw_pair(MINI, random.Random(0), 0)
    reports = []
    for equal_priors in ("skip", "second_worse"):
        strategy = make_strategy(configured(Train(equal_priors=equal_priors)), None)
        strategy.prior = lambda arch: 1.0
        reports += [out_of_order_pair(golden_net(), strategy, *order) for order in (pair, pair[::-1])]
    assert [report.pairs for report in reports] == [0, 0, 1, 1]
    for report in reports[2:]:
        losses = {kind: float(loss) for kind, loss in report.losses}
        assert losses["rank"] == pytest.approx(max(0.0, losses["first"] - losses["second"]))
    assert sorted(report.pairs_out_of_order for report in reports[2:]) == [0, 1]


def test_a_pair_is_judged_on_all_processes_images_or_on_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has the losses of this pair the other way round, and further apart."""
    monkeypatch.setattr(processes, "mean", lambda losses: losses - 2 * (losses - losses.mean()))
    pair, seen = draw_pair(MINI, random.Random(0), 0), set()
    for order in (pair, pair[::-1]):
        alone, together = (
            out_of_order_pair(golden_net(), make_strategy(configured(Train(pair_losses=name)), None), *order).pairs_out_of_order
            for name in ("per_process", "all_processes")
        )
        assert alone == 1 - together
        seen.add(alone)
    assert seen == {0} or seen == {1}


def test_fair_subnets_share_no_choice() -> None:
    for seed in range(20):
        archs = draw_fair(Region(TRACK1), random.Random(seed), 3)
        for stage in range(4):
            assert len({arch.conv2[stage] for arch in archs}) == 3
            assert len({arch.depths[stage] for arch in archs}) == 3
            for block in range(2):
                assert len({arch.conv1[stage][block] for arch in archs}) == 3
    assert len(draw_fair(Region(MINI), random.Random(0), 10)) == 10


def test_progressive_shrinking_opens_depth_then_width() -> None:
    def seen(progress: float) -> tuple[int, int]:
        archs = [once_for_all_phase(Region(TRACK1), progress).sample(random.Random(seed)) for seed in range(300)]
        return min(min(arch.depths) for arch in archs), max(max(arch.conv2) for arch in archs)

    assert [seen((phase + 0.5) / 9) for phase in range(9)] == [
        (4, 1), (3, 1), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (2, 7)
    ]  # fmt: skip
    assert seen(1.0) == (2, 7)


def random_logits(scale: float = 1.0) -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.RandomState(0)
    student, teacher = (paddle.to_tensor((scale * rng.standard_normal((6, 10))).astype("float32")) for _ in range(2))
    student.stop_gradient = False
    return student, teacher


def test_kl_divergence_equals_its_definition() -> None:
    student, teacher = random_logits()
    p, q = (F.softmax(logits / 2).numpy() for logits in (teacher, student))
    assert float(kl_divergence(student, teacher, 2.0)) == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean(), rel=1e-5)


def test_soft_cross_entropy_and_kl_have_one_gradient() -> None:
    student, teacher = random_logits()
    wanted = F.cross_entropy(student, F.softmax(teacher), soft_label=True)
    assert float(soft_cross_entropy(student, teacher)) == pytest.approx(float(wanted), rel=1e-6)
    soft_cross_entropy(student, teacher).backward()
    first = student.grad.numpy().copy()
    student.clear_gradient()
    kl_divergence(student, teacher, 1.0).backward()
    np.testing.assert_allclose(student.grad.numpy(), first, atol=1e-6)


def test_alpha_divergence_has_the_gradient_of_the_larger_divergence() -> None:
    """Against autograd through the definitions, where no weight is clipped."""
    student, teacher = random_logits(0.3)
    adaptive_alpha_divergence(student, teacher).backward()
    found = student.grad.numpy().copy()
    student.clear_gradient()
    p, q = F.softmax(teacher), F.softmax(student)
    low, high = 0.5 * (q * (q / p - 1)).sum(-1), (p * (p / q).log()).sum(-1)
    assert 0 < int((low > high).sum()) < 6  # both occur
    paddle.maximum(low, high).mean().backward()
    np.testing.assert_allclose(found, student.grad.numpy(), atol=1e-6)


def test_alpha_divergence_survives_logits_a_thousand_apart() -> None:
    student, teacher = random_logits(1000.0)
    loss = adaptive_alpha_divergence(student, teacher)
    loss.backward()
    assert np.isfinite(loss.numpy()).all()
    assert np.isfinite(student.grad.numpy()).all()


def test_smaller_subnets_learn_from_the_labels_until_told_to_distil() -> None:
    x, y = batch()

    def gradient(distils: bool, labels: paddle.Tensor) -> np.ndarray:
        net = golden_net()
        make_strategy(configured(Train(strategy="sandwich")), None)(
            net, x, labels, Step(random.Random(0), Region(MINI), distils=distils)
        )
        return net.weights()["blocks.1.conv1.weight"].grad.numpy()

    net = golden_net()
    rng = random.Random(0)
    for arch in (MINI.largest, MINI.smallest, MINI.sample(rng), MINI.sample(rng)):
        net.set_active_subnet(arch)
        F.cross_entropy(net(x), y).backward()
    np.testing.assert_allclose(gradient(False, y), net.weights()["blocks.1.conv1.weight"].grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(gradient(True, y), gradient(False, y))


def test_no_pair_runs_while_the_weight_is_zero() -> None:
    x, y = batch()
    assert (
        make_strategy(configured(Train()), None)(golden_net(), x, y, Step(random.Random(0), Region(MINI), rank_lambda=0.0)).pairs
        == 0
    )
