"""The command lines, as a user types them: the main job end to end on real digits, and what each tool writes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, TINY, TINY_CONFIG, TINY_SPACE, Tool, assert_one_line

from paddle_pgonas import __version__
from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.priors import cost
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.space.arch import TRACK1, TRACK1_THIN
from paddle_pgonas.training.trainer import train

TOOLS = sorted(path for path in (REPOSITORY / "tools").glob("*.py") if not path.name.startswith("_"))
DEMO = str(REPOSITORY / "configs" / "demo.yaml")


def test_help_needs_no_paddle() -> None:
    """Of any tool; one process asks them all."""
    code = f"""
import runpy, sys
sys.path.insert(0, {str(REPOSITORY / "tools")!r})
for path in {[str(path) for path in TOOLS]!r}:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        assert not end.code, path
    assert not {{"paddle", "scipy", "matplotlib"}} & set(sys.modules), path
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage:") == len(TOOLS)


def test_every_tool_tells_its_version_without_paddle_and_lists_configurations_if_it_takes_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"""
import runpy, sys
sys.path.insert(0, {str(REPOSITORY / "tools")!r})
for path in {[str(path) for path in TOOLS]!r}:
    sys.argv = [path, sys.argv[1]]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        print(end.code)
assert not {{"paddle", "scipy", "matplotlib"}} & set(sys.modules)
"""
    for option in ("--version", "--list-configs"):
        subprocess.run([sys.executable, "-c", code, option], cwd=tmp_path, check=True)
        lines = capfd.readouterr().out.splitlines()
        if option == "--version":
            assert lines == [f"paddle_pgonas {__version__}", "0"] * len(TOOLS)
        else:
            takers = sum(bool(re.search(r"cli\.add_(config|setting)", path.read_text())) for path in TOOLS)
            assert (lines.count("0"), lines.count("2")) == (takers, len(TOOLS) - takers)
            for path in (REPOSITORY / "configs").rglob("*.yaml"):
                name, purpose = path.relative_to(REPOSITORY / "configs").as_posix(), path.read_text().partition("\n")[0]
                assert sum(line.split("  ")[0] == name and line.endswith(purpose[2:]) for line in lines) == takers


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_begins_with_a_sentence_that_says_what_it_is_for(path: Path) -> None:
    assert re.fullmatch(r"# [A-Z].{20,100}\.", path.read_text().partition("\n")[0], re.I)


def test_a_configuration_of_the_project_is_found_by_name_in_any_folder(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = load_config(REPOSITORY / "configs" / "mini" / "digits.yaml")
    assert load_config("mini/digits.yaml") == load_config("configs/mini/digits.yaml") == whole
    assert tool("sample_candidates", "--space", "mini", "--count", 2, "--output", "c.json")[0] == 0
    prior = ["--prior", "params", "--candidates", "c.json", "--output", "p.json"]
    assert tool("score_prior", "-c", "mini/digits.yaml", *prior)[0] == 0
    assert_one_line(*tool("score_prior", "-c", "digit.yaml", *prior)[::2], "mini/digits.yaml")
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "digits.yaml").write_text("space: mini\n")  # the user's own wins
    assert load_config("mini/digits.yaml") == Config(space="mini")
    (tmp_path / "mini" / "digits.yaml").write_text("base: common_digits.yaml\n")
    with pytest.raises(UserError, match=r"mini/common_digits\.yaml: cannot read"):  # a base lies beside its file
        load_config("mini/digits.yaml")


def test_messages_name_options_in_tools_and_parameters_in_python(tool: Tool, tmp_path: Path) -> None:
    few = ["train.max_steps=1", "train.watch_images=0", "train.watch_subnets=0", "data.train_limit=64"]
    command = ["train_supernet", "-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", *few]
    assert tool(*command)[0] == 0
    status, _, err = tool(*command)
    assert_one_line(status, err, "--resume")
    assert "--overwrite" in err and "=True" not in err
    assert_one_line(*tool(*command, "--resume", "--overwrite")[::2], "one of the two")
    with pytest.raises(UserError, match=r"resume=True .*overwrite=True") as caught:
        train(load_config(TINY_CONFIG, [f"output_dir={tmp_path}", *few]))
    assert "--" not in str(caught.value)
    assert tool(*command, "--overwrite")[0] == 0


