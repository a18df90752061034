"""A wrong path is one line before Paddle is loaded and before any image is read, whatever the tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY, TINY_CONFIG

from paddle_pgonas.scores.files import sample_candidates, write_scores

WATCHED = """
import contextlib, io, json, runpy, sys
images, commands = json.loads(sys.argv[1])
opened = []

def watch(event, arguments):
    if event == "open" and images in str(arguments[0]):
        opened.append(arguments[0])

sys.addaudithook(watch)
results = []
for tool, *arguments in commands:
    sys.argv, errors = [tool, *arguments], io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(tool, run_name="__main__")
        except SystemExit as end:
            results.append([end.code, errors.getvalue()])
    assert "paddle" not in sys.modules, tool
assert not opened, opened
print(json.dumps(results))
"""

# {w}: good weights, {c}: good candidates, {d}: images, {no}: no such file, {bad}: of another kind, {file}/out: below a file
TRAIN = "train_supernet -c {yaml} -o data.source=folder model.num_classes=2 output_dir={out} data.root="
ALONE = "train_standalone -c {yaml} -o method=null output_dir={out} data.source=folder data.root="
SCORE = "write_submission -c {yaml} -o output_dir={out} data.source=folder data.root="
MISTAKES = {
    TRAIN + "{d} model.pretrained={no}": "model.pretrained: {no}: no such weight file",
    TRAIN + "{d} model.pretrained={bad}": "{bad}: not a complete safetensors file",
    TRAIN + "{no}": "{no}/train is not a folder",
    TRAIN + "{d} data.train_list={no}": "data.train_list: {no}: no such file",
    TRAIN + "{d} train.watch_images=10 train.watch_truth={no}": "train.watch_truth: {no}: no such file",
    TRAIN + "{half}/a train.watch_images=10": "{half}/a/val is not a folder",
    TRAIN + "{d} output_dir={file}/out": "output_dir: {file}/out: cannot be written",
    ALONE + "{d} --arch {arch} --start {no}": "{no}: no such weight file",
    ALONE + "{no} --arch {arch}": "{no}/train is not a folder",
    SCORE + "{no} --weights {w} --candidates {c} --output {new}": "data.root: {no}/val is not a folder",
    SCORE + "{d} --weights {no} --candidates {c} --output {new}": "{no}: no such weight file",
    SCORE + "{d} --weights {w} --candidates {no} --output {new}": "{no}: no such file",
    SCORE + "{d} --weights {w} --candidates {c} --output {file}/s.json": "{file}/s.json: cannot be written",
    SCORE + "{d} model.pretrained={no} --untrained --candidates {c} --output {new}": "{no}: no such weight file",
    SCORE + "{no} --candidates {c} --dry-run": "data.root: {no}/val is not a folder",
    "search -c {yaml} --weights {no} --output {new}": "{no}: no such weight file",
    "search -c {yaml} -o data.source=folder data.root={no} --weights {w} --output {new}": "{no}/val is not a folder",
    "export_subnet -c {yaml} --weights {bad} --arch {arch} --output {new}": "{bad}: not a complete safetensors file",
    "export_subnet -c {yaml} --weights {w} --arch {arch} --output {file}/out": "{file}/out: cannot be written",
    "export_subnet -c {yaml} -o data.source=folder data.root={no} --weights {w} --arch {arch} --output {new}": "{no}/val is not",
    "score_prior --prior flops --candidates {no} --output {new}": "{no}: no such file",
    "score_prior -c {yaml} -o data.source=folder data.root={no} --prior near --candidates {c} --output {new}": "{no}/train is",
    "verify_entry -o data.root={no} --weights {w} --submission {c}": "{no}/val is not a folder",
    "verify_entry -o data.root={half}/b score.bn=calibrated --weights {w} --submission {c}": "{half}/b/train is not a folder",
    "verify_entry -o data.root={d} --weights {w} --submission {no}": "{no}: no such file",
    "compare {c} {c} --truth {no}": "{no}: no such file",
    "compare {c} {c} --output {new} --run {no}": "{no}: no such folder",
    "convert_weights {no} {new}.pdparams": "{no}: no such weight file",
}


def test_a_wrong_path_is_told_before_paddle_and_before_any_image(image_folder: Path, tmp_path: Path, tiny_weights: Path) -> None:
    bad, file, candidates = tmp_path / "bad.safetensors", tmp_path / "file", tmp_path / "c.json"
    bad.write_text("{}")
    for folder in ("a/train", "b/val"):
        (tmp_path / "half" / folder).mkdir(parents=True)
    file.write_text("")
    candidates_of = sample_candidates(TINY, 3, 0)
    write_scores(candidates, candidates_of, [0.0] * 3)
    names = {
        **{"yaml": TINY_CONFIG, "w": tiny_weights, "c": candidates, "d": image_folder, "no": tmp_path / "nowhere", "bad": bad},
        "half": tmp_path / "half",
        **{"file": file, "out": tmp_path / "out", "new": tmp_path / "new.json", "arch": TINY.smallest},
    }
    commands = []
    for command in MISTAKES:
        tool, *arguments = (word.format(**names) for word in command.split())
        commands.append([str(REPOSITORY / "tools" / f"{tool}.py"), *arguments])
    given = json.dumps([str(image_folder), commands])
    done = subprocess.run([sys.executable, "-c", WATCHED, given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (command, words), (status, error) in zip(MISTAKES.items(), json.loads(done.stdout), strict=True):
        assert status == 2 and error.count("\n") == 1, (command, error)
        assert words.format(**names) in error, (command, error)
    assert not (tmp_path / "out").exists() and not (tmp_path / "new.json").exists()


def test_the_library_reads_no_image_before_the_weights_are_there(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import tiny_config

    from paddle_pgonas.data.sources import Folder
    from paddle_pgonas.errors import UserError
    from paddle_pgonas.training.standalone import train_standalone
    from paddle_pgonas.training.trainer import train

    def refuse(*_: object) -> None:
        raise AssertionError("an image was read")

    for name in ("read", "fingerprint"):
        monkeypatch.setattr(Folder, name, refuse)
    options = ["data.source=folder", f"data.root={image_folder}", "model.num_classes=2", "train.watch_images=2"]
    with pytest.raises(UserError, match="no such weight file"):
        train(tiny_config(tmp_path / "run", *options, f"model.pretrained={tmp_path / 'nowhere'}"))
    with pytest.raises(UserError, match="no such weight file"):
        train_standalone(
            tiny_config(tmp_path / "run", *options[:3], "method=null"), TINY.smallest, start=str(tmp_path / "nowhere")
        )
    with pytest.raises(UserError, match="holds no run"):
        train(tiny_config(tmp_path / "run", *options), resume=True)
