"""A run is deterministic, logs and watches what was requested, and stops with one line on an error."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, some_archs
from short_runs import CONFIGS, config, equal, weights

import paddle_pgonas
from paddle_pgonas import processes
from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import Diverged, UserError
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.methods.pgonas import PgonasOptions
from paddle_pgonas.nn.weights import OPTIMIZER
from paddle_pgonas.priors import cost
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.training.checkpoints import checkpoints
from paddle_pgonas.training.resume import check_processes
from paddle_pgonas.training.run import Run
from paddle_pgonas.training.trainer import train_supernet as train
from paddle_pgonas.training.watch import Watcher


@pytest.mark.parametrize("name", ["kl", "alpha"])
def test_each_distillation_trains(tmp_path: Path, name: str) -> None:
    plain = train(config(tmp_path / "a", label_epochs=0))
    other = train(config(tmp_path / "b", label_epochs=0, distillation=name, **({"temperature": 2.0} if name == "kl" else {})))
    assert not equal(weights(plain), weights(other))


def test_without_a_method_nothing_is_read_or_written(tmp_path: Path) -> None:
    """Reading ImageNet takes long."""
    with pytest.raises(UserError, match="method: none is configured"):
        train(load_config(CONFIGS / "mini" / "standalone_digits.yaml", [f"output_dir={tmp_path}", "device=cpu"]))
    assert not list(tmp_path.iterdir())


def test_one_seed_gives_one_result(tmp_path: Path) -> None:
    first = weights(train(config(tmp_path / "a")))
    assert equal(first, weights(train(config(tmp_path / "b"))))
    other = config(tmp_path / "c").changed(seed=1)
    assert not equal(first, weights(train(other)))


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"config": {"seed": 1}}, "seed is 0 in process 0 and 1 in process 1"),
        ({"config": {"data": {"train_limit": 5}}}, "data.train_limit is None"),
        ({"versions": {"paddle": "2.6.2"}}, "versions.paddle is 3"),
        ({"training_images": {"contents": "b"}}, "training_images.contents is a"),
        ({"config": {"data": {"a_newer_key": 3}}}, "data.a_newer_key is None in process 0 and 3 in process 1"),
        ({"config": {"data": {"root": "elsewhere", "workers": 2}}}, None),
    ],
)
def test_processes_compare_what_they_train(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], line: str | None) -> None:
    def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        return values | {key: merged(values.get(key, {}), new) if isinstance(new, dict) else new for key, new in changes.items()}

    config = {"seed": 0, "data": {"train_limit": None, "root": "here", "workers": 4}}
    ours = {"config": config, "versions": {"paddle": "3"}, "training_images": {"contents": "a"}}
    monkeypatch.setattr(processes, "gather", lambda value: [value, merged(value, facts)])
    if line is None:
        check_processes(ours)
    else:
        with pytest.raises(UserError, match=line):
            check_processes(ours)


def test_processes_that_read_other_weights_do_not_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path in the configuration, another file on another machine."""
    monkeypatch.setattr(
        processes, "gather", lambda facts: [facts, facts | {name: "another" for name in facts if "weights" in name}]
    )
    monkeypatch.setattr(processes, "connected", lambda: 2)
    monkeypatch.setattr(processes, "barrier", lambda: None)
    with pytest.raises(UserError, match=r"the digest of the weights there is .* and another in process 1"):
        train(config(tmp_path, max_steps=1))
    assert not checkpoints(tmp_path / "checkpoints")


def test_a_single_process_computes_no_digest_of_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "weights_digest", lambda run: pytest.fail("nobody compares it"))
    train(config(tmp_path, max_steps=1))


def test_other_processes_wait_while_the_first_one_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(processes, "barrier", lambda: events.append("together"))
    settings = config(tmp_path, max_steps=2, watch_images=9, watch_at=[0, 0.5, 1])
    train(settings, watch=lambda net, step: events.append("watch") or {})  # type: ignore[func-returns-value]
    assert [after for event, after in itertools.pairwise(events) if event == "watch"] == ["together"] * 3


def test_the_library_watches_as_the_configuration_says(tmp_path: Path) -> None:
    paddle_pgonas.train(config(tmp_path, max_steps=1, watch_images=50))
    assert any("heldout/smallest" in line for line in read_json_lines(tmp_path / "metrics.jsonl"))


def test_a_diverged_loss_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="diverged"):
        train(config(tmp_path, max_steps=40, lr_per_256=1e6, warmup_epochs=0.0))


def test_the_baseline_learns_from_its_teacher(tmp_path: Path) -> None:
    relu = {"activation": "relu"}

    def run(name: str, **settings: Any) -> Path:
        return train(config(tmp_path / name, max_steps=2, **settings).changed(model=relu))

    teacher = run("teacher", method="sandwich")
    taught, alone = run("taught", method="uniform", teacher=str(teacher)), run("alone", method="uniform")
    assert not equal(weights(taught), weights(alone))