SHORT = ["train.epochs=2", "train.watch_subnets=3", "method.random_subnets=1", "method.pairs=1"]


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("config", "space", "changes"),
    [(TINY_CONFIG, TINY_SPACE, SHORT), pytest.param(DEMO, "mini", ["train.epochs=3"], marks=pytest.mark.slow)],
    ids=["tiny", "demo"],
)
def test_the_main_job_from_digits_to_report(
    tool: Tool, tmp_path: Path, config: Path | str, space: Path | str, changes: list[str]
) -> None:
    """What `make demo` does, with fewer epochs and candidates, then search and export; the supernet must have learnt."""
    run, candidates = tmp_path / "run", tmp_path / "candidates.json"
    submission, report = tmp_path / "submission.json", tmp_path / "report.html"
    options = ["-c", config, "-o", f"output_dir={run}", "train.batch_size=32", *changes]
    assert tool("sample_candidates", "--space", space, "--count", 12, "--output", candidates)[0] == 0
    assert tool("train_supernet", *options)[0] == 0
    watched = [line for line in read_json_lines(run / "metrics.jsonl") if "heldout/largest" in line]
    assert len(watched) > 1 and watched[-1]["heldout/largest"] > 0.5

    weights = run / "supernet.safetensors"
    status, out, _ = tool("write_submission", *options, "--weights", weights, "--candidates", candidates, "--output", submission)
    assert status == 0
    entries, scores = json.loads(candidates.read_text()), json.loads(submission.read_text())
    assert [(name, entry["arch"]) for name, entry in scores.items()] == [(name, entry["arch"]) for name, entry in entries.items()]
    assert all(0 <= entry["acc"] <= 1 for entry in scores.values())
    assert len({entry["acc"] for entry in scores.values()}) > 3
    record = json.loads((tmp_path / "submission.record.json").read_text())
    assert (record["bn"], record["images"], record["candidates"]) == ("calibrated", 500, 12)
    assert [training["output_dir"] for training in record["training"]] == [str(run)] and record["training"][0]["method"]
    command = shlex.split(record["command"])
    assert command[0] == "python" and command[-2:] == ["--output", str(submission)]  # the report shows it

    flops = tmp_path / "flops.json"
    assert tool("score_prior", "-c", config, "--prior", "flops", "--candidates", candidates, "--output", flops)[0] == 0
    status, out, _ = tool(
        "compare", submission, flops, "--space", space, "--output", report, "--run", run, "--json", tmp_path / "c.json"
    )
    assert status == 0
    assert "Kendall tau" in out
    assert report.read_text().count("<svg") > 6
    [row] = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert -1 <= row["kendall"]["value"] <= 1 and row["label"] == "flops"

    few = ["data.val_limit=50", "score.calibration_images=20"]
    limit = ["--max-macs", "1e6", "--population", 8, "--generations", 2]
    status, out, _ = tool("search", *options, *few, "--weights", weights, *limit, "--output", tmp_path / "front.json")
    assert status == 0
    best = list(json.loads((tmp_path / "front.json").read_text()).values())[-1]
    assert f"best    {best['arch']}" in out
    files = ["--weights", weights, "--arch", best["arch"], "--output", tmp_path / "out"]
    status, out, _ = tool("export_subnet", *options, *few, *files, "--images", 10)
    assert status == 0
    assert "paddle.inference / dygraph: largest difference of logits" in out
    assert "same prediction on 100.0%" in out
    assert json.loads((tmp_path / "out" / "record.json").read_text())["arch"] == best["arch"]


