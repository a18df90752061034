"""Each strategy is the paper's, skipped work changes nothing, and a resumed run ends where an undisturbed one does."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import fill_golden, some_archs

from paddle_pgonas import cost
from paddle_pgonas.arch import MINI, TRACK1, Arch
from paddle_pgonas.config import Config, Train, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json_lines
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.nn.weights import OPTIMIZER, read_arrays
from paddle_pgonas.scoring.watch import Watcher
from paddle_pgonas.submission import Candidate, write_scores
from paddle_pgonas.training import trainer
from paddle_pgonas.training.checkpoints import checkpoints
from paddle_pgonas.training.losses import adaptive_alpha_divergence, kl_divergence, soft_cross_entropy
from paddle_pgonas.training.samplers import draw_fair, draw_pair, draw_progressive
from paddle_pgonas.training.schedules import RANK_LAMBDAS, learning_rate, rank_lambda
from paddle_pgonas.training.strategies import Step, make_strategy
from paddle_pgonas.training.trainer import train

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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
        assert rank_lambda(Train(rank_lambda=name), epoch) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", list(RANK_LAMBDAS))
def test_a_stretched_weight_goes_through_the_same_values(name: str) -> None:
    long, short = Train(rank_lambda=name), Train(rank_lambda=name, epochs=7, stretch_lambda=True)
    assert [rank_lambda(short, epoch) for epoch in range(7)] == [rank_lambda(long, 10 * epoch) for epoch in range(7)]


def test_published_learning_rate_on_imagenet_mini_never_leaves_the_warm_up() -> None:
    settings = Train(schedule="published")
    rates = [learning_rate(settings, step, 135, 256) for step in range(9450)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(3.78e-4, rel=1e-3)
    assert np.allclose(np.diff(rates), 0.001 / 25020)


def test_published_learning_rate_on_imagenet_steps_per_epoch_after_the_warm_up() -> None:
    settings = Train(schedule="published")
    steps = 5004  # 1,281,024 / 256, and so the warm-up ends with epoch 5
    assert learning_rate(settings, 5 * steps, steps, 256) == 0.001
    assert learning_rate(settings, 6 * steps - 1, steps, 256) == 0.001
    assert learning_rate(settings, 40 * steps, steps, 256) == pytest.approx(0.0005)


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
            out = logits(draw_progressive(net.space, step.rng, step.progress) if progressive else net.space.sample(step.rng))
            (F.cross_entropy(out, y) + soft_cross_entropy(out, teacher(x).detach())).backward()
        return
    largest = logits(net.space.largest)
    F.cross_entropy(largest, y).backward()
    if settings.strategy == "fair_sandwich":
        middle = draw_fair(net.space, step.rng, settings.random_subnets)
    else:
        middle = [net.space.sample(step.rng) for _ in range(settings.random_subnets)]
    for arch in (net.space.smallest, *middle):
        soft_cross_entropy(logits(arch), largest.detach()).backward()
    if settings.strategy != "pgonas":
        return
    for _ in range(settings.pairs):
        first, second = net.space.sample(step.rng), net.space.sample(step.rng)
        loss_first, loss_second = F.cross_entropy(logits(first), y), F.cross_entropy(logits(second), y)
        second_is_better = cost.macs(second) > cost.macs(first)
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
        strategy = make_strategy(settings, teacher)
        for index in range(20):
            step = Step(random.Random(index), rank_lambda=index % 3 * 0.75, progress=index / 20)
            if ours:
                strategy(net, x, y, step)
                orders |= {step.pairs_out_of_order} if step.pairs else set()
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
        strategy = make_strategy(Train(pairs=1, rank_gradient=side), None)
        pair = draw_pair(MINI, random.Random(seed), 0)
        step = Step(random.Random(seed), rank_lambda=1.0)
        strategy.rank(net, x, y, step, *pair)  # the pair alone, without the sandwich before it
        bias = net.weights()["blocks.13.fc.bias"]
        if not step.pairs_out_of_order:
            assert bias.grad is None
            continue
        found, wanted = bias.grad.numpy(), np.zeros(10)
        second_is_better = cost.macs(pair[1]) > cost.macs(pair[0])
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


def test_fair_subnets_share_no_choice() -> None:
    for seed in range(20):
        archs = draw_fair(TRACK1, random.Random(seed), 3)
        for stage in range(4):
            assert len({arch.conv2[stage] for arch in archs}) == 3
            assert len({arch.depths[stage] for arch in archs}) == 3
            for block in range(2):
                assert len({arch.conv1[stage][block] for arch in archs}) == 3
    assert len(draw_fair(MINI, random.Random(0), 10)) == 10


def test_progressive_shrinking_opens_depth_then_width() -> None:
    def seen(progress: float) -> tuple[int, int]:
        archs = [draw_progressive(TRACK1, random.Random(seed), progress) for seed in range(300)]
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


@pytest.mark.parametrize("name", ["kl", "alpha"])
def test_each_distillation_trains(tmp_path: Path, name: str) -> None:
    plain = train(config(tmp_path / "a", label_epochs=0))
    other = train(config(tmp_path / "b", label_epochs=0, distillation=name, temperature=2.0))
    assert not equal(weights(plain), weights(other))


def test_smaller_subnets_learn_from_the_labels_until_told_to_distil() -> None:
    x, y = batch()

    def gradient(distils: bool, labels: paddle.Tensor) -> np.ndarray:
        net = golden_net()
        make_strategy(Train(strategy="sandwich"), None)(net, x, labels, Step(random.Random(0), distils=distils))
        return net.weights()["blocks.1.conv1.weight"].grad.numpy()

    net = golden_net()
    rng = random.Random(0)
    for arch in (MINI.largest, MINI.smallest, MINI.sample(rng), MINI.sample(rng)):
        net.set_active_subnet(arch)
        F.cross_entropy(net(x), y).backward()
    np.testing.assert_allclose(gradient(False, y), net.weights()["blocks.1.conv1.weight"].grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(gradient(True, y), gradient(False, y))


def test_no_pair_runs_while_the_weight_is_zero() -> None:
    step = Step(random.Random(0), rank_lambda=0.0)
    x, y = batch()
    make_strategy(Train(), None)(golden_net(), x, y, step)
    assert step.pairs == 0


def config(folder: Path, **train_settings: Any) -> Config:
    base = load_config(CONFIGS / "demo.yaml", ["train.watch_images=0", "train.batch_size=32"])
    settings = dataclasses.replace(base.train, **({"epochs": 2, "max_steps": 5, "log_every": 1} | train_settings))
    return dataclasses.replace(base, output_dir=str(folder), train=settings)


def weights(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path)[0]


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_one_seed_gives_one_result(tmp_path: Path) -> None:
    first = weights(train(config(tmp_path / "a")))
    assert equal(first, weights(train(config(tmp_path / "b"))))
    other = dataclasses.replace(config(tmp_path / "c"), seed=1)
    assert not equal(first, weights(train(other)))


@pytest.mark.parametrize("strategy", ["uniform", "pgonas"])
def test_resume_is_bit_identical_to_an_undisturbed_run(tmp_path: Path, strategy: str) -> None:
    """The uniform strategy leaves blocks without a gradient in a step, whose momentum must go on all the same."""

    def run(name: str, steps: int, resume: bool = False) -> Path:
        return train(config(tmp_path / name, strategy=strategy, max_steps=steps, random_subnets=1), resume)

    whole = weights(run("whole", 8))
    run("parts", 4)
    with pytest.raises(UserError, match="--resume"):
        run("parts", 8)
    assert equal(weights(run("parts", 8, resume=True)), whole)
    assert [line["step"] for line in read_json_lines(tmp_path / "parts" / "metrics.jsonl")] == list(range(8))


def test_checkpoints_hold_the_momentum_and_only_the_last_are_kept(tmp_path: Path) -> None:
    for last in (1, 2, 3):
        train(config(tmp_path, max_steps=last, keep_checkpoints=2), resume=last > 1)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-00000002.safetensors", "step-00000003.safetensors"]
    assert any(name.startswith(OPTIMIZER) and value.any() for name, value in weights(kept[0]).items())


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = weights(train(config(tmp_path / "whole", max_steps=3)))
    for last in (1, 2):
        train(config(tmp_path / "cut", max_steps=last), resume=last > 1)
    newest = max((tmp_path / "cut" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert equal(weights(train(config(tmp_path / "cut", max_steps=3), resume=True)), whole)
    assert "passed over" in capsys.readouterr().err


def test_resuming_another_configuration_names_the_key(tmp_path: Path) -> None:
    train(config(tmp_path, max_steps=1))
    with pytest.raises(UserError, match=r"train\.lr_per_256=0\.2, now it is 0\.3"):
        train(config(tmp_path, max_steps=2, lr_per_256=0.3), resume=True)


def test_a_diverged_loss_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(config(tmp_path, max_steps=40, lr_per_256=1e6, warmup_epochs=0.0))


def test_the_baseline_learns_from_its_teacher(tmp_path: Path) -> None:
    relu = dataclasses.replace(config(tmp_path).model, activation="relu")

    def run(name: str, **settings: Any) -> Path:
        return train(dataclasses.replace(config(tmp_path / name, max_steps=2, **settings), model=relu))

    teacher = run("teacher", strategy="sandwich")
    taught, alone = run("taught", strategy="uniform", teacher=str(teacher)), run("alone", strategy="uniform")
    assert not equal(weights(taught), weights(alone))


def test_a_teacher_with_another_activation_is_refused(tmp_path: Path) -> None:
    teacher = train(config(tmp_path / "prelu", strategy="sandwich", max_steps=1))
    with pytest.raises(UserError, match=r"model\.activation"):
        train(config(tmp_path / "student", strategy="uniform", teacher=str(teacher)))


def momentum_after(folder: Path, bn: str = "frozen", **settings: Any) -> dict[str, np.ndarray]:
    """The gradients of the first step, which the momentum starts with."""
    base = config(folder, max_steps=1, **settings)
    train(dataclasses.replace(base, model=dataclasses.replace(base.model, bn=bn)))
    [checkpoint] = checkpoints(folder / "checkpoints")
    return {name: array for name, array in weights(checkpoint).items() if name.startswith(OPTIMIZER)}


def test_a_batch_in_parts_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    whole = momentum_after(tmp_path / "whole", strategy="sandwich")
    parts = momentum_after(tmp_path / "parts", strategy="sandwich", accumulate=4)
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=name)


def test_a_clipped_gradient_keeps_its_direction(tmp_path: Path) -> None:
    def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([array.ravel() for array in arrays.values()]).astype(float)

    free = flat(momentum_after(tmp_path / "free", strategy="sandwich", weight_decay=0.0))
    clipped = flat(momentum_after(tmp_path / "clipped", strategy="sandwich", weight_decay=0.0, clip_grad_norm=0.5))
    assert np.linalg.norm(free) > 1
    np.testing.assert_allclose(clipped, free * 0.5 / np.linalg.norm(free), atol=1e-5)


def test_out_of_memory_is_one_line_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object) -> None:
        raise MemoryError("(ResourceExhausted) Fail to alloc memory of 123 size")

    monkeypatch.setattr(trainer, "make_strategy", lambda *arguments: exhausted)
    with pytest.raises(UserError, match=r"out of memory with 32 images.*train\.accumulate"):
        train(config(tmp_path))


def test_mixed_precision_on_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.amp: fp16 needs a GPU"):
        train(dataclasses.replace(config(tmp_path, amp="fp16"), device="cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_and_resumes_its_loss_scale(tmp_path: Path, amp: str) -> None:
    train(config(tmp_path, amp=amp, max_steps=3))
    trained = weights(train(config(tmp_path, amp=amp, max_steps=6), resume=True))
    assert all(np.isfinite(array).all() for array in trained.values())
    losses = [line["loss/largest"] for line in read_json_lines(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_a_network_that_only_guesses_stops_the_run_and_names_the_checkpoint_before(tmp_path: Path) -> None:
    stuck = config(tmp_path, max_steps=None, epochs=4, warmup_epochs=1.0, lr_per_256=0.0, batch_size=256)
    with pytest.raises(UserError, match=r"collapsed.*Last good checkpoint: .*step-00000010\.safetensors"):
        train(stuck)


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged.*Last good checkpoint: none"):
        train(config(tmp_path, max_steps=40, log_every=1000, lr_per_256=1e30, warmup_epochs=0.0))
    assert not checkpoints(tmp_path / "checkpoints")


def test_watching_changes_no_weight_and_logs_what_the_subnets_reach(tmp_path: Path) -> None:
    plain = weights(train(config(tmp_path / "plain", max_steps=40)))
    truth = [Candidate(f"a{seed}", arch, arch.code, None) for seed, arch in enumerate(some_archs(MINI, 6))]
    write_scores(tmp_path / "truth.json", truth, [float(cost.macs(entry.arch)) for entry in truth])
    settings = {"watch_images": 100, "watch_subnets": 5, "watch_truth": str(tmp_path / "truth.json")}
    watched = config(tmp_path / "watched", max_steps=40, **settings)
    assert equal(weights(train(watched, watch=Watcher(watched))), plain)
    [line] = [line for line in read_json_lines(tmp_path / "watched" / "metrics.jsonl") if "heldout/largest" in line]
    assert line["step"] == 39
    assert 0.2 < line["heldout/largest"] <= 1 and 0 <= line["heldout/smallest"] <= 1 and 0 <= line["heldout/middle"] <= 1
    assert -1 <= line["kendall/flops"] <= 1 and -1 <= line["kendall/truth"] <= 1
