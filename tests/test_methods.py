"""Methods, losses, sampling and schedules follow the paper, and omitted work does not change the result."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import TINY, fill_golden

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.methods.base import Metrics, Parts, Step
from paddle_pgonas.methods.losses import adaptive_alpha_divergence, kl_divergence, soft_cross_entropy
from paddle_pgonas.methods.pgonas import RANK_LAMBDAS, Pgonas, PgonasOptions
from paddle_pgonas.methods.sampling import random_subnets
from paddle_pgonas.methods.sandwich import FairSandwichOptions, SandwichOptions, fair_subnets
from paddle_pgonas.methods.single_path import ProgressiveOptions, UniformOptions, once_for_all_phase
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.space.arch import MINI, TRACK1, Arch, SearchSpace
from paddle_pgonas.space.subspace import Subspace
from paddle_pgonas.training.schedules import learning_rate


def step_at(index: int, steps_per_epoch: int, epochs: int) -> Step:
    return Step(random.Random(index), index, steps_per_epoch, epochs)


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
        assert PgonasOptions(rank_lambda=name).weight(step_at(3 * epoch + 2, 3, 70)) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", list(RANK_LAMBDAS))
def test_a_stretched_weight_goes_through_the_same_values(name: str) -> None:
    long, short = PgonasOptions(rank_lambda=name), PgonasOptions(rank_lambda=name, stretch_lambda=True)
    stretched = [short.weight(step_at(step, 70, 3)) for step in range(210)]
    assert stretched == [long.weight(step_at(step, 3, 70)) for step in range(210)]


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


def parts(space: SearchSpace = MINI, teacher: Any = None) -> Parts:
    """What a training gives a method: the whole space, and priors for ten classes."""
    return Parts(Subspace(space), 0, lambda name: make_prior(name, space, space.image_size, 10), lambda path: teacher)


def pgonas(space: SearchSpace = MINI, **options: Any) -> Pgonas:
    return PgonasOptions(**options).start(parts(space))


def some_pairs(strategy: Pgonas, count: int) -> list[tuple[Arch, Arch]]:
    subnets = random_subnets(strategy.subspace, random.Random(0))
    return [strategy.sample_pair(subnets) for _ in range(count)]


def test_pairs_keep_their_distance() -> None:
    assert all(first.distance(second) >= 33 for first, second in some_pairs(pgonas(TRACK1, pair_distance=33), 50))
    with pytest.raises(UserError, match=r"method\.pair_distance"):
        some_pairs(pgonas(pair_distance=26), 1)  # more digits than can differ


def test_pairs_are_redrawn_until_their_priors_are_apart() -> None:
    flops = make_prior("flops", MINI, MINI.image_size, 10)
    pairs = some_pairs(pgonas(pair_distance=5, pair_ratio=2.0), 50)
    assert all(max(map(flops, pair)) >= 2 * min(map(flops, pair)) and pair[0].distance(pair[1]) >= 5 for pair in pairs)
    rng = random.Random(0)
    assert some_pairs(pgonas(), 1) == [(MINI.sample(rng), MINI.sample(rng))]
    with pytest.raises(UserError, match=r"method\.pair_ratio"):
        some_pairs(pgonas(pair_ratio=20.0), 1)  # more than from the smallest to the largest


def batch() -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.RandomState(0)
    return paddle.to_tensor(rng.standard_normal((8, 3, 8, 8)).astype("float32")), paddle.to_tensor(rng.randint(0, 10, 8))


def golden_net(bn: str = "batch") -> Supernet:
    net = Supernet(TINY, 10, bn=bn)
    fill_golden(net)
    net.weights()["blocks.5.fc.weight"].set_value(net.weights()["blocks.5.fc.weight"] * 0.05)  # losses of trained size
    net.train()
    return net


def straightforward(net: Supernet, options: Any, x: paddle.Tensor, y: paddle.Tensor, step: Step, teacher: Any) -> None:
    """Algorithm 1 and its relatives, written down as plainly as possible: every pass, every backward, one loss after another."""

    def logits(arch: Arch) -> paddle.Tensor:
        net.set_active_subnet(arch)
        return net(x)

    whole = Subspace(net.space)
    if options.name in ("uniform", "progressive"):
        for _ in range(options.random_subnets):
            progressive = options.name == "progressive"
            out = logits((once_for_all_phase(whole, step.progress) if progressive else whole).sample(step.rng))
            (F.cross_entropy(out, y) + soft_cross_entropy(out, teacher(x).detach())).backward()
        return
    largest = logits(net.space.largest)
    F.cross_entropy(largest, y).backward()
    if options.name == "fair_sandwich":
        middle = fair_subnets(whole, step.rng, options.random_subnets)
    else:
        middle = [net.space.sample(step.rng) for _ in range(options.random_subnets)]
    for arch in (net.space.smallest, *middle):
        soft_cross_entropy(logits(arch), largest.detach()).backward()
    if options.name != "pgonas":
        return
    for _ in range(options.pairs):
        first, second = net.space.sample(step.rng), net.space.sample(step.rng)
        loss_first, loss_second = F.cross_entropy(logits(first), y), F.cross_entropy(logits(second), y)
        second_is_better = cost.macs(second, TINY.image_size, 10) > cost.macs(first, TINY.image_size, 10)
        if options.rank_gradient == "second" or (options.rank_gradient == "better" and second_is_better):
            loss_first = loss_first.detach()
        elif options.rank_gradient == "better":
            loss_second = loss_second.detach()
        difference = loss_second - loss_first if second_is_better else loss_first - loss_second
        (options.weight(step) * F.relu(difference)).backward()


class ChangingWeight(PgonasOptions):
    """The weight of the rank loss is 0 in every third step."""

    def weight(self, step: Step) -> float:
        return step.index % 3 * 0.75


COMPARED = [
    UniformOptions(teacher="t"),
    SandwichOptions(),
    *(ChangingWeight(pairs=4, rank_gradient=side) for side in ("second", "better")),
]
MORE = [ProgressiveOptions(teacher="t"), FairSandwichOptions(), ChangingWeight(pairs=4, rank_gradient="both")]


@pytest.mark.parametrize(
    "options",
    [*COMPARED, *(pytest.param(options, marks=pytest.mark.slow) for options in MORE)],
    ids=lambda options: f"{options.name}-{getattr(options, 'rank_gradient', '')}",
)
def test_weights_after_twenty_steps_equal_the_straightforward_ones(options: Any) -> None:
    """Whatever is skipped - passes without a gradient, backwards of pairs in order, pairs without weight - changes no weight.

    BatchNorm is frozen, as published: with batch statistics a skipped forward also leaves the running ones alone.
    """
    teacher = extract(golden_net(), TINY.largest)
    teacher.eval()
    x, y = batch()
    results, orders = [], set()
    for ours in (True, False):
        net = golden_net(bn="frozen")
        optimizer = paddle.optimizer.Momentum(0.0003, 0.9, net.model.parameters())
        strategy = options.start(parts(TINY, teacher=lambda x: teacher(x).detach()))
        for index in range(20):
            step = step_at(index, 1, 20)
            if ours:
                metrics = strategy(net, x, y, step)
                orders |= {metrics.pairs_out_of_order} if metrics.pairs else set()
            else:
                straightforward(net, options, x, y, step, teacher)
            optimizer.step()
            optimizer.clear_grad()
        results.append({name: tensor.numpy() for name, tensor in net.weights().items()})
    assert options.name != "pgonas" or len(orders) > 1  # the steps must hold both kinds of pair
    start = golden_net().weights()
    for name, wanted in results[1].items():
        assert np.abs(results[0][name] - wanted).max() <= 1e-6 * np.abs(wanted).max(), name
    assert any((results[1][name] != start[name].numpy()).any() for name in start)


@pytest.mark.parametrize("side", ["second", "both", "better"])
def test_rank_loss_reaches_the_sides_it_should_and_raises_the_worse(side: str) -> None:
    x, y = batch()
    seen = set()
    for seed in range(12):
        net, pair = golden_net(), random_pair(seed)
        metrics = rank_of_one_pair(net, pgonas(TINY, pairs=1, rank_gradient=side, rank_lambda="constant"), *pair)
        bias = net.weights()["blocks.5.fc.bias"]
        if not metrics.pairs_out_of_order:
            assert bias.grad is None
            continue
        found, wanted = bias.grad.numpy(), np.zeros(10)
        second_is_better = cost.macs(pair[1], TINY.image_size, 10) > cost.macs(pair[0], TINY.image_size, 10)
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


def random_pair(seed: int) -> tuple[Arch, Arch]:
    rng = random.Random(seed)
    return TINY.sample(rng), TINY.sample(rng)


def rank_of_one_pair(net: Supernet, strategy: Pgonas, first: Arch, second: Arch) -> Metrics:
    """The pair alone, without the sandwich before it."""
    x, y = batch()
    metrics = Metrics()
    strategy.rank(net, x, y, step_at(0, 1, 1), metrics, first, second)
    return metrics


def test_of_equal_priors_the_second_is_worse_as_published_or_the_pair_is_left_out() -> None:
    pair = random_pair(0)
    reports = []
    for equal_priors in ("skip", "second_worse"):
        strategy = pgonas(TINY, equal_priors=equal_priors, rank_lambda="constant")
        strategy.prior = lambda arch: 1.0
        reports += [rank_of_one_pair(golden_net(), strategy, *order) for order in (pair, pair[::-1])]
    assert [report.pairs for report in reports] == [0, 0, 1, 1]
    for report in reports[2:]:
        losses = {kind: float(loss) for kind, loss in report.losses}
        assert losses["rank"] == pytest.approx(max(0.0, losses["first"] - losses["second"]))
    assert sorted(report.pairs_out_of_order for report in reports[2:]) == [0, 1]


def test_a_pair_is_judged_on_all_processes_images_or_on_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has the losses of this pair the other way round, and further apart."""
    monkeypatch.setattr(processes, "mean", lambda losses: losses - 2 * (losses - losses.mean()))
    pair, seen = random_pair(0), set()
    for order in (pair, pair[::-1]):
        alone, together = (
            rank_of_one_pair(golden_net(), pgonas(TINY, pair_losses=name, rank_lambda="constant"), *order).pairs_out_of_order
            for name in ("per_process", "all_processes")
        )
        assert alone == 1 - together
        seen.add(alone)
    assert seen == {0} or seen == {1}


