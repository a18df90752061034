"""What a weight file's record says is compared with what a tool is about to do with the weights: every tool, every difference."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import TINY, TINY_CONFIG, Tool, tiny_config
from PIL import Image
from sklearn.datasets import load_digits

from paddle_pgonas.config.loading import Config
from paddle_pgonas.io import records
from paddle_pgonas.io.records import Arrays, Record
from paddle_pgonas.nn.weights import read_weights
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.scoring.session import Session
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.training.standalone import train_standalone
from paddle_pgonas.training.trainer import train

SMALLEST, LARGEST = TINY.smallest, TINY.largest
NAMES = ["ant", "bee", "cat"]


def digit_folder(root: Path, names: list[str]) -> Path:
    """Six training and four validation digits of each class, as an image folder with these names."""
    digits = load_digits()
    for label, name in enumerate(names):
        chosen = np.flatnonzero(digits.target == label)[:10]
        for number, index in enumerate(chosen):
            folder = root / ("train" if number < 6 else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(digits.images[index] * 15.9).astype(np.uint8)).save(folder / f"{number}.png")
    return root


class Files(NamedTuple):
    """Images, and weights that were trained on them."""

    images: Path
    supernet: Path
    alone: Path
    """Stand-alone weights of the smallest subnet."""

    def settings(self, *more: str) -> list[str]:
        few = ["data.train_limit=null", "data.val_limit=null", "train.batch_size=4", "train.epochs=1", "train.warmup_epochs=0"]
        few += ["train.watch_images=0", "train.watch_subnets=0", "train.max_steps=1", "device=cpu"]
        return [*few, "data.source=folder", f"data.root={self.images}", "model.num_classes=3", *more]

    def config(self, folder: Path, *more: str) -> Config:
        return tiny_config(folder, *self.settings(*more))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("meaning")
    made = Files(digit_folder(folder / "images", NAMES), folder / "run" / "supernet.safetensors", folder / "alone.safetensors")
    train(made.config(folder / "run"))
    train_standalone(made.config(folder, "method=null"), SMALLEST, made.alone)
    return made


Change = Callable[[Arrays, Record], tuple[Arrays, Record]]


def of_classes(*names: str) -> Change:
    return lambda arrays, record: (arrays, record | {"training_images": record["training_images"] | {"classes": list(names)}})


def of_space(arrays: Arrays, record: Record) -> tuple[Arrays, Record]:
    space = record["space"] | {"name": "others", "stem_pool": True, "ratios": [1.0, 0.75, 0.625]}
    return arrays, record | {"space": space, "config": record["config"] | {"space": space}}


def of_relu(arrays: Arrays, record: Record) -> tuple[Arrays, Record]:
    config = record["config"] | {"model": record["config"]["model"] | {"activation": "relu"}}
    own = {name: array for name, array in arrays.items() if "act._weight" not in name}
    return own, record | {"activation": "relu", "config": config}


def of_five_classes(arrays: Arrays, record: Record) -> tuple[Arrays, Record]:
    return {name: np.resize(array, (*array.shape[:-1], 5)) if ".fc." in name else array for name, array in arrays.items()}, {}


def unrelated(arrays: Arrays, record: Record) -> tuple[Arrays, Record]:
    return {"stamps": np.zeros([2, 3], np.float32)}, {}


def prefixed(arrays: Arrays, record: Record) -> tuple[Arrays, Record]:
    return {f"Student.module.{name}": array for name, array in arrays.items()}, {}


CHANGES: dict[str, Change] = {
    "same": lambda arrays, record: (arrays, record),
    "other classes": of_classes("ant", "bee", "cow"),
    "other order": of_classes("bee", "ant", "cat"),
    "other space": of_space,
    "other activation": of_relu,
    "other class count": of_five_classes,
    "unrelated": unrelated,
    "prefix": prefixed,
    "no record": lambda arrays, record: (arrays, {}),
}
GOOD, SORTED, KEPT = "accepted", "channels sorted by importance", "channels left in the order of the trained supernet"
MIXED = "+trained on batch statistics"
SCORED = {
    "same": GOOD,
    "other classes": "label 2 was 'cow', now it is 'cat'",
    "other order": "label 0 was 'bee', now it is 'ant'",
    "other space": "with ratios",
    "other activation": "trained with 'relu', but model.activation is 'prelu'",
    "other class count": "set model.num_classes=5",
    "unrelated": "holds no weights of this network",
    "prefix": GOOD,
    "no record": GOOD,
    "stand-alone": "holds the stand-alone weights of subnet",
}
"""What is refused, or said."""
MATRIX: dict[str, dict[str, str]] = {
    "write_submission": SCORED,
    "untrained": SCORED | {"same": KEPT, "other activation": "a network with 'relu'", "prefix": SORTED, "no record": SORTED},
    "search": SCORED,
    "export_subnet": SCORED,
    "verify_entry": SCORED | {"same": MIXED, "other activation": MIXED},  # with the activation of the weights, and running
    "train_supernet": SCORED
    | {"same": KEPT, "other activation": KEPT, "other space": "+with ratios", "prefix": SORTED, "no record": SORTED},
    "teacher": SCORED | {"same": MIXED, "other activation": MIXED},  # with the activation of the weights, and running
    "resume": dict.fromkeys(SCORED, "all checkpoints are damaged")
    | {kind: SCORED[kind] for kind in ("same", "other classes", "other order")}
    | {"other space": "started with space.", "other activation": "model.activation=relu", "stand-alone": "started with method"},
    "train_standalone": SCORED | {"other space": "+with stem_pool True", "stand-alone": "holds a supernet's weights"},
    "convert_weights": dict.fromkeys(SCORED, GOOD) | {"unrelated": "holds no weights"},
}
"""By tool and kind of weights: accepted, or what the refusal says; after a + what a warning says, although they are accepted."""
CELLS = [(name, kind) for name, kinds in MATRIX.items() for kind in kinds]


def written(files: Files, name: str, kind: str, folder: Path) -> Path:
    """A weight file of this kind for a tool."""
    last = Path("checkpoints") / "step-00000001.safetensors"
    source = {"train_standalone": files.alone, "resume": files.supernet.parent / last}.get(name, files.supernet)
    path = folder / "out" / last if name == "resume" else folder / "w.safetensors"
    if kind == "stand-alone":  # where a supernet is expected, and the other way round
        source = files.supernet if source == files.alone else files.alone
    arrays, record = records.read(source)
    records.write(path, *reversed(CHANGES.get(kind, CHANGES["same"])(arrays, record)))
    return path


def command(files: Files, name: str, weights: Path, folder: Path) -> list[object]:
    """The tool with these weights, small."""
    write_scores(folder / "c.json", candidates(SMALLEST, LARGEST), [0.5, 0.5])
    own = {
        "train_standalone": ["method=null"],
        "train_supernet": [f"model.pretrained={weights}"],
        "untrained": [f"model.pretrained={weights}"],
        "teacher": ["method=null", "method=uniform", f"method.teacher={weights}"],
    }.get(name, [])
    config = ["-c", TINY_CONFIG, "-o", f"output_dir={folder / 'out'}", *files.settings(*own)]
    given: list[object] = ["--weights", weights]
    return {
        "write_submission": [*config, *given, "--candidates", folder / "c.json", "--output", folder / "s.json"],
        "search": [*config, *given, "--population", 4, "--generations", 1, "--output", folder / "front.json"],
        "export_subnet": [*config, *given, "--arch", LARGEST, "--images", 2, "--output", folder / "export"],
        "verify_entry": [*config, *given, "--submission", folder / "c.json"],
        "untrained": [*config, "--untrained", "--candidates", folder / "c.json", "--output", folder / "s.json"],
        "train_supernet": config,
        "teacher": config,
        "resume": [*config, "--resume"],
        "train_standalone": [*config, "--arch", SMALLEST, "--start", weights],
        "convert_weights": [weights, folder / "converted.pdparams"],
    }[name]


def candidates(*archs: Arch) -> list[Candidate]:
    return [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs, start=1)]


def said(err: str) -> list[str]:
    """The lines on stderr but for progress."""
    progress = ("training", "scoring", "checking", "skipped: ")
    return [line for line in err.replace("\r", "\n").splitlines() if line and not line.startswith(progress)]


SLOW = ("export_subnet", "search", "verify_entry", "train_supernet", "resume")


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param(*cell, marks=[pytest.mark.slow] if cell[0] in SLOW else []) for cell in CELLS]
)
def test_every_tool_compares_weights_with_its_job(tool: Tool, tmp_path: Path, files: Files, name: str, kind: str) -> None:
    program = {"untrained": "write_submission", "teacher": "train_supernet", "resume": "train_supernet"}.get(name, name)
    status, out, err = tool(program, *command(files, name, written(files, name, kind, tmp_path), tmp_path))
    wanted = MATRIX[name][kind]
    accepted = (0, 1) if name == "verify_entry" else (0,)
    if wanted in (GOOD, SORTED, KEPT) or wanted.startswith("+"):
        assert status in accepted, err
        assert wanted == GOOD or wanted.removeprefix("+") in out + err
        assert ["warning" in line for line in said(err) if not re.search("guessing|not ranked", line)] == [
            True
        ] * wanted.startswith("+"), err
    else:
        assert status == 2 and len(said(err)) == 1, err
        assert wanted in err


@pytest.mark.parametrize("kind", ["other classes", "other order", "other space"])
def test_a_contradiction_that_is_meant_is_accepted_and_said(tool: Tool, tmp_path: Path, files: Files, kind: str) -> None:
    arguments = command(files, "write_submission", written(files, "write_submission", kind, tmp_path), tmp_path)
    status, _, err = tool("write_submission", *arguments, "-o", "model.mismatch=warn")
    assert status == 0 and SCORED[kind] in err, err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.image_size=10 data.resize=10", "warning: .*trained with data.image_size=8, now it is 10"),
        ("data.mean=[.5,.5,.5]", "error: .*data.mean=.* accept it with -o model.mismatch=warn"),
        ("data.std=[.5,.5,.5]", "error: .*data.std="),
        ("score.bn=running", "warning: .*trained on batch statistics"),
    ],
)
def test_other_images_and_statistics_are_said(tool: Tool, tmp_path: Path, files: Files, override: str, words: str) -> None:
    arguments = command(files, "write_submission", files.supernet, tmp_path)
    status, _, err = tool("write_submission", *arguments, "-o", *override.split())
    assert status == (2 if words.startswith("error") else 0), err
    assert len([line for line in said(err) if re.search(words, line)]) == 1, err


def with_depths(files: Files, folder: Path, ranges: list[list[int]]) -> Path:
    """The supernet's weights with a record that says that only these depths were trained."""
    arrays, record = read_weights(files.supernet)
    record["config"]["train"]["depth_ranges"] = ranges
    records.write(folder / "w.safetensors", record, arrays)
    return folder / "w.safetensors"