def test_an_untrained_supernet_is_at_chance(tool: Tool, tmp_path: Path) -> None:
    net = Supernet(TINY, 10, "prelu")
    save_weights(tmp_path / "w.safetensors", net, {})
    (tmp_path / "c.json").write_text(json.dumps({"largest": {"acc": 0, "arch": TINY.largest.code}}))
    files = ["--weights", tmp_path / "w.safetensors", "--candidates", tmp_path / "c.json", "--output", tmp_path / "s.json"]
    assert tool("write_submission", "-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", *files)[0] == 0
    assert json.loads((tmp_path / "s.json").read_text())["largest"]["acc"] < 0.25


def test_each_metric_becomes_acc(tool: Tool, tmp_path: Path) -> None:
    net = Supernet(TINY, 10, "prelu")
    save_weights(tmp_path / "w.safetensors", net, {})
    (tmp_path / "c.json").write_text(json.dumps({"a": {"acc": 0, "arch": TINY.largest.code}}))
    files = ["--weights", tmp_path / "w.safetensors", "--candidates", tmp_path / "c.json", "--output", tmp_path / "s.json"]
    for metric in ("top1", "top5", "probability", "likelihood"):
        assert tool("write_submission", "-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", *files, "--metric", metric)[0] == 0
        [measured] = json.loads((tmp_path / "s.metrics.json").read_text()).values()
        wanted = np.exp(-measured["loss"]) if metric == "likelihood" else measured[metric]
        assert json.loads((tmp_path / "s.json").read_text())["a"]["acc"] == pytest.approx(wanted)


def test_a_prior_is_added_to_the_metric(tool: Tool, tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", Supernet(TINY, 10, "prelu"), {})
    candidates, output = tmp_path / "c.json", tmp_path / "s.json"
    tool("sample_candidates", "--space", TINY_SPACE, "--count", 6, "--output", candidates)
    files = ["--weights", tmp_path / "w.safetensors", "--candidates", candidates, "--output", output]
    command = ["write_submission", "-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", *files, "--metric", "probability"]
    assert tool(*command)[0] == 0
    alone = np.array([entry["acc"] for entry in json.loads(output.read_text()).values()])
    flops = np.array([cost.macs(TINY.parse(entry["arch"]), 8, 10) for entry in json.loads(output.read_text()).values()])
    taus = []
    for weight in (0.01, 1, 100):
        assert tool(*command, "--prior", "flops", "--prior-weight", weight)[0] == 0
        mixed = np.array([entry["acc"] for entry in json.loads(output.read_text()).values()])
        assert (mixed.min(), mixed.max()) == pytest.approx((alone.min(), alone.max()))
        taus.append(kendall(mixed, flops))
    assert taus == sorted(taus) and taus[-1] == pytest.approx(1)
    assert json.loads((tmp_path / "s.record.json").read_text())["prior"] == "flops, weight 100"
    status, _, error = tool(*command, "--dry-run", "--prior", "nowhere:prior")
    assert_one_line(status, error, "nowhere")
    status, _, error = tool(*command, "--first", 1, "--prior", "flops")
    assert_one_line(status, error, "the same for all candidates")


def test_dry_run_needs_no_weights_and_tells_the_plan(tool: Tool, tmp_path: Path) -> None:
    tool("sample_candidates", "--space", "mini", "--count", 50, "--output", tmp_path / "c.json")
    status, out, _ = tool(
        "write_submission", "-c", DEMO, "--candidates", tmp_path / "c.json", "--dry-run", "--json", tmp_path / "p.json"
    )
    plan = json.loads((tmp_path / "p.json").read_text())
    assert status == 0
    assert plan["candidates"] == 50
    assert (plan["images"], plan["calibration_images"]) == (500, 256)
    assert plan["seconds"] == pytest.approx(plan["macs_per_image"] * 756 / plan["macs_per_second"])
    assert plan["macs_ratio"] > 1
    assert "times less" in out


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (["score.bn=running"], 100),
        (["score.bn=calibrated"], 256),
        (["score.bn=calibrated", "score.calibration_batch=64"], 100),
        (["score.bn=calibrated", "score.calibration_images=128", "score.calibration_batch=200"], 128),
    ],
)
def test_dry_run_counts_the_memory_of_calibration(tool: Tool, tmp_path: Path, options: list[str], images: int) -> None:
    tool("sample_candidates", "--space", "mini", "--count", 5, "--output", tmp_path / "c.json")
    sizes = {}
    for name, extra in (("asked", options), ("one", ["score.bn=running", "score.batch_size=1"])):
        files = ["--candidates", tmp_path / "c.json", "--dry-run", "--json", tmp_path / f"{name}.json"]
        assert tool("write_submission", "-c", DEMO, "-o", "score.batch_size=100", *extra, *files)[0] == 0
        sizes[name] = json.loads((tmp_path / f"{name}.json").read_text())["map_bytes"]
    assert images / 2 < sizes["asked"] / sizes["one"] < images * 2  # one image has its working memory, too