def test_fair_subnets_share_no_choice() -> None:
    for seed in range(20):
        archs = fair_subnets(Subspace(TRACK1), random.Random(seed), 3)
        for stage in range(4):
            assert len({arch.conv2[stage] for arch in archs}) == 3
            assert len({arch.depths[stage] for arch in archs}) == 3
            for block in range(2):
                assert len({arch.conv1[stage][block] for arch in archs}) == 3
    assert len(fair_subnets(Subspace(MINI), random.Random(0), 10)) == 10


def test_progressive_shrinking_opens_depth_then_width() -> None:
    def seen(progress: float) -> tuple[int, int]:
        archs = [once_for_all_phase(Subspace(TRACK1), progress).sample(random.Random(seed)) for seed in range(300)]
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

    def gradient(epoch: int, labels: paddle.Tensor) -> np.ndarray:
        net, step = golden_net(), Step(random.Random(0), epoch)
        SandwichOptions(label_epochs=1).start(parts(TINY))(net, x, labels, step)
        return net.weights()["blocks.1.conv1.weight"].grad.numpy()

    net = golden_net()
    rng = random.Random(0)
    for arch in (TINY.largest, TINY.smallest, TINY.sample(rng), TINY.sample(rng)):
        net.set_active_subnet(arch)
        F.cross_entropy(net(x), y).backward()
    np.testing.assert_allclose(gradient(0, y), net.weights()["blocks.1.conv1.weight"].grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(gradient(1, y), gradient(0, y))


def test_no_pair_runs_while_the_weight_is_zero() -> None:
    x, y = batch()
    metrics = pgonas(TINY, rank_lambda="warmup")(golden_net(), x, y, step_at(0, 1, 70))
    assert metrics.pairs == 0 and metrics.schedules == {"rank_lambda": 0}
