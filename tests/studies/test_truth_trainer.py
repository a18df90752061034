"""The trainer of ``studies/truth_trainer``: its networks are Paddle's, and its results are kept. It needs a C++ compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, some_archs
from PIL import Image

from paddle_pgonas.config.loading import Data
from paddle_pgonas.data.batches import AUGMENT, SHUFFLE, EpochBatches
from paddle_pgonas.data.images import open_source
from paddle_pgonas.data.transforms import shift
from paddle_pgonas.io.files import read_json, write_json
from paddle_pgonas.scores.files import Candidate, read_candidates, read_scores, write_scores
from paddle_pgonas.space.arch import MINI

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Runs one of the folder's programs, with a cache of its own for the compiled library."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(REPOSITORY / "studies" / "truth_trainer" / name), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_a_training_step_and_an_evaluation_are_those_of_paddle(script: Script) -> None:
    checked = script("check.py")
    assert checked.returncode == 0, checked.stderr
    assert len(checked.stdout.splitlines()) == 4


def has_gpu() -> bool:
    """Whether there is a GPU that CUDA's compiler can be used for; Paddle is not needed for it."""
    tools = shutil.which("nvidia-smi"), shutil.which("nvcc")
    return all(tools) and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0


ON_A_GPU = pytest.param([], marks=pytest.mark.skipif(not has_gpu(), reason="needs a GPU and nvcc"), id="gpu")


@pytest.mark.slow
@pytest.mark.parametrize("where", [pytest.param(["--emulate"], id="emulated"), ON_A_GPU])
def test_the_gpu_trainer_is_the_same(script: Script, tmp_path: Path, where: list[str]) -> None:
    assert script("gpu_check.py", "write", tmp_path / "check.npz").returncode == 0
    checked = script("gpu_check.py", "compare", tmp_path / "check.npz", *where)
    assert checked.returncode == 0, checked.stderr
    assert len(checked.stdout.splitlines()) == 3


def test_lanes_see_the_images_of_the_project_in_its_order(script: Script, tmp_path: Path) -> None:
    data = Data(source="digits", image_size=8, resize=8, augment="shift_flip")
    source = open_source(data, "train", 10)
    program = "import sys, numpy as np; from layout import Batches; " + (
        f"one = Batches({len(source.labels)}, 32, 1, True, (3, 5), {(SHUFFLE, AUGMENT)}); np.savez(sys.argv[1], *one.epoch(2))"
    )
    folder = REPOSITORY / "studies" / "truth_trainer"
    subprocess.run([sys.executable, "-c", program, tmp_path / "plan.npz"], cwd=folder, check=True)
    with np.load(tmp_path / "plan.npz") as plan:
        chosen, moves = plan["arr_0"], plan["arr_1"]
    for lane, seed in enumerate((3, 5)):
        batches = EpochBatches(source, data, tmp_path, 32, seed)
        batches.epoch = 2
        assert len(chosen) == len(batches)
        for step in (0, len(batches) - 1):
            images, labels = batches[step]
            assert np.array_equal(labels, batches.labels[chosen[step, lane]])
            plain = np.asarray(batches.images.images)[chosen[step, lane]]
            assert np.array_equal(images, shift(plain, moves[step, lane].T.astype(np.int64), flip=True))


def images_and_recipe(tmp_path: Path) -> list[object]:
    """Options of ``train_truth.py`` for two subnets, a few random images and a training of four steps."""
    rng = np.random.default_rng(0)
    for part, name, number in ((part, name, n) for part in ("train", "val") for name in ("cat", "dog") for n in range(8)):
        path = tmp_path / "images" / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    config = {
        "space": "mini",
        "data": {"root": str(tmp_path / "images"), "image_size": 8, "resize": 8, "augment": "shift", "workers": 0},
        "model": {"num_classes": 2, "activation": "relu"},
        "train": {"epochs": 4, "batch_size": 16, "warmup_epochs": 0, "lr_per_256": 1.0},
    }
    (tmp_path / "truth.yaml").write_text(yaml.safe_dump(config))
    entries = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(some_archs(MINI, 2))]
    write_scores(tmp_path / "candidates.json", entries, [0.0] * 2)
    return ["-c", tmp_path / "truth.yaml", "--candidates", tmp_path / "candidates.json"]


@pytest.mark.slow
def test_a_truth_grows_and_other_recipes_are_refused(script: Script, tmp_path: Path) -> None:
    shared = [*images_and_recipe(tmp_path), "--results", tmp_path / "home"]
    for part in ("0/2", "1/2"):
        assert script("train_truth.py", *shared, "--part", part).returncode == 0
    results = read_json(tmp_path / "home" / "accuracies.json", "results")["results"]
    assert list(results) == ["arch0", "arch1"]
    assert all(len(set(result["loss"])) == 16 for result in results.values())  # 16 different trainings
    means = read_scores(tmp_path / "home" / "truth.json", MINI)
    assert means == pytest.approx({result["arch"]: np.mean(result["acc"]) for result in results.values()}, abs=1e-6)

    again = script("train_truth.py", *shared)
    assert (again.returncode, again.stdout) == (0, "")
    for changed in (["-o", "train.epochs=2"], ["--seeds", "4"], ["--closed"]):
        other = script("train_truth.py", *shared, *changed)
        assert other.returncode == 2
        assert other.stderr.startswith("train_truth.py: error: ") and "another recipe" in other.stderr


