"""Stand-alone training learns, is deterministic, and keeps finished results."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
import pytest
from conftest import REPOSITORY, TINY, TINY_SPACE, Fork, some_archs

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.data.images import open_images
from paddle_pgonas.errors import Diverged, UserError
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights, read_arrays
from paddle_pgonas.scores.files import Candidate, read_scores
from paddle_pgonas.training import standalone, trainer
from paddle_pgonas.training.standalone import accuracy, make_truth, train_standalone

ALL = {"train_limit": None, "val_limit": None}


def config(folder: Path, **changes: object) -> Config:
    """Ten steps an epoch, if the batch is of eight."""
    options = [f"space={TINY_SPACE}", "data.train_limit=80", "data.val_limit=50", f"output_dir={folder}"]
    return load_config(REPOSITORY / "configs" / "mini" / "standalone_digits.yaml", options).changed(train=changes)


def test_a_subnet_learns_the_digits_and_one_seed_gives_one_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acc = train_standalone(config(tmp_path, epochs=3, batch_size=32).changed(data=ALL), TINY.largest)
    assert acc > 0.6
    settings = config(tmp_path, epochs=2, batch_size=8)
    acc = train_standalone(settings, TINY.smallest)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")  # processes share the subnets of a list, never the images of one
    assert train_standalone(settings, TINY.smallest) == acc
    assert train_standalone(settings.changed(seed=1), TINY.smallest) != acc


def test_a_truth_file_grows_and_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate(f"a{i}", arch, arch.code, None) for i, arch in enumerate(some_archs(TINY, 4))]
    trained: list[str] = []

    def fake(settings: Config, arch: object, folder: Path, bn: str) -> float:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(str(arch))
        return len(trained) / 10

    monkeypatch.setattr(standalone, "_train", fake)
    output = tmp_path / "truth.json"
    with pytest.raises(KeyboardInterrupt):
        make_truth(config(tmp_path), candidates, output)
    assert read_scores(output, TINY) == {candidates[0].arch.code: 0.1, candidates[1].arch.code: 0.2}
    trained.clear()
    make_truth(config(tmp_path), candidates, output)
    assert trained == [candidate.arch.code for candidate in candidates[2:]]
    assert len(read_scores(output, TINY)) == 4


def test_another_recipe_keeps_its_own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate("a", TINY.smallest, TINY.smallest.code, None)]
    results = iter((0.1, 0.2))
    monkeypatch.setattr(standalone, "_train", lambda settings, arch, folder, bn: next(results))
    for epochs, acc in ((1, 0.1), (2, 0.2), (1, 0.1)):
        make_truth(config(tmp_path, epochs=epochs), candidates, tmp_path / "truth.json")
        assert read_scores(tmp_path / "truth.json", TINY) == {TINY.smallest.code: acc}


def test_two_ranks_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate(f"a{i}", arch, arch.code, None) for i, arch in enumerate(some_archs(TINY, 5))]
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr(standalone, "_train", lambda settings, arch, folder, bn: 0.5)
    counts = []
    for rank in (0, 1):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        make_truth(config(tmp_path), candidates, tmp_path / "truth.json")
        counts.append(len(read_scores(tmp_path / "truth.json", TINY)))
    assert counts == [3, 5]


def test_processes_that_end_at_the_same_time_leave_all_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is slow to write the file of its results; the other one finishes in the meantime."""
    candidates = [Candidate(f"a{i}", arch, arch.code, None) for i, arch in enumerate(some_archs(TINY, 4))]
    monkeypatch.setattr(standalone, "_train", lambda *_, **__: 0.5)
    slow, write = tmp_path / "slow", standalone.write_scores

    def write_slowly(path: Path, *results: Any) -> None:
        if os.environ["PADDLE_TRAINER_ID"] == "0":
            slow.touch()
            time.sleep(0.5)
        write(path, *results)

    monkeypatch.setattr(standalone, "write_scores", write_slowly)
    settings = config(tmp_path)

    def start(rank: str) -> Fork:
        ranks = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": rank}
        return Fork(lambda: make_truth(settings, candidates, tmp_path / "truth.json"), tmp_path / f"{rank}.log", ranks)

    store = standalone.results_store(settings)
    store.put(candidates[0].arch.code, {"acc": 0.5})
    store.put(candidates[2].arch.code, {"acc": 0.5})
    first = start("0")
    while not slow.exists():
        time.sleep(0.01)
    second = start("1")
    assert [first.wait(), second.wait()] == [0, 0], first.output + second.output
    assert len(read_scores(tmp_path / "truth.json", TINY)) == 4