def test_sampled_candidates_are_distinct_and_repeatable(tool: Tool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert tool("sample_candidates", "--count", 200, "--seed", 4, "--output", tmp_path / name)[0] == 0
    entries = json.loads((tmp_path / "a").read_text())
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert len({entry["arch"] for entry in entries.values()}) == 200


def test_validating_says_yes_or_everything_that_is_wrong(tool: Tool, tmp_path: Path) -> None:
    candidates, verdict = tmp_path / "c.json", tmp_path / "v.json"
    tool("sample_candidates", "--space", "mini", "--count", 3, "--output", candidates)
    status, out, err = tool("compare", "--validate", candidates, "--candidates", candidates, "--json", verdict)
    assert "all 3 'acc' are 0, as in a candidate file that was not scored" in out
    assert_one_line(status, err, "rules broken: 1, listed above")
    assert json.loads(verdict.read_text())["accepted"] is False
    entries = json.loads(candidates.read_text())
    for number, entry in enumerate(entries.values()):
        entry["acc"] = number / 10
    (tmp_path / "s.json").write_text(json.dumps(entries))
    status, out, _ = tool("compare", "--validate", tmp_path / "s.json", "--candidates", candidates, "--json", verdict)
    assert (status, json.loads(verdict.read_text())["accepted"]) == (0, True)
    assert "accepted as a submission" in out


def test_comparing_needs_no_paddle(tmp_path: Path) -> None:
    code = f"""
import runpy, sys
import paddle_pgonas.scores.correlation
paddle_pgonas.scores.correlation.resamples_for = lambda count: 20
sys.path.insert(0, {str(REPOSITORY / "tools")!r})
for tool, *arguments in (
    ("sample_candidates", "--space", "mini", "--count", "30", "--output", "c.json"),
    ("score_prior", "--prior", "flops", "--candidates", "c.json", "--output", "a.json"),
    ("score_prior", "--prior", "zen", "--candidates", "c.json", "--output", "b.json"),
    ("compare", "a.json", "b.json", "--output", "r.html"),
):
    sys.argv = [tool, *arguments]
    try:
        runpy.run_path({str(REPOSITORY / "tools")!r} + f"/{{tool}}.py", run_name="__main__")
    except SystemExit as end:
        assert not end.code
assert "paddle" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], cost.macs(TRACK1.smallest, 224, 1000)),
        (["--space", "track1_thin"], cost.macs(TRACK1_THIN.smallest, 32, 1000)),
        (["--space", "track1_thin", "--image-size", 48, "--classes", 7], cost.macs(TRACK1_THIN.smallest, 48, 7)),
        (["-c", DEMO, "-o", "space=track1", "--image-size", 40], cost.macs(TRACK1.smallest, 40, 10)),
    ],
    ids=["file alone", "space", "all", "configuration"],
)
def test_a_prior_is_that_of_the_space_image_size_and_classes_asked_for(
    tool: Tool, tmp_path: Path, options: list[object], expected: int
) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"a": {"acc": 0, "arch": TRACK1.smallest.code}}))
    files = ["--candidates", tmp_path / "c.json", "--output", tmp_path / "p.json"]
    status, out, _ = tool("score_prior", "--prior", "flops", *options, *files)
    assert status == 0
    told = "-c" in options or "--classes" in options
    assert out.splitlines()[0].startswith("assumed: images of ") != told and ("1,000 classes" in out) != told
    assert json.loads((tmp_path / "p.json").read_text())["a"]["acc"] == expected


def test_some_candidates_are_scored_without_any_training(tool: Tool, tmp_path: Path) -> None:
    candidates, pretrained = tmp_path / "candidates.json", tmp_path / "pretrained.safetensors"
    tool("sample_candidates", "--space", TINY_SPACE, "--count", 6, "--output", candidates)
    save_weights(pretrained, Supernet(TINY, 10, "relu"), {})
    options = [
        "-c",
        TINY_CONFIG,
        "-o",
        f"output_dir={tmp_path}",
        "data.val_limit=20",
        "model.activation=relu",
        "score.bn=running",
    ]
    files = ["--candidates", candidates, "--output", tmp_path / "s.json", "--metric", "likelihood"]

    def scored(*more: object) -> dict[str, float]:
        status, _, err = tool("write_submission", *options, *more, *files)
        assert status == 0, err
        return {name: entry["acc"] for name, entry in json.loads((tmp_path / "s.json").read_text()).items()}

    untrained = [f"model.pretrained={pretrained}", "model.reorder=false", "--untrained"]
    assert scored(*untrained) == scored("--weights", pretrained)
    assert list(scored(*untrained, "--first", 2)) == ["arch1", "arch2"]
    assert list(scored(*untrained, "--only", "arch5", "arch3")) == ["arch3", "arch5"]
    for wrong in (["--only", "arch9"], ["--first", 0]):
        assert tool("write_submission", *options, *untrained, *wrong, *files)[0] == 2
    status, _, err = tool("write_submission", *options, "--untrained", *files)
    assert status == 2 and "model.pretrained" in err
    assert tool("write_submission", *options, *files)[0] == 2
    for other in ("prelu", "mish"):  # these functions change every score of a ReLU network
        status, _, err = tool("write_submission", *options, "model.activation=" + other, *untrained, *files)
        assert_one_line(status, err, "pass -o model.activation=relu")


def test_a_sum_of_priors_is_added_to_the_scores(tool: Tool, tmp_path: Path, tiny_weights: Path) -> None:
    candidates, output = tmp_path / "c.json", tmp_path / "s.json"
    tool("sample_candidates", "--space", TINY_SPACE, "--count", 6, "--output", candidates)
    options = ["-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", "data.val_limit=20", "model.activation=prelu"]
    files = ["--weights", tiny_weights, "--candidates", candidates, "--output", output]
    assert tool("write_submission", *options, *files, "--metric", "likelihood", "--prior", "flops+params")[0] == 0
    entries = json.loads(output.read_text()).values()
    archs, loss = [TINY.parse(entry["arch"]) for entry in entries], json.loads((tmp_path / "s.metrics.json").read_text()).values()
    columns = np.stack([
        np.exp([-row["loss"] for row in loss]),
        np.log([cost.macs(arch, 8, 10) for arch in archs]),
        np.log([cost.params(arch, 10) for arch in archs]),
    ])  # fmt: skip
    added = ((columns - columns.mean(1, keepdims=True)) / columns.std(1, keepdims=True)).sum(0)
    assert np.corrcoef(added, [entry["acc"] for entry in entries])[0, 1] == pytest.approx(1)
    assert json.loads((tmp_path / "s.record.json").read_text())["prior"] == "flops+params, weight 1"
