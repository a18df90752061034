"""A run is deterministic, resumes to the bit, keeps its checkpoints whole and stops with one clear line."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import some_archs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import paddle_pgonas
from paddle_pgonas import container, cost, distributed
from paddle_pgonas.arch import MINI
from paddle_pgonas.config import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json_lines
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import OPTIMIZER, read_arrays, read_weights
from paddle_pgonas.scoring.watch import Watcher
from paddle_pgonas.submission import Candidate, write_scores
from paddle_pgonas.training import trainer
from paddle_pgonas.training.builders import make_optimizer
from paddle_pgonas.training.checkpoints import checkpoints, load_latest
from paddle_pgonas.training.resume import check_processes
from paddle_pgonas.training.trainer import train_supernet as train

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def config(folder: Path, **train_settings: Any) -> Config:
    base = load_config(CONFIGS / "demo.yaml", ["train.watch_images=0", "train.watch_subnets=0", "train.batch_size=32"])
    if train_settings.get("strategy", "pgonas") != "pgonas":
        train_settings = {"stretch_lambda": False, "rank_gradient": "second"} | train_settings
    if train_settings.get("strategy") == "uniform":
        train_settings = {"label_epochs": 0} | train_settings
    return base.changed(output_dir=str(folder), train={"epochs": 2, "max_steps": 5, "log_every": 1} | train_settings)


def weights(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(path)[0]


def plain(net: Supernet) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net.weights().items()}


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.mark.parametrize("name", ["kl", "alpha"])
def test_each_distillation_trains(tmp_path: Path, name: str) -> None:
    plain = train(config(tmp_path / "a", label_epochs=0))
    other = train(config(tmp_path / "b", label_epochs=0, distillation=name, **({"temperature": 2.0} if name == "kl" else {})))
    assert not equal(weights(plain), weights(other))


def test_one_seed_gives_one_result(tmp_path: Path) -> None:
    first = weights(train(config(tmp_path / "a")))
    assert equal(first, weights(train(config(tmp_path / "b"))))
    other = config(tmp_path / "c").changed(seed=1)
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


def test_parameters_that_no_step_has_used_stay_as_they_are_also_after_a_resume(tmp_path: Path) -> None:
    def run(name: str, steps: int, resume: bool = False, unused: str = "no_gradient") -> dict[str, np.ndarray]:
        settings = {"strategy": "uniform", "random_subnets": 1, "weight_decay": 0.1, "unused_parameters": unused}
        return weights(train(config(tmp_path / name, max_steps=steps, **settings), resume))

    start, one, whole = run("start", 1, unused="zero_gradient"), run("parts", 1), run("whole", 6)
    kept = weights(checkpoints(tmp_path / "parts" / "checkpoints")[0])
    unused = [name for name in one if OPTIMIZER + name not in kept and not name.endswith(("_mean", "_variance"))]
    assert unused and any((start[name] != one[name]).any() for name in unused)  # weight decay has shrunk them
    run("parts", 2, resume=True)
    assert equal(run("parts", 6, resume=True), whole)
    fresh = {name: array for name, array in weights(train(config(tmp_path / "still", max_steps=1, lr_per_256=0.0))).items()}
    assert all((fresh[name] == one[name]).all() for name in unused)


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
    assert f"skipped: {newest}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for last in (1, 2):
        train(config(folder, max_steps=last), resume=last > 1)
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def target() -> tuple[Supernet, Any]:
    net = Supernet(MINI, 10, "prelu")
    return net, make_optimizer(config(Path()).train, net.model.parameters())


def flip(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 0.999999), in_header=st.booleans())
def test_a_flipped_bit_falls_back_to_the_checkpoint_before(
    two_checkpoints: Path, target: tuple[Supernet, Any], capsys: pytest.CaptureFixture[str], place: float, in_header: bool
) -> None:
    older, newest = checkpoints(two_checkpoints)
    whole = newest.read_bytes()
    newest.write_bytes(flip(whole, int(place * 8 * (20_000 if in_header else len(whole)))))
    try:
        record = load_latest(two_checkpoints, *target, check=lambda record: None)
    finally:
        newest.write_bytes(whole)
    assert record is not None and record["step"] == 1
    assert f"skipped: {newest}" in capsys.readouterr().err
    assert equal(plain(target[0]), read_weights(older)[0])


@pytest.mark.parametrize("change", ["no config", "no tensor", "shape", "momentum", "no checksum", "empty", "folder"])
def test_whatever_is_wrong_with_a_checkpoint_the_one_before_is_taken(
    two_checkpoints: Path, target: tuple[Supernet, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    arrays, record = container.read(newest)
    [name, *_], [momentum, *_] = (sorted(n for n in arrays if n.startswith(OPTIMIZER) == kind) for kind in (False, True))
    if change == "no config":
        container.write(newest, {key: value for key, value in record.items() if key != "config"}, arrays)
    elif change == "no tensor":
        container.write(newest, record, {key: array for key, array in arrays.items() if key != name})
    elif change in ("shape", "momentum"):
        wrong = name if change == "shape" else momentum
        container.write(newest, record, arrays | {wrong: np.zeros((3, 2), np.float32)})
    elif change == "no checksum":
        save_file(arrays, newest, metadata={"record": json.dumps(record)})
    else:
        newest.unlink()
        newest.write_bytes(b"") if change == "empty" else newest.mkdir()
    found = load_latest(tmp_path / "checkpoints", *target, check=lambda record: None)
    assert found is not None and found["step"] == 1
    assert f"skipped: {newest}" in capsys.readouterr().err


def test_without_any_whole_checkpoint_a_resume_is_refused(two_checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    for path in checkpoints(tmp_path / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"all checkpoints are damaged.*output_dir"):
        train(config(tmp_path), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_lost_its_checkpoints_is_not_overwritten(two_checkpoints: Path, tmp_path: Path, resume: bool) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints.parent, run)
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"}
    for missing in (None, "supernet.safetensors"):
        if missing:
            del before[run / missing]
            (run / missing).unlink()
            (run / "metrics.jsonl").write_text('{"step": 41, "epoch": 1}\n')
            before[run / "metrics.jsonl"] = (run / "metrics.jsonl").read_bytes()
        with pytest.raises(UserError, match="checkpoints are missing; choose another output_dir"):
            train(config(run), resume)
        assert all(path.read_bytes() == content for path, content in before.items())


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_with_resume_only(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0, "epoch": 0}\n\xff\xfe\n[1]\n{"step": "x"}\n{"step": 1, "ep')
    with pytest.raises(UserError, match="--resume"):
        train(config(tmp_path, max_steps=2))
    train(config(tmp_path, max_steps=2), resume=True)
    assert [line["step"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [0, 1]


def test_resuming_another_configuration_names_the_key(tmp_path: Path) -> None:
    train(config(tmp_path, max_steps=1))
    with pytest.raises(UserError, match=r"train\.lr_per_256=0\.2, now it is 0\.3"):
        train(config(tmp_path, max_steps=2, lr_per_256=0.3), resume=True)


def images_config(folder: Path, images: Path, steps: int) -> Config:
    base = load_config(
        CONFIGS / "mini" / "folder.yaml",
        [f"data.root={images}", "model.num_classes=3", "train.watch_images=0", "train.watch_subnets=0"],
    )
    return base.changed(output_dir=str(folder), train={"batch_size": 4, "epochs": 5, "max_steps": steps})


def test_other_training_images_are_refused_and_named(tmp_path: Path, image_folder: Path) -> None:
    def resume(**options: Any) -> Path:
        return train(images_config(tmp_path, image_folder, 3), **(options or {"resume": True}))

    train(images_config(tmp_path, image_folder, 1))
    moved = image_folder.rename(tmp_path / "moved")
    train(images_config(tmp_path, moved, 2), resume=True)  # the same images elsewhere
    image_folder = moved
    image = image_folder / "train" / "dark" / "1.png"
    whole = image.read_bytes()
    image.write_bytes((image_folder / "train" / "dark" / "5.png").read_bytes())
    with pytest.raises(UserError, match=r"contents of the 12 training images of 2 classes have changed"):
        resume()
    image.unlink()
    with pytest.raises(UserError, match="12 training images of 2 classes, now there are 11 training images of 2 classes;"):
        resume()
    image.write_bytes(whole)
    for split in ("train", "val"):
        (image_folder / split / "black").mkdir()
        (image_folder / split / "black" / "0.png").write_bytes(whole)
    with pytest.raises(UserError, match=r"now there are 13 training images of 3 classes \(with class black\)"):
        resume()
    resume(other_data=True)


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
    monkeypatch.setattr(distributed, "gather", lambda value: [value, merged(value, facts)])
    if line is None:
        check_processes(ours)
    else:
        with pytest.raises(UserError, match=line):
            check_processes(ours)


def test_processes_that_read_other_weights_do_not_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path in the configuration, another file on another machine."""
    monkeypatch.setattr(
        distributed, "gather", lambda facts: [facts, facts | {name: "another" for name in facts if "weights" in name}]
    )
    with pytest.raises(UserError, match=r"the digest of the weights there is .* and another in process 1"):
        train(config(tmp_path, max_steps=1))
    assert not checkpoints(tmp_path / "checkpoints")