def test_a_diverged_loss_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="diverged"):
        train_standalone(config(tmp_path, max_steps=20, lr_per_256=1e9, warmup_epochs=0.0), TINY.smallest)


def test_kept_weights_of_the_largest_subnet_teach_a_supernet(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, max_steps=3)
    acc = train_standalone(settings, TINY.largest, tmp_path / "teacher.safetensors")
    net = Supernet(TINY, 10, settings.model.activation)
    assert load_weights(net, tmp_path / "teacher.safetensors")["acc"] == acc
    net.eval()
    assert accuracy(net, open_images(settings).validation, settings.data, 100) == acc


def test_calibrated_statistics_are_another_recipe_and_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, candidates = config(tmp_path, epochs=1, batch_size=8), [Candidate("a", TINY.smallest, TINY.smallest.code, None)]
    accs = {}
    for bn in ("running", "calibrated"):
        make_truth(settings, candidates, tmp_path / f"{bn}.json", bn)
        [accs[bn]] = read_scores(tmp_path / f"{bn}.json", TINY).values()
        assert ("lag behind" in capsys.readouterr().err) == (bn == "running")
    taken = count_steps(monkeypatch)
    make_truth(settings, candidates, tmp_path / "again.json", "calibrated")
    assert not taken and list(read_scores(tmp_path / "again.json", TINY).values()) == [accs["calibrated"]]
    arrays = {}
    for bn in ("running", "calibrated"):
        assert train_standalone(settings, TINY.smallest, tmp_path / "w.safetensors", bn=bn) == accs[bn]
        arrays[bn] = read_arrays(tmp_path / "w.safetensors")[0]
    changed = {name for name, array in arrays["running"].items() if (array != arrays["calibrated"][name]).any()}
    assert changed and all(name.endswith(("_mean", "_variance")) for name in changed)


def count_steps(monkeypatch: pytest.MonkeyPatch, at: int | None = None, then: Callable[[], None] | None = None) -> list[int]:
    """The steps that are taken from here on; before step ``at`` something happens."""
    taken: list[int] = []
    whole_step = trainer.Run.step

    def step(run: trainer.Run, index: int, *batch: Any) -> Any:
        if index == at and then is not None:
            then()
        taken.append(index)
        return whole_step(run, index, *batch)

    monkeypatch.setattr(trainer.Run, "step", step)
    return taken


