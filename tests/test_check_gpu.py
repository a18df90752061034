"""The check of a GPU: no part that fails hides another, and what each part would call wrong is called wrong."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_CONFIG, TINY_SPACE, Tool

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_check import agreement, environment, hours, ranks, runner, track1, training
from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.gpu_check.parts import FIRST, PARTS, Part
from paddle_pgonas.priors.cost import macs
from paddle_pgonas.space.arch import TRACK1

TINY = {"space": str(TINY_SPACE), "side": 8}


def part(name: str, function: str | None = None, **options: Any) -> Part:
    return Part(name, f"parts_of_a_check:{function or name}", **options)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of parts find those of the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("cpu", "off", tmp_path, {})


def checked(folder: Path, *parts: Part, first: Part | None = None, device: str = "auto") -> tuple[bool, dict[str, Any]]:
    """Whether none failed, and the report, whose parts are by name."""
    well = runner.check(device, folder / "report.json", parts, first or part("first", "describe"))
    report = json.loads((folder / "report.json").read_text())
    return well, report | {"parts": {entry["name"]: entry for entry in report["parts"]}}


def ends(process: int) -> bool:
    """Whether a killed process is gone, or dead and not yet waited for, within some seconds."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_part_that_fails_in_any_way_is_named_and_hides_no_other(
    parts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = tmp_path / "pid"
    failing = [part(name) for name in ("wrong", "mistaken", "raises", "killed", "leaves", "unfit")]
    failing += [part("missing", "nothing_of_this_name"), part("hangs", gpu={"pid_file": str(pid)}, limit=5)]
    well, report = checked(tmp_path, part("before", "passes"), *failing, part("after", "passes", gpu={"seen": "last"}))
    said = {name: entry["line"] for name, entry in report["parts"].items()}
    assert not well
    assert {name for name, entry in report["parts"].items() if entry["status"] == "failed"} == {entry.name for entry in failing}
    assert said["wrong"] == "differs by 0.5" and report["parts"]["wrong"]["details"] == {"difference": 0.5}
    assert said["mistaken"] == "train.amp: fp16 needs a GPU"
    assert "illegal memory access" in said["raises"] and "Traceback" in report["parts"]["raises"]["log"]
    assert "SIGKILL" in said["killed"] and "about to be killed" in said["killed"]
    assert "status 7" in said["leaves"]
    assert "killed after 5 s" in said["hangs"]
    assert said["after"] == "gpu off last"
    assert report["parts"]["after"]["details"]["earlier"] == ["before", "first"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(failing) + 4
    assert lines[-1].startswith("FAILED: wrong, mistaken") and "3 of 11 parts passed" in lines[-1]
    assert report["verdict"] in lines[-1]
    assert not pid.exists() or ends(int(pid.read_text()))


def test_a_part_runs_only_where_the_device_has_what_it_needs(parts: None, tmp_path: Path) -> None:
    some = [part("bf16", "passes", amp="bf16", capability=(8, 0)), part("two", "passes", gpus=2)]
    some.append(part("flag", "passes", environment={"A_FLAG": "1"}))
    well, report = checked(tmp_path, *some)
    assert well and report["verdict"].startswith("PASSED") and "A GPU" in report["verdict"]
    assert {name: entry["status"] for name, entry in report["parts"].items()} == {
        "first": "passed", "bf16": "not applicable", "two": "not applicable", "flag": "passed"
    }  # fmt: skip
    assert "8.0" in report["parts"]["bf16"]["line"] and "7.5" in report["parts"]["bf16"]["line"]
    assert report["parts"]["flag"]["details"]["variable"] == "1"
    cpu = part("first", "describe", cpu={"device": "cpu"})
    well, report = checked(
        tmp_path, part("gpu", "passes"), part("both", "passes", cpu={"seen": "small"}), first=cpu, device="cpu"
    )
    assert [entry["status"] for entry in report["parts"].values()] == ["passed", "not applicable", "passed"]
    assert report["parts"]["both"]["line"] == "cpu off small"
    assert "nothing about a GPU" in report["verdict"]


def test_a_device_that_cannot_be_described_still_has_every_part_tried(parts: None, tmp_path: Path) -> None:
    well, report = checked(tmp_path, part("passes"), first=part("first", "broken"))
    assert not well and report["parts"]["passes"]["status"] == "passed"
    assert report["parts"]["first"]["details"] == {"versions": {"paddle": "none"}}


def test_every_part_names_a_function_and_sizes_that_it_takes() -> None:
    import inspect

    from paddle_pgonas.import_paths import import_callable

    names = [entry.name for entry in (FIRST, *PARTS)]
    assert len(set(names)) == len(names)
    for entry in (FIRST, *PARTS):
        signature = inspect.signature(import_callable(entry.function, "part"))
        for sizes in (entry.gpu, entry.cpu):
            if sizes is not None:
                signature.bind(None, **sizes)


def test_the_description_of_a_device_names_versions_and_libraries(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    line, facts = environment.describe(job)
    assert facts["device"] == "cpu" and facts["versions"]["paddle"] in line
    properties = type("Properties", (), {"name": "Tesla V100", "major": 7, "minor": 0, "total_memory": 2**34})
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 2)
    assert environment.graphics(properties) == {"name": "Tesla V100", "capability": [7, 0], "memory_bytes": 2**34, "gpus": 2}


@pytest.mark.parametrize("mistake", ["no GPU", "GPU that Paddle does not see", "library missing"])
def test_a_device_that_cannot_be_used_is_described_as_far_as_possible(
    job: Job, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = "gpu" if mistake == "no GPU" else "auto"
    if mistake == "library missing":
        monkeypatch.setitem(sys.modules, "paddle", None)
    monkeypatch.setattr(environment, "driver", lambda: {"works": True, "said": ["Tesla V100, 535.1, 16384 MiB"]})
    words = {"no GPU": "sees no GPU", "library missing": "ModuleNotFoundError"}.get(mistake, "lists Tesla V100.*sees no GPU")
    with pytest.raises(Failed, match=words) as caught:
        environment.describe(replace(job, device=device))
    facts = caught.value.details
    assert {"versions", "driver", "libraries", "variables"} <= facts.keys()
    assert facts.get("device") == ("cpu" if mistake == "GPU that Paddle does not see" else None)


def test_devices_that_differ_are_told_apart(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _, details = agreement.devices(job, **TINY, images=4)
    assert set(details.values()) == {0.0}
    outcomes = iter([{what: {"a": np.ones(4) * scale} for what in agreement.SAME} for scale in (1.0, 1.01)])
    monkeypatch.setattr(agreement, "outcome", lambda *_: next(outcomes))
    with pytest.raises(Failed, match="differs from the CPU"):
        agreement.devices(job, **TINY, images=4)


@pytest.mark.parametrize("other", [{"a": np.array([1.0, np.nan])}, {"b": np.ones(2)}])
def test_no_number_and_no_array_are_infinitely_far(other: dict[str, np.ndarray]) -> None:
    assert training.distance({"a": np.array([3.0, 4.0])}, {"a": np.array([3.0, 4.5])}) == pytest.approx(0.5 / 29.25**0.5)
    assert training.distance({"a": np.ones(2)}, other) == training.distance(other, {"a": np.ones(2)}) == np.inf


def test_steps_that_are_not_repeated_bit_for_bit_fail(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"images": 2, "steps": 1}
    training.repeat(job, **TINY, **sizes)
    seeds = iter((0, 1))
    configuration = training.configuration
    monkeypatch.setattr(training, "configuration", lambda *args: configuration(*args, f"seed={next(seeds)}"))
    with pytest.raises(Failed, match="tensors differ"):
        training.repeat(job, **TINY, **sizes)


def test_memory_below_the_estimate_and_batches_that_do_not_fit_are_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, error = TINY | {"batches": [2, 3], "steps": 1}, UserError("out of memory with 3 images at a time")
    timed = track1._timed

    def full(run: Any, side: int, images: int, steps: int) -> dict[str, Any]:
        if images > 2:
            raise error
        return timed(run, side, images, steps)

    monkeypatch.setattr(track1, "_timed", full)
    monkeypatch.setattr(track1.Peak, "bytes", lambda peak: 2**40)
    _, details = track1.train(job, **sizes)
    assert [row["images"] for row in details["batches"]] == [2] and "out of memory" in details["refusal"]
    monkeypatch.setattr(track1.Peak, "bytes", lambda peak: 1)
    with pytest.raises(Failed, match="less memory than estimated"):
        track1.train(job, **sizes)
    error = RuntimeError("ResourceExhausted: where the batch was made")
    with pytest.raises(Failed, match=r"not even 3 images.*ResourceExhausted"):
        track1.train(job, **(sizes | {"batches": [3]}))
    for error in (RuntimeError("illegal memory access"), Failed("losses that are not numbers")):
        with pytest.raises(type(error), match=str(error)):
            track1.train(job, **sizes)


def test_scores_that_depend_on_the_batch_or_rank_otherwise_in_low_precision_fail(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = TINY | {"narrowest": [2, 3], "candidates": 6, "batches": [2, 3], "calibration": 2}
    _, details = track1.score(job, **sizes)
    low = replace(job, amp="fp16", earlier={"scoring": details})
    monkeypatch.setattr(track1.scorer, "compute_dtype", lambda amp, key: "float32")
    _, same = track1.score(low, **sizes)
    assert same["kendall_with_float32"] == pytest.approx(1) and same["from_float32"] == 0
    reverse = {"loss": [-loss for loss in details["loss"]]}
    with pytest.raises(Failed, match="differ by more than rounding"):
        track1.score(replace(low, earlier={"scoring": reverse}), **sizes)


def test_the_types_of_maps_are_those_of_every_layer(tmp_path: Path) -> None:
    overrides = [f"output_dir={tmp_path}", "data.train_limit=8", "train.batch_size=8", "device=cpu"]
    config = load_config(TINY_CONFIG, [*overrides, "train.watch_images=0", "train.watch_subnets=0"])
    found = training.types(training.start_run(config, training.open_batches(config)))
    assert found == {kind: ["float32"] for kind in ("convolutions", "BatchNorms", "activations")}


def test_the_hours_are_rate_times_work() -> None:
    per_image = hours.training_macs()
    assert per_image["sandwich"] > 3 * (macs(TRACK1.largest, 224, 1000) + macs(TRACK1.smallest, 224, 1000))
    rows = {(data, what): value for data, what, value in hours.hours(1e12, 2e12)}
    assert rows["ImageNet-mini", "train PGONAS"] == pytest.approx(70 * 34_745 * per_image["PGONAS"] / 1e12 / 3600)
    assert rows["ImageNet", "score 45,000"] == pytest.approx(50_256 * hours.SCORING_MACS / 2e12 / 3600)
    rates = {"space": "track1", "side": 224}
    measured = {"track1": rates | {"macs_per_second": 1e12}, "scoring": {"macs_per_second": 2e12}, "repeat": {}}
    measured["track1-fp16"] = rates | {"macs_per_second": 4e12}
    table = hours.table(measured)
    assert list(table) == ["track1"] and dict.fromkeys(rows) == {(data, what): None for data, what, _ in table["track1"]}
    measured["scoring-fp16"] = {"macs_per_second": 4e12}
    assert list(hours.table(measured)) == ["track1", "track1-fp16"]
    assert len(hours.printed(measured)) == 2 + len(rows)
    assert hours.printed({}) == []


def test_an_unknown_part_is_refused(tool: Tool) -> None:
    status, _, err = tool("check_gpu", "--only", "nonsense")
    assert status == 2 and "nonsense" in err


@pytest.mark.slow
def test_the_whole_check_passes_on_a_cpu(tool: Tool, tmp_path: Path) -> None:
    status, out, err = tool("check_gpu", "--device", "cpu", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert status == 0, out + err + json.dumps(report, indent=2)
    statuses = {entry["name"]: entry["status"] for entry in report["parts"]}
    small = {entry.name for entry in (FIRST, *PARTS) if entry.cpu is not None}
    assert {name for name, status in statuses.items() if status == "passed"} == small
    assert set(statuses.values()) == {"passed", "not applicable"}
    assert out.splitlines()[-1].startswith("PASSED")
    assert list(report["hours"]) == ["track1"]


@pytest.mark.slow
def test_batch_norm_of_each_process_by_itself_is_told_from_one_over_both(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the launcher use synchronised statistics; the single process is given half of the batch."""
    configuration = ranks.configuration
    monkeypatch.setattr(ranks, "configuration", lambda folder, device, world: configuration(folder, device, 2))
    with pytest.raises(Failed, match="two processes are not one"):
        ranks.compare(job)