@pytest.mark.slow
def test_fewer_seeds_give_the_same_trainings(script: Script, tmp_path: Path) -> None:
    options, first = images_and_recipe(tmp_path), read_candidates(tmp_path / "candidates.json", MINI)[0]
    assert script("train_truth.py", *options, "--results", tmp_path / "all").returncode == 0
    everything = read_json(tmp_path / "all" / "accuracies.json", "results")["results"]
    write_json(tmp_path / "known.json", {"results": {first.name: {}}})
    shared = [*options, "--results", tmp_path / "few", "--without", tmp_path / "known.json"]
    assert script("train_truth.py", *shared, "--seeds", "4").returncode == 0
    few = read_json(tmp_path / "few" / "accuracies.json", "results")
    assert few["seeds"] == [0, 1, 2, 3] and set(few["results"]) == set(everything) - {first.name}
    for name, result in few["results"].items():
        assert result["loss"] == everything[name]["loss"][:4]
        assert len(set(result["loss"])) == 4
    assert script("train_truth.py", *shared, "--seeds", "5").returncode == 0
    more = read_json(tmp_path / "few" / "accuracies.json", "results")
    assert more["seeds"] == [0, 1, 2, 3, 4]
    for name, result in more["results"].items():
        assert result["loss"] == everything[name]["loss"][:5] and result["seconds"] >= few["results"][name]["seconds"]
    for refused, words in (
        (script("train_truth.py", *options, "--results", tmp_path / "no", "-o", "train.batch_size=4"), "a multiple of 16"),
        (script("train_truth.py", *options, "--results", tmp_path / "no", "--seeds", "1"), "a number from 2 on"),
        (script("train_truth.py", *shared, "--seeds", "4"), "more seeds"),
        (script("train_truth.py", *shared, "--seeds", "4", "--gpu-job", tmp_path / "job.npz"), "a GPU trains 16"),
        (
            script("train_truth.py", *options, "--results", tmp_path / "no", "--closed", "--gpu-job", tmp_path / "job.npz"),
            "begin open",
        ),
        (script("train_truth.py", *shared, "--without", tmp_path / "candidates.json"), "is no accuracies.json"),
    ):
        assert refused.returncode and words in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_job_for_the_gpu_gives_the_same_trainings(script: Script, tmp_path: Path) -> None:
    options, job, found = images_and_recipe(tmp_path), tmp_path / "job.npz", tmp_path / "results.jsonl"
    assert script("train_truth.py", *options, "--results", tmp_path / "cpu").returncode == 0

    assert script("train_truth.py", *options, "--results", tmp_path / "gpu", "--gpu-job", job).returncode == 0
    trained = script("gpu.py", job, "--results", found, "--emulate", "--at-once", "2")
    assert trained.returncode == 0, trained.stderr
    assert script("train_truth.py", *options, "--results", tmp_path / "gpu", "--gpu-results", found).returncode == 0

    here, there = (read_json(tmp_path / name / "accuracies.json", "results")["results"] for name in ("cpu", "gpu"))
    assert list(here) == list(there) == ["arch0", "arch1"]
    for name, result in here.items():
        assert np.median(np.abs(np.subtract(result["loss"], there[name]["loss"]))) < 1e-3
        assert np.median(np.abs(np.subtract(result["acc"], there[name]["acc"]))) == 0
        assert len(set(result["acc"])) > 1
        assert there[name]["device"] == "emulated"
    first = found.read_text().splitlines(keepends=True)[0]
    found.write_text(first + first[:30])  # killed while it wrote the second one
    again = script("gpu.py", job, "--results", found, "--emulate")
    assert again.returncode == 0, again.stderr
    assert found.read_text().startswith(first)
    assert sorted(json.loads(line)["name"] for line in found.read_text().splitlines()) == ["arch0", "arch1"]

    for refused, words in (
        (script("train_truth.py", *options, "--results", tmp_path / "gpu", "--gpu-results", found), " already; choose"),
        (
            script("train_truth.py", *options, "--results", tmp_path / "no", "--gpu-results", tmp_path / "none"),
            "holds no results",
        ),
        (
            script("train_truth.py", *options, "--results", tmp_path / "no", "--gpu-results", found, "-o", "train.epochs=2"),
            "another configuration",
        ),
    ):
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1].startswith("train_truth.py: error: ") and words in refused.stderr
    other = script("train_truth.py", *options, "--results", tmp_path / "no", "--gpu-job", job, "-o", "train.epochs=2")
    assert other.returncode == 0
    assert "results of another job" in script("gpu.py", job, "--results", found, "--emulate").stderr