def test_candidates_outside_the_trained_part_are_counted(tool: Tool, tmp_path: Path, files: Files) -> None:
    weights = with_depths(files, tmp_path, [[2, 2], [1, 2]])
    _, _, err = tool("write_submission", *command(files, "write_submission", weights, tmp_path))
    assert "1 of 2 subnets were not trained; these are weights of depths [[2, 2], [1, 2]]" in err


@pytest.mark.parametrize("bad", [3, [], {"train": 3, "data": [], "model": {"bn": 7}}, {"train": {"depth_ranges": 3}}])
def test_a_strangers_record_of_any_shape_is_not_believed(tool: Tool, tmp_path: Path, files: Files, bad: Any) -> None:
    arrays, _ = read_weights(files.supernet)
    strange = {"config": bad, "training_images": bad, "space": bad, "arch": bad, "classes": bad, "step": bad}
    records.write(tmp_path / "w.safetensors", strange, arrays)
    status, _, err = tool("write_submission", *command(files, "write_submission", tmp_path / "w.safetensors", tmp_path))
    assert status == 0, err


@pytest.mark.parametrize("key", ["config", "training_images", "files", "loss_scale", "step", "processes"])
@pytest.mark.parametrize("bad", [3, {"classes": NAMES}], ids=str)
def test_a_strangers_checkpoint_of_any_shape_ends_in_one_line(
    tool: Tool, tmp_path: Path, files: Files, key: str, bad: object
) -> None:
    path = written(files, "resume", "same", tmp_path)
    arrays, record = records.read(path)
    records.write(path, record | {key: bad}, arrays)
    status, _, err = tool("train_supernet", *command(files, "resume", path, tmp_path))
    assert status in (0, 2) and len(said(err)) == (status == 2), err


