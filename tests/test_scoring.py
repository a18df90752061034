"""Scores are those of each subnet alone, an incomplete chunk is never used, and equal logits count as wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import REPOSITORY, TINY, alone, golden_supernet, some_archs, tiny_config

from paddle_pgonas import progress
from paddle_pgonas.config.loading import CONFIGS, Config, load_config
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError, brief
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.runtime import select_device
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import read_candidates, read_scores, sample_candidates, write_scores
from paddle_pgonas.scoring import scorer, walker
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.plan import print_sizes
from paddle_pgonas.scoring.session import Session
from paddle_pgonas.scoring.session import score as score_with
from paddle_pgonas.scoring.submission import write_submission
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import MINI, Arch


def config(**changes: object) -> Config:
    base = load_config(REPOSITORY / "configs" / "demo.yaml", ["score.batch_size=7"])
    return base.changed(score=changes)


def score(
    net: Supernet, archs: Sequence[Arch], images: DecodedImages, settings: Config, folder: Path | None = None
) -> np.ndarray:
    return scorer.score(net, archs, images, settings.data, settings.score, folder)


def scoring_set(count: int = 20) -> DecodedImages:
    rng = np.random.RandomState(0)
    pixels = rng.randint(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return DecodedImages(pixels, rng.randint(0, 10, count), "x", np.arange(count), count, pixels[:16])


def test_metrics_equal_those_of_subnets_scored_alone() -> None:
    net, archs, data, settings = golden_supernet(), some_archs(MINI, 6), scoring_set(), config(bn="running")
    measured = score(net, archs, data, settings)
    x = to_network(paddle.to_tensor(data.images), settings.data)
    for arch, row in zip(archs, measured, strict=True):
        logits = alone(net, arch, "running", x, x).astype("float64")
        log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        true = log_probabilities[np.arange(20), data.labels]
        best = np.argsort(-logits, 1, kind="stable")
        top5 = np.mean([label in row_best[:5] for label, row_best in zip(data.labels, best, strict=True)])
        wanted = [np.mean(best[:, 0] == data.labels), top5, np.exp(true).mean(), -true.mean()]
        np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bn", ["running", "calibrated"])
def test_scores_do_not_depend_on_the_batch_size(bn: str) -> None:
    net, archs, data = golden_supernet(), some_archs(MINI, 5), scoring_set()
    sizes = [score(net, archs, data, config(bn=bn, batch_size=size)) for size in (3, 20)]
    np.testing.assert_allclose(*sizes, rtol=1e-4)


def test_equal_logits_earn_no_more_than_chance() -> None:
    net = Supernet(MINI, 10)
    for name, tensor in net.weights().items():
        if ".fc." in name:
            tensor.set_value(paddle.zeros_like(tensor))
    data = scoring_set()
    [row] = score(net, [MINI.smallest], data, config(bn="running"))
    assert row[METRICS.index("top1")] == np.mean(data.labels == 0)
    assert row[METRICS.index("top5")] == np.mean(data.labels < 5)


def test_logits_that_are_not_numbers_are_an_error() -> None:
    net = golden_supernet()
    net.weights()["blocks.13.fc.bias"].set_value(paddle.full([10], float("nan")))
    with pytest.raises(UserError, match="not numbers"):
        score(net, [MINI.smallest], scoring_set(), config(bn="running"))


def test_a_killed_run_computes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "CHUNK", 4)
    net, archs, data, settings = golden_supernet(), some_archs(MINI, 18), scoring_set(), config()
    wanted = score(net, archs, data, settings)
    computed: list[int] = []
    original = scorer._Scorer.chunk

    def failing(self: scorer._Scorer, chunk: list[Arch], *others: object) -> np.ndarray:
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(len(chunk))
        return original(self, chunk, *others)

    monkeypatch.setattr(scorer._Scorer, "chunk", failing)
    with pytest.raises(KeyboardInterrupt):
        score(net, archs, data, settings, tmp_path)
    computed.clear()
    assert (score(net, archs, data, settings, tmp_path) == wanted).all()
    assert computed == [4, 2]


@pytest.mark.parametrize("stored", [None, 4, 8], ids=["anew", "more images", "all but a chunk"])
def test_the_time_left_is_right_after_a_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: int | None) -> None:
    """Calibration takes most of the work; each convolution takes as long as its multiply-accumulates."""
    monkeypatch.setattr(scorer, "CHUNK", 16)
    monkeypatch.setattr(scorer, "COUNTED", 4)
    monkeypatch.setattr(progress, "SHORT", 0)
    monkeypatch.setattr(progress, "EVERY", 0)
    net, archs = golden_supernet(TINY), [entry.arch for entry in sample_candidates(TINY, 70, 0)]
    seconds, told = [0.0], list[tuple[float, str]]()
    compute, data = walker.conv2d, scoring_set(8)

    def slow(x: paddle.Tensor, weight: paddle.Tensor, stride: int) -> paddle.Tensor:
        out = compute(x, weight, stride)
        seconds[0] += out.size * weight.size / weight.shape[0] / 2e4
        return out

    class Told(progress.Progress):
        def _print(self, time_text: str) -> None:
            told.append((seconds[0], time_text))

    monkeypatch.setattr(walker, "conv2d", slow)
    monkeypatch.setattr(scorer, "Progress", partial(Told, clock=lambda: seconds[0]))
    if stored is not None:
        few = data._replace(images=data.images[:stored], labels=data.labels[:stored], kept=np.arange(stored), asked=stored)
        score(net, archs, few._replace(prefix_fingerprint=lambda count: "x"), config(), tmp_path)
        if stored == 8:
            sorted(tmp_path.rglob("chunk-*"))[2].unlink()
        told.clear()
    start = seconds[0]
    score(net, archs, data._replace(prefix_fingerprint=lambda count: "x"), config(), None if stored is None else tmp_path)
    whole = seconds[0] - start
    forecasts = [
        (start + whole - at, sum(60**place * int(part) for place, part in enumerate(reversed(text[:-5].split(":")))))
        for at, text in told
        if at > start + whole / 10 and text.endswith(" left")
    ]
    assert len(forecasts) > 100
    assert all(abs(forecast - left) <= max(left / 4, 0.03 * whole) for left, forecast in forecasts)


def test_a_damaged_chunk_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, archs, data, settings = golden_supernet(), some_archs(MINI, 4), scoring_set(), config()
    wanted = score(net, archs, data, settings, tmp_path)
    [path] = tmp_path.rglob("chunk-*.safetensors")
    for damage in (path.read_bytes()[:50], b"", path.read_bytes()[:-60] + bytes(60)):
        path.write_bytes(damage)
        assert (score(net, archs, data, settings, tmp_path) == wanted).all()
        assert f"not used: {brief(str(path))}: " in capsys.readouterr().err


def test_other_weights_or_options_do_not_mix(tmp_path: Path) -> None:
    net, archs, data = golden_supernet(), some_archs(MINI, 4), scoring_set()
    score(net, archs, data, config(), tmp_path)
    score(net, archs, data, config(bn="running"), tmp_path)
    net.weights()["blocks.0.bn.bias"].set_value(paddle.ones([12]))
    changed = score(net, archs, data, config(), tmp_path)
    score(net, archs[:3], data, config(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert (changed == score(net, archs, data, config())).all()


def test_two_processes_share_the_chunks_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "3")
    for rank in range(3):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        own, others = scorer._my_order(10)
        assert own == list(range(10 * rank // 3, 10 * (rank + 1) // 3))
        assert sorted(own + others) == list(range(10))


def test_a_process_forecasts_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "CHUNK", 4)
    net, archs, data = golden_supernet(), some_archs(MINI, 16), scoring_set()
    totals: list[int] = []
    monkeypatch.setattr(scorer, "Progress", lambda total, *rest: totals.append(total) or progress.Progress(total, *rest))
    score(net, archs, data, config(), tmp_path / "one")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    score(net, archs, data, config(), tmp_path / "two")
    (everything, nothing), (own, others) = totals[:2], totals[2:]
    assert own + others == everything and nothing == 0 and 0.3 < own / everything < 0.7


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    net, archs, data = golden_supernet(), some_archs(MINI, 3), scoring_set()
    wanted = score(net, archs, data, config(bn="running"))
    original = Walker.walk

    def limited(self: Walker, root: object, x: paddle.Tensor, visit: object) -> None:
        if x.shape[0] > 4:
            raise MemoryError("ResourceExhausted")
        original(self, root, x, visit)

    monkeypatch.setattr(Walker, "walk", limited)
    np.testing.assert_allclose(score(net, archs, data, config(bn="running")), wanted, rtol=1e-5)
    assert "score.batch_size is now 3" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"score\.batch_size"):
        score(net, archs, data, config(bn="batch"))


def test_out_of_memory_while_calibrating_changes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    net, archs, data, settings = golden_supernet(), some_archs(MINI, 3), scoring_set(), config(bn="calibrated", batch_size=6)
    wanted, walk = score(net, archs, data, settings), Walker._walk

    def limited(self: Walker, root: object, images: Sequence[paddle.Tensor], visit: object) -> None:
        if len(images[0]) > 3:
            raise MemoryError("ResourceExhausted")
        walk(self, root, images, visit)

    monkeypatch.setattr(Walker, "_walk", limited)
    np.testing.assert_allclose(score(net, archs, data, settings), wanted, rtol=1e-4)


def test_candidates_that_change_while_they_are_scored_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, weights, output = tmp_path / "candidates.json", tmp_path / "weights.safetensors", tmp_path / "submission.json"
    write_scores(path, sample_candidates(TINY, 3, seed=0), [0.0] * 3)
    save_weights(weights, Supernet(TINY, 10, "prelu"), {})
    measure = Session.measure

    def measure_meanwhile_changed(self: Session, archs: Sequence[Arch], folder: Path | None = None) -> np.ndarray:
        write_scores(path, sample_candidates(TINY, 3, seed=1), [0.0] * 3)
        return measure(self, archs, folder)

    monkeypatch.setattr(Session, "measure", measure_meanwhile_changed)
    config = tiny_config(tmp_path)
    with pytest.raises(UserError, match="changed while"):
        write_submission(config, weights, path, output)
    assert not output.exists()


def test_candidates_that_changed_after_they_were_read_are_refused_before_the_scoring(tmp_path: Path) -> None:
    path, weights, output = tmp_path / "candidates.json", tmp_path / "weights.safetensors", tmp_path / "submission.json"
    save_weights(weights, Supernet(TINY, 10, "prelu"), {})
    write_scores(path, sample_candidates(TINY, 3, seed=0), [0.0] * 3)
    candidates = read_candidates(path, TINY)
    write_scores(path, sample_candidates(TINY, 3, seed=1), [0.0] * 3)
    with pytest.raises(UserError, match=r"candidates\.json: .*changed while they were read"):
        write_submission(tiny_config(tmp_path), weights, path, output, candidates=candidates)
    assert not output.exists()


def test_of_several_weights_each_scores_the_depths_that_it_was_trained_for(tmp_path: Path) -> None:
    candidates, path, output = sample_candidates(TINY, 12, seed=0), tmp_path / "candidates.json", tmp_path / "submission.json"
    write_scores(path, candidates, [0.0] * len(candidates))
    config = tiny_config(tmp_path, "score.bn=running")
    files = {"shallow": [[1, 1], [1, 2]], "deep": [[2, 2], [1, 2]], "one": [[1, 1], [1, 1]], "all": None}
    for seed, (name, ranges) in enumerate(files.items()):
        paddle.seed(seed)
        record = {"config": {"train": {"depth_ranges": ranges}}, "step": seed}
        save_weights(tmp_path / f"{name}.safetensors", Supernet(TINY, 10, "prelu"), record)
    paths = {name: tmp_path / f"{name}.safetensors" for name in files}
    write_submission(config, [paths["shallow"], paths["deep"]], path, output, "likelihood")
    scores, archs = read_scores(output, TINY), [entry.arch for entry in candidates]
    alone = {name: score_with(config, paths[name], archs, "likelihood") for name in ("shallow", "deep")}
    for position, arch in enumerate(archs):
        name = "shallow" if arch.depths[0] == 1 else "deep"
        assert scores[arch.code] == pytest.approx(alone[name][position], rel=1e-5)
    assert len({arch.depths[0] == 1 for arch in archs}) == 2
    with pytest.raises(UserError, match="no file was trained for the depths"):
        write_submission(config, [paths["deep"], paths["one"]], path, output)
    with pytest.raises(UserError, match="no candidate is left"):
        write_submission(config, [paths["all"], paths["deep"]], path, output)


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_more_images_are_added_to_what_was_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bn: str) -> None:
    paddle.seed(0)
    net, archs, walked = Supernet(MINI, 10), some_archs(MINI, 4), list[int]()
    walk = Walker.walk

    def counted(self: Walker, root: object, x: paddle.Tensor, visit: object) -> None:
        walked.append(x.shape[0])
        walk(self, root, x, visit)

    monkeypatch.setattr(Walker, "walk", counted)

    def scored(images: int, folder: Path | None) -> np.ndarray:
        overrides = [f"output_dir={tmp_path}", f"data.val_limit={images}", f"score.bn={bn}", "score.batch_size=30"]
        settings = load_config(CONFIGS / "demo.yaml", overrides)
        return score(net, archs, open_images(settings).for_scoring(settings.score), settings, folder)

    scored(40, tmp_path)
    scored(20, tmp_path)
    walked.clear()
    more = scored(100, tmp_path)
    assert sum(walked) == (60 if bn == "running" else 100)
    walked.clear()
    assert np.array_equal(scored(100, tmp_path), more)
    assert not walked
    np.testing.assert_allclose(more, scored(100, None), rtol=1e-6)


def test_sums_over_other_images_are_not_added_to(tmp_path: Path) -> None:
    net, archs = golden_supernet(), some_archs(MINI, 4)
    few, many = scoring_set(10), scoring_set(20)  # other images each
    settings = config(bn="running")
    score(net, archs, few, settings, tmp_path)
    assert np.array_equal(score(net, archs, many, settings, tmp_path), score(net, archs, many, settings))


def test_low_precision_is_refused_without_a_gpu(tmp_path: Path) -> None:
    settings = load_config(CONFIGS / "demo.yaml", [f"output_dir={tmp_path}", "score.amp=bf16", "device=cpu"])
    select_device("cpu")
    with pytest.raises(UserError, match=r"score\.amp: bf16 needs a GPU"):
        score(golden_supernet(), [MINI.smallest], scoring_set(), settings)


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("bn", ["running", "calibrated"])
def test_low_precision_ranks_as_float32_does(tmp_path: Path, amp: str, bn: str) -> None:
    losses = []
    for precision in ("off", amp):
        overrides = [f"output_dir={tmp_path}", f"score.amp={precision}", f"score.bn={bn}", "device=gpu"]
        settings = load_config(CONFIGS / "demo.yaml", overrides)
        select_device("gpu")
        losses.append(
            score(golden_supernet(), some_archs(MINI, 40), open_images(settings).for_scoring(settings.score), settings)[:, 3]
        )
    assert kendall(*losses) > 0.8  # untrained subnets differ little, so their ranks are a hard test
    np.testing.assert_allclose(*losses, rtol=0.1)


def test_the_page_on_scoring_choices_holds_what_was_measured() -> None:
    home = REPOSITORY / "studies" / "scoring_choices"
    tau, page = json.loads((home / "precision.json").read_text())["tau"], (home / "README.md").read_text()
    assert f"| Kendall tau between bfloat16 and float32 | {tau['top1']:.3f} | {tau['likelihood']:.3f} |" in page
    shown = (REPOSITORY / "docs" / "several_gpus.md").read_text()
    assert all(f"{figure:.3f}".lstrip("0") in shown for figure in (tau["likelihood"], tau["top1"]))


def test_a_dry_run_tells_the_time_of_fewer_images(capsys: pytest.CaptureFixture[str]) -> None:
    print_sizes(2000, 3.6)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["500", "1,000"]
    assert "30 minutes" in lines[0] and "60 minutes" in lines[1]
    print_sizes(2000, 3.6, 500)
    assert "60 minutes" in capsys.readouterr().out.splitlines()[2]
    print_sizes(100, 1.0)
    assert not capsys.readouterr().out
