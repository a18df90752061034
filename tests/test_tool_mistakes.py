"""The command lines with a mistake of the user in them: one line, exit status 2, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Tool, assert_one_line, fill_golden

from paddle_pgonas import processes
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.space.arch import MINI

DEMO = str(REPOSITORY / "configs" / "demo.yaml")
SUBMISSION = ["write_submission", "-c", DEMO, "--weights", "w", "--candidates", "c", "--output", "s"]


def test_a_bad_search_or_export_is_one_line(tool: Tool, tmp_path: Path, tiny_weights: Path) -> None:
    output = ["--output", tmp_path / "out"]
    assert_one_line(*tool("search", "-c", DEMO, *output)[::2], "either --weights FILE or --prior NAME")
    assert_one_line(*tool("search", "-c", DEMO, "--prior", "zen", "--max-macs", 10, *output)[::2], "the smallest has")
    files = ["--weights", tmp_path / "nowhere", *output]
    assert_one_line(*tool("export_subnet", "-c", DEMO, *files, "--arch", "123")[::2], "a code of space mini")
    assert_one_line(*tool("export_subnet", "-c", DEMO, *files, "--arch", GOOD)[::2], "no such weight file")
    files[1] = tiny_weights
    assert_one_line(*tool("export_subnet", "-c", DEMO, "-o", "score.bn=batch", *files, "--arch", GOOD)[::2], "score.bn=batch")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train_standalone", "-c", DEMO, "--arch", MINI.smallest.code, "--output", "x"], "--output needs --candidates"),
        (["search", "-c", DEMO, "--prior", "zen", "--metric", "top5", "--output", "x"], "--metric"),
        (["search", "-c", DEMO, "--prior", "zen", "--latency-batch", "8", "--output", "x"], "needs --max-latency-ms"),
        (["search", "-c", DEMO, "--prior", "zen", "--output", ""], "empty name"),
        ([*SUBMISSION, "--prior-weight", "2"], "--prior-weight needs --prior"),
        ([*SUBMISSION, "--prior", "zen", "--prior-weight", "nan"], "a number above 0, not nan"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(*tool(*command)[::2], words)
    assert not list(tmp_path.iterdir())


def test_json_of_a_plan_needs_a_dry_run(tool: Tool, tmp_path: Path) -> None:
    tool("sample_candidates", "--space", "mini", "--count", 4, "--output", tmp_path / "c.json")
    files = ["--weights", tmp_path / "w", "--output", tmp_path / "s.json", "--json", tmp_path / "p.json"]
    status, _, error = tool("write_submission", "-c", DEMO, "--candidates", tmp_path / "c.json", *files)
    assert_one_line(status, error, "--json needs --dry-run")


def test_a_file_that_cannot_be_reached_is_one_line(tool: Tool, tmp_path: Path) -> None:
    status, _, error = tool("convert_weights", "x" * 300 + ".safetensors", tmp_path / "out.pdparams")
    assert_one_line(status, error, "File name too long")


GOOD = MINI.largest.code
BAD_CANDIDATES = {
    "not JSON": "{",
    "empty": "{}",
    "a list": "[]",
    "no arch": json.dumps({"a": {"acc": 0}}),
    "repeated code": json.dumps({"a": {"arch": GOOD}, "b": {"arch": GOOD}}),
    "repeated name": f'{{"a": {{"arch": "{GOOD}"}}, "a": {{"arch": "{MINI.smallest.code}"}}}}',
    "wrong length": json.dumps({"a": {"arch": GOOD + "1"}}),
    "digit out of range": json.dumps({"a": {"arch": GOOD[:5] + "8" + GOOD[6:]}}),
    "untied conv2": json.dumps({"a": {"arch": GOOD[:8] + "2" + GOOD[9:]}}),
}


@pytest.mark.parametrize("content", BAD_CANDIDATES.values(), ids=list(BAD_CANDIDATES))
def test_a_bad_candidate_file_is_one_line_and_leaves_nothing(tool: Tool, tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    save_weights(tmp_path / "w.safetensors", Supernet(MINI, 10, "prelu"), {})
    before = set(tmp_path.iterdir())
    files = ["--weights", tmp_path / "w.safetensors", "--candidates", tmp_path / "c.json", "--output", tmp_path / "s.json"]
    status, _, err = tool("write_submission", "-c", DEMO, "-o", f"output_dir={tmp_path}", *files)
    assert_one_line(status, err, "c.json")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["train.epoch=3"], "unknown key train.epoch; did you mean train.epochs?"),
        (["train.epochs=three"], "train.epochs must be of type int"),
        (["train.batch_size=0"], "train.batch_size must be at least 1"),
        (["train.batch_size=5000"], "train.batch_size 5000 is larger"),
        (["data.source=folder"], "data.root"),
        (["data.source=folder", "data.root=nowhere"], "nowhere"),
        (["model.pretrained=nowhere.pdparams"], "nowhere.pdparams: no such weight file"),
        (["method=null"], "method: none is configured; choose one with -o method=NAME (uniform,"),
        (
            ["method=null", "method=fair_sandwich", "method.teacher=nowhere"],
            "method.teacher is no key of the method fair_sandwich",
        ),
        (["method=null", "method=uniform", "method.teacher=nowhere"], "nowhere: no such weight file"),
        (["method.pair_distance=26", "method.rank_lambda=constant"], "method.pair_distance"),
        (["method.pair_ratio=0.5"], "method.pair_ratio must be at least 1"),
        (["train.pairs=3"], "train.pairs is now method.pairs"),
        (["novalue"], "key=value"),
    ],
)
def test_a_bad_training_option_is_one_line_and_leaves_nothing(tool: Tool, tmp_path: Path, options: list[str], names: str) -> None:
    run = tmp_path / "run"
    status, _, err = tool("train_supernet", "-c", DEMO, "-o", f"output_dir={run}", "train.max_steps=1", *options)
    assert_one_line(status, err, names)
    assert not [path for path in run.rglob("*.safetensors") if "cache" not in path.parts]
    assert not list(run.rglob("*.part"))


def test_bad_weights_are_one_line(tool: Tool, tmp_path: Path) -> None:
    net = Supernet(MINI, 10)
    fill_golden(net)
    save_weights(tmp_path / "w.safetensors", net, {})
    (tmp_path / "c.json").write_text(json.dumps({"a": {"acc": 0, "arch": GOOD}}))
    files = ["--weights", tmp_path / "w.safetensors", "--candidates", tmp_path / "c.json", "--output", tmp_path / "s.json"]
    assert_one_line(*tool("write_submission", "-c", DEMO, *files)[::2], "model.activation")


def test_a_folder_that_cannot_be_written_is_one_line(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = tool("sample_candidates", "--count", 2, "--output", tmp_path / "file" / "c.json")
    assert_one_line(status, err, "cannot be written")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "give score files"),
        (["a.json", "--validate", "b.json"], "--validate takes"),
        (["a.json", "b.json", "--candidates", "c.json"], "--candidates goes with --validate"),
        (["a.json", "b.json", "--run", "run"], "--run goes with"),
        (["a.json"], "nothing to compare"),
        (["a.json", "nowhere.json"], "nowhere.json"),
    ],
)
def test_arguments_that_do_not_go_together_are_one_line(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], names: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tool("sample_candidates", "--space", "mini", "--count", 3, "--output", "a.json")
    assert_one_line(*tool("compare", *arguments)[::2], names)


@pytest.mark.parametrize(
    ("options", "names"),
    [(["--classes", 0], "--classes"), (["-o", "seed=1"], "-o goes with -c"), (["-c", DEMO, "--space", "mini"], "--space")],
)
def test_options_of_a_prior_that_make_no_sense_are_one_line(tool: Tool, options: list[object], names: str) -> None:
    assert_one_line(*tool("score_prior", "--prior", "flops", "--candidates", "c", "--output", "o", *options)[::2], names)


def test_an_unknown_argument_is_one_line(tool: Tool) -> None:
    assert_one_line(*tool("score_prior", "--prior", "luck", "--candidates", "x", "--output", "y")[::2], "--prior")


@pytest.mark.parametrize(
    "command",
    [
        "write_submission -c {yaml} --weights {weights} --candidates {file} --output {file}",
        "write_submission -c {yaml} --weights {weights} --candidates {file} --output {weights}",
        "write_submission -c {yaml} --candidates {file} --dry-run --json {yaml}",
        "compare {file} {file} --output {file}",
        "compare {file} --truth {yaml} --json {yaml}",
        "compare --validate {file} --json {file}",
        "convert_weights {weights} {weights}",
        "sample_candidates --count 2 --output {folder}",
        "score_prior --prior flops --candidates {file} --output {file}",
        "search -c {yaml} --weights {weights} --output {weights}",
        "train_standalone -c {yaml} --candidates {file} --output {file}",
        "train_standalone -c {yaml} --arch {code} --weights {yaml}",
        "export_subnet -c {yaml} --weights {folder}/subnet.safetensors --arch {code} --output {folder}",
    ],
)
def test_no_tool_overwrites_what_it_reads(tool: Tool, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    files = {"yaml": tmp_path / "c.yaml", "weights": tmp_path / "w.safetensors", "file": tmp_path / "candidates.json"}
    files["yaml"].write_text(Path(DEMO).read_text())
    net = Supernet(MINI, 10)
    save_weights(files["weights"], net, {})
    save_weights(folder / "subnet.safetensors", net, {})
    tool("sample_candidates", "--space", "mini", "--count", 2, "--output", files["file"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    name, *arguments = command.format(**files, folder=folder, code=MINI.smallest).split()
    status, _, errors = tool(name, *arguments)
    assert status == 2 and errors.count("\n") == 1, errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def run_tool(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


def test_names_that_no_terminal_can_show_are_printed_escaped(tmp_path: Path) -> None:
    strange = os.fsencode(tmp_path) + b"/caf\xc3\xa9 \xff.json"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run_tool(REPOSITORY / "tools" / "sample_candidates.py", "--count", "2", "--output", strange, env=environment)
    assert done.returncode == 0 and rb"caf\xe9 \udcff" in done.stdout, done.stderr
    done = run_tool(REPOSITORY / "tools" / "compare.py", strange + b"absent", env=environment)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr


def test_a_deleted_working_folder_is_one_line(tmp_path: Path) -> None:
    script = REPOSITORY / "tools" / "sample_candidates.py"
    gone = tmp_path / "gone"
    gone.mkdir()
    enter = f"import os, runpy, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})"
    enter += "; sys.argv[1:] = ['--count', '2', '--output', 'a']"
    done = run_tool(
        "-c", f"{enter}; sys.path.insert(0, {str(script.parent)!r}); runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    assert done.returncode == 2 and b"working folder" in done.stderr and done.stderr.count(b"\n") == 1, done.stderr


def test_a_rank_that_is_none_is_named_before_paddles_import_fails_on_it() -> None:
    code = "from paddle_pgonas.runtime import prepare_process; prepare_process()"
    command, environment = [sys.executable, "-c", code], os.environ | {"PADDLE_TRAINER_ID": "x"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert "UserError: PADDLE_TRAINER_ID='x'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"])
@pytest.mark.parametrize("value", ["x", "-1", "", "7", "0" * 5000])
def test_a_rank_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    if (name, value) == ("PADDLE_TRAINERS_NUM", "7"):
        assert processes.world() == 7
    else:
        with pytest.raises(UserError, match=name):
            processes.rank()