def killed() -> None:
    """As kill -9 leaves things: nothing is written any more."""
    raise KeyboardInterrupt


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("then", "lost", "amp"),
    [(killed, 3, "off"), (terminated, 0, "off"), pytest.param(terminated, 0, "fp16", marks=pytest.mark.gpu)],
)
def test_a_stopped_subnet_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None], lost: int, amp: str
) -> None:
    """Two epochs of 10 steps; the stop comes at step 13."""
    if amp != "off":
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    whole, parts = (config(tmp_path / name, epochs=2, batch_size=8, accumulate=2, amp=amp) for name in ("whole", "parts"))
    acc = train_standalone(whole, TINY.smallest, tmp_path / "whole.safetensors")
    with monkeypatch.context() as patch:
        taken = count_steps(patch, 13, then)
        with pytest.raises((KeyboardInterrupt, UserError)):
            train_standalone(parts, TINY.smallest)
    again = count_steps(monkeypatch)
    assert train_standalone(parts, TINY.smallest, tmp_path / "parts.safetensors") == acc
    assert again == list(range(taken[-1] + 1 - lost, 20))
    ours, theirs = (read_arrays(tmp_path / f"{name}.safetensors")[0] for name in ("parts", "whole"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    [log] = (tmp_path / "parts").rglob("metrics.jsonl")
    assert [line["step"] for line in read_json_lines(log)] == [0, 10, 19]
    assert not list((tmp_path / "parts").rglob("step-*"))


def test_a_killed_truth_goes_on_within_its_second_subnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate(arch.code, arch, arch.code, None) for arch in some_archs(TINY, 3)[1:]]
    whole, parts = (config(tmp_path / name, epochs=2, batch_size=8, log_every=1) for name in ("whole", "parts"))
    make_truth(whole, candidates, tmp_path / "whole.json")
    make_truth(parts, candidates[:1], tmp_path / "parts.json")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_steps(patch, 13, killed)
        make_truth(parts, candidates, tmp_path / "parts.json")
    taken = count_steps(monkeypatch)
    make_truth(parts, candidates, tmp_path / "parts.json")
    assert taken == list(range(10, 20))
    assert read_scores(tmp_path / "parts.json", TINY) == read_scores(tmp_path / "whole.json", TINY)
    logs = [list(tmp_path.glob(f"{run}/standalone/*/{candidates[1].arch}/metrics.jsonl")) for run in ("parts", "whole")]
    ours, theirs = ([(line["loss/subnet"], line["accuracy"]) for line in read_json_lines(log)] for [log] in logs)
    assert ours == theirs
    assert len(ours) == 20


def test_a_half_trained_subnet_is_no_start_for_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = (config(tmp_path, epochs=2, batch_size=8, lr_per_256=rate) for rate in (0.2, 0.1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_steps(patch, 13, killed)
        train_standalone(ours, TINY.smallest)
    taken = count_steps(monkeypatch)
    train_standalone(others, TINY.smallest)
    assert taken == list(range(20))
    train_standalone(ours, TINY.smallest)
    assert taken == [*range(20), *range(10, 20)]


def test_a_result_that_cannot_be_kept_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, candidates = config(tmp_path, max_steps=3), [Candidate("a", TINY.smallest, TINY.smallest.code, None)]

    def full(*arguments: Any) -> None:
        raise UserError("no space left")

    train_standalone(settings, TINY.largest)  # decodes the images, which are kept by the same store
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space"):
        patch.setattr(standalone.Store, "put", full)
        make_truth(settings, candidates, tmp_path / "truth.json")
    taken = count_steps(monkeypatch)
    make_truth(settings, candidates, tmp_path / "truth.json")
    assert not taken
    assert len(read_scores(tmp_path / "truth.json", TINY)) == 1
    assert not list(tmp_path.rglob("step-*"))


@pytest.mark.parametrize(
    ("section", "changes"),
    [("model", {"pretrained": "w.pdparams"}), ("model", {"bn": "sync"}), ("score", {"bn": "running"}),
     ("method", "uniform"), ("method", {"name": "pgonas", "pairs": 3}), ("train", {"watch_images": 9})],
)  # fmt: skip
def test_a_key_that_stand_alone_training_ignores_is_refused(tmp_path: Path, section: str, changes: dict[str, Any]) -> None:
    settings = config(tmp_path).changed(**{section: changes})
    for call in (lambda: train_standalone(settings, TINY.smallest), lambda: make_truth(settings, [], tmp_path / "truth.json")):
        with pytest.raises(UserError, match=f"stand-alone training makes no use of {section}[.=]"):
            call()


def test_mixed_precision_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.amp: bf16 needs a GPU"):
        train_standalone(config(tmp_path, amp="bf16").changed(device="cpu"), TINY.smallest)


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns(tmp_path: Path, amp: str) -> None:
    assert train_standalone(config(tmp_path, epochs=3, batch_size=32, amp=amp).changed(data=ALL), TINY.largest) > 0.6