def test_a_checkpoint_that_names_no_images_is_resumed_only_on_request(tmp_path: Path) -> None:
    train(config(tmp_path, max_steps=1))
    [path] = checkpoints(tmp_path / "checkpoints")
    arrays, record = container.read(path)
    del record["training_images"]
    container.write(path, record, arrays)
    with pytest.raises(UserError, match=r"does not say which images.*--resume-with-other-data"):
        train(config(tmp_path, max_steps=2), resume=True)
    train(config(tmp_path, max_steps=2), resume=True, other_data=True)


def test_other_processes_wait_while_the_first_one_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(distributed, "barrier", lambda: events.append("together"))
    settings = config(tmp_path, max_steps=2, watch_images=9, watch_at=[0, 0.5, 1])
    train(settings, watch=lambda net, step: events.append("watch") or {})  # type: ignore[func-returns-value]
    assert [after for event, after in itertools.pairwise(events) if event == "watch"] == ["together"] * 3


def test_the_library_watches_as_the_configuration_says(tmp_path: Path) -> None:
    paddle_pgonas.train(config(tmp_path, max_steps=1, watch_images=50))
    assert any("heldout/smallest" in line for line in read_json_lines(tmp_path / "metrics.jsonl"))


def test_a_diverged_loss_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(config(tmp_path, max_steps=40, lr_per_256=1e6, warmup_epochs=0.0))


def test_the_baseline_learns_from_its_teacher(tmp_path: Path) -> None:
    relu = {"activation": "relu"}

    def run(name: str, **settings: Any) -> Path:
        return train(config(tmp_path / name, max_steps=2, **settings).changed(model=relu))

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
    train(base.changed(model={"bn": bn}))
    [checkpoint] = checkpoints(folder / "checkpoints")
    return {name: array for name, array in weights(checkpoint).items() if name.startswith(OPTIMIZER)}


def test_a_batch_in_parts_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    whole = momentum_after(tmp_path / "whole", strategy="sandwich")
    parts = momentum_after(tmp_path / "parts", strategy="sandwich", accumulate=4)
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
