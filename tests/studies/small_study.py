"""A study of three methods on a few tiny images, which tests run or fill with made-up results."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, some_archs
from PIL import Image

from paddle_pgonas.io.files import write_json
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.space.arch import MINI
from studies import intervals, runner
from studies.runner import Runner
from studies.study import Study

CANDIDATES = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(some_archs(MINI, 6), start=1)]

TABLES = [
    "truth",
    "power",
    "rates",
    "methods calibrated",
    "methods published confirmation",
    "differences",
    "differences choice",
    "readings calibrated choice",
    "recipes confirmation",
]

BASE = {
    "space": "mini",
    "data": {"image_size": 8, "resize": 8, "augment": "shift", "workers": 0},
    "model": {"num_classes": 2},
    "train": {"epochs": 1, "batch_size": 4, "warmup_epochs": 0},
}

STUDY: dict[str, Any] = {
    "tables": TABLES,
    "pictures": ["tau calibrated", "training published"],
    "largest": "base.yaml",
    "largest_seeds": 2,
    "seeds": 2,
    "halves": 0,
    "narrowest_codes": [3, 5, 7],
    "watch_images": 4,
    "watch_at": [0, 1],
    "detailed_seeds": 1,
    "controls": ["flops", "blocks"],
    "regimes": {
        "calibrated": {"rates": [0.01, 1e30], "rate_options": ["train.max_steps=2"]},
        "published": {"bn": "running", "options": ["model.bn=frozen", "score.bn=running"]},
    },
    "methods": {
        "no_training": {"label": "no training", "config": "base.yaml", "trained": False},
        "sandwich": {"label": "sandwich"},
        "few_shot": {
            "label": "few-shot",
            "teacher": True,
            "after": "sandwich",
            "groups": {"a": "[[1, 2], [1, 4], [1, 4]]", "b": "[[1, 4], [1, 4], [1, 4]]"},
        },
    },
    "comparisons": [["sandwich", "no_training"], ["sandwich", "flops"], ["few_shot-published", "no_training-calibrated"]],
    "recipes": {
        "best": {"label": "sandwich and FLOPs", "variant": "sandwich-calibrated", "metric": "probability", "prior": "flops"},
        "start": {"label": "the start", "variant": "no_training-published"},
        "few": {"label": "few-shot", "variant": "few_shot-published", "metric": "likelihood"},
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study of three methods in two regimes, with images, candidates and a made-up truth."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "images" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    own = {"sandwich": {"method": "sandwich"}, "few_shot": {"method": "uniform", "train": {"narrowest_codes": [3, 5, 7]}}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    for name, values in own.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"base": "base.yaml"} | values))
    write_scores(tmp_path / "candidates.json", CANDIDATES, [0.0] * len(CANDIDATES))
    accs = {entry.name: {"arch": entry.arch.code, "acc": list(rng.random(2))} for entry in CANDIDATES}
    write_json(tmp_path / "accuracies.json", {"seeds": [0, 1], "results": accs})
    (tmp_path / "README.md").write_text("\n".join(f"<!-- begin {name} -->\n<!-- end {name} -->" for name in TABLES))
    return written(tmp_path, STUDY)


def written(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return folder / "study.yaml"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tools' command lines; they run in this process, which is faster."""
    listed: list[list[str]] = []

    def run(command: list[str], stdout: Any = None, **_: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "git":
            return subprocess.CompletedProcess(command, 0, "1234-dirty\n")
        listed.append(command[1:])
        output = io.StringIO()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as left, redirect_stdout(output), redirect_stderr(output):
            patch.setattr(sys, "argv", command[1:])
            runpy.run_path(command[1], run_name="__main__")
        stdout.write(output.getvalue())
        stdout.flush()
        return subprocess.CompletedProcess(command, int(left.value.code or 0))

    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(run=run))
    serial = nullcontext(SimpleNamespace(map=map))  # signals, which trainings handle, need the main thread
    monkeypatch.setattr(runner, "ThreadPoolExecutor", lambda processes: serial)
    monkeypatch.setattr(runner, "PROBES", 2)
    monkeypatch.setattr(runner, "EXTENSIONS", 0)
    monkeypatch.setattr(intervals, "RESAMPLES", 20)
    monkeypatch.setattr(intervals, "SIMULATIONS", 5)
    return listed


def runner_of(study: Study, folder: Path) -> Runner:
    return Runner(study, REPOSITORY, str(folder / "images"), folder / "runs")