def test_stand_alone_weights_are_scored_exported_and_continued(tool: Tool, tmp_path: Path, files: Files) -> None:
    """All with the accuracy that the training printed: the smallest subnet's, whose weights lack most of the supernet's."""
    acc = read_weights(files.alone)[1]["acc"]
    settings = files.settings("score.bn=running", f"output_dir={tmp_path / 'out'}")
    base = ["-c", TINY_CONFIG, "-o", *settings, "--weights", files.alone]
    command(files, "write_submission", files.alone, tmp_path)  # the candidates
    score = ["--candidates", tmp_path / "c.json", "--only", "arch1", "--output", tmp_path / "s.json"]
    status, out, err = tool("write_submission", *base, *score)
    assert status == 0 and f"top1 {acc:.4f} to {acc:.4f}" in out, err
    assert "mixture" not in err
    status, out, err = tool("export_subnet", *base, "--output", tmp_path / "export")
    assert status == 0 and SMALLEST.code in out, err
    status, _, err = tool("export_subnet", *base, "--arch", LARGEST, "--output", tmp_path / "other")
    assert status == 2 and "stand-alone weights of subnet" in err
    alone = command(files, "train_standalone", tmp_path / "export" / "subnet.safetensors", tmp_path)
    status, out, err = tool("train_standalone", *alone, "-o", "train.lr_per_256=0", "--weights", tmp_path / "again.safetensors")
    assert status == 0, err
    ours, theirs = (read_weights(path)[0] for path in (tmp_path / "again.safetensors", files.alone))
    assert all((ours[name] == theirs[name]).all() for name in ours if not name.endswith(("_mean", "_variance")))