def momentum_after(folder: Path, bn: str = "frozen", **settings: Any) -> dict[str, np.ndarray]:
    """The gradients of the first step, which the momentum starts with."""
    base = config(folder, max_steps=1, **settings)
    train(base.changed(model={"bn": bn}))
    [checkpoint] = checkpoints(folder / "checkpoints")
    return {name: array for name, array in weights(checkpoint).items() if name.startswith(OPTIMIZER)}


def test_a_batch_in_parts_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    whole = momentum_after(tmp_path / "whole", method="sandwich")
    parts = momentum_after(tmp_path / "parts", method="sandwich", accumulate=4)
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=name)


def test_the_log_covers_all_micro_batches(tmp_path: Path) -> None:
    """With frozen BatchNorm the passes on a batch are those on its micro-batches together."""
    logged = []
    for parts in (1, 4):
        momentum_after(tmp_path / str(parts), accumulate=parts, rank_lambda="constant")
        logged += read_json_lines(tmp_path / str(parts) / "metrics.jsonl")
    for name in ("loss/largest", "loss/smallest", "loss/random", "accuracy"):
        assert logged[1][name] == pytest.approx(logged[0][name], rel=1e-4), name
    assert all(0 <= line["pairs_out_of_order"] <= 1 and line["loss/rank"] >= 0 for line in logged)


def test_a_clipped_gradient_keeps_its_direction(tmp_path: Path) -> None:
    def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([array.ravel() for array in arrays.values()]).astype(float)

    free = flat(momentum_after(tmp_path / "free", method="sandwich", weight_decay=0.0))
    clipped = flat(momentum_after(tmp_path / "clipped", method="sandwich", weight_decay=0.0, clip_grad_norm=0.5))
    assert np.linalg.norm(free) > 1
    np.testing.assert_allclose(clipped, free * 0.5 / np.linalg.norm(free), atol=1e-5)


def test_out_of_memory_is_one_line_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object) -> None:
        raise MemoryError("(ResourceExhausted) Fail to alloc memory of 123 size")

    monkeypatch.setattr(PgonasOptions, "start", lambda options, parts: exhausted)
    with pytest.raises(UserError, match=r"out of memory with 32 images.*train\.accumulate"):
        train(config(tmp_path))


def test_mixed_precision_on_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.amp: fp16 needs a GPU"):
        train(config(tmp_path, amp="fp16").changed(device="cpu"))


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
    with pytest.raises(Diverged, match=r"collapsed.*Last good checkpoint: .*step-00000010\.safetensors"):
        train(stuck)


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"diverged.*Last good checkpoint: none"):
        train(config(tmp_path, max_steps=5, log_every=1000, lr_per_256=1e30, warmup_epochs=0.0))
    assert not checkpoints(tmp_path / "checkpoints")


def test_watching_changes_no_weight_and_logs_what_the_subnets_reach(tmp_path: Path) -> None:
    plain = weights(train(config(tmp_path / "plain", max_steps=20)))
    truth = [Candidate(f"a{seed}", arch, arch.code, None) for seed, arch in enumerate(some_archs(TINY, 6))]
    write_scores(tmp_path / "truth.json", truth, [float(cost.macs(entry.arch, 8, 10)) for entry in truth])
    settings = {"watch_images": 100, "watch_subnets": 5, "watch_truth": str(tmp_path / "truth.json")}
    watched = config(tmp_path / "watched", max_steps=20, **settings)
    assert equal(weights(train(watched, watch=Watcher(watched))), plain)
    [line] = [line for line in read_json_lines(tmp_path / "watched" / "metrics.jsonl") if "heldout/largest" in line]
    assert line["step"] == 19
    assert 0 < line["heldout/largest"] <= 1 and 0 <= line["heldout/smallest"] <= 1 and 0 <= line["heldout/middle"] <= 1
    assert -1 <= line["kendall/flops"] <= 1 and -1 <= line["kendall/truth"] <= 1


def test_a_run_is_watched_at_the_shares_asked_for(tmp_path: Path) -> None:
    seen: list[bool] = []
    settings = {"max_steps": 8, "watch_images": 10, "watch_at": (0.0, 0.25, 0.5, 1.0)}
    train(config(tmp_path, **settings), watch=lambda net, step: seen.append(net.training) or {"seen": float(len(seen))})
    lines = [line for line in read_json_lines(tmp_path / "metrics.jsonl") if "seen" in line]
    assert [(line["step"], line["seen"]) for line in lines] == [(0, 1.0), (1, 2.0), (3, 3.0), (7, 4.0)]


@pytest.mark.parametrize("override", ["train.watch_at=[0, 2]", "train.watch_at=[-1]", "train.watch_at=0.5"])
def test_shares_that_are_none_are_refused(override: str) -> None:
    with pytest.raises(UserError, match=r"train\.watch_at"):
        load_config(CONFIGS / "demo.yaml", [override])