def test_a_supernet_needs_a_code_to_export(tool: Tool, tmp_path: Path, files: Files) -> None:
    arguments = ["-c", TINY_CONFIG, "-o", *files.settings(), "--weights", files.supernet, "--output", tmp_path / "export"]
    status, _, err = tool("export_subnet", *arguments)
    assert status == 2 and "--arch CODE" in err


@pytest.mark.parametrize(("reorder", "same"), [("true", True), ("false", True), ("always", False)])
def test_a_supernet_keeps_its_order_unless_asked(tmp_path: Path, files: Files, reorder: str, same: bool) -> None:
    config = files.config(tmp_path, f"model.pretrained={files.supernet}", f"model.reorder={reorder}")
    trained = read_weights(files.supernet)[0]
    assert all((tensor.numpy() == trained[name]).all() for name, tensor in Session(config, None).net.weights().items()) == same


@pytest.mark.slow
def test_an_exported_full_network_teaches(tool: Tool, tmp_path: Path, files: Files) -> None:
    """It has statistics of its own, which a supernet's weights lack."""
    assert tool("export_subnet", *command(files, "export_subnet", files.supernet, tmp_path))[0] == 0
    status, _, err = tool("train_supernet", *command(files, "teacher", tmp_path / "export" / "subnet.safetensors", tmp_path))
    assert status == 0 and not said(err), err


def test_a_full_network_that_was_not_trained_is_said_to_be_a_bad_teacher(tool: Tool, tmp_path: Path, files: Files) -> None:
    _, _, err = tool("train_supernet", *command(files, "teacher", with_depths(files, tmp_path, [[1, 1], [1, 2]]), tmp_path))
    assert "did not use the full network" in err


def test_equal_scores_no_better_than_guessing_are_said_to_be_that(tool: Tool, tmp_path: Path, files: Files) -> None:
    arrays, record = read_weights(files.supernet)
    flat = {name: array * (".fc." not in name) for name, array in arrays.items()}
    records.write(tmp_path / "w.safetensors", record, flat)
    status, _, err = tool("write_submission", *command(files, "write_submission", tmp_path / "w.safetensors", tmp_path))
    assert status == 0
    assert re.search(r"no subnet is better than guessing: the best top-1 is 0\.3333 .* guessing reaches 0\.3333", err), err
    assert "every 'acc' is 0.333333: the 2 candidates are not ranked" in err
