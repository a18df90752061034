"""Two processes against one: a training step with BatchNorm over both, and scores byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from paddle_pgonas.config.loading import CONFIGS, Config, load_config
from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.gpu_check.training import distance
from paddle_pgonas.gpu_libraries import loaded_libraries
from paddle_pgonas.io.files import read_json, write_json
from paddle_pgonas.nn.weights import OPTIMIZER, read_arrays
from paddle_pgonas.processes import rank
from paddle_pgonas.scores.files import sample_candidates, write_scores
from paddle_pgonas.scoring.submission import write_submission
from paddle_pgonas.training.trainer import train_supernet

IMAGES = 32
"""Per step, of all processes together."""
SAME = {"weights": 1e-3, "gradients": 2e-2}
"""Largest distance, relative to the norm, that rounding explains: one ReLU on the other side changes gradients by up to 1e-2."""


def compare(job: Job) -> tuple[str, dict[str, Any]]:
    """Train a step and score with one process and with two. Raises Failed if they end differently."""
    folder, config = job.folder, configuration(job.folder / "one", job.device, 1)
    candidates = sample_candidates(config.search_space, 64, 0)
    write_scores(folder / "candidates.json", candidates, [0.0] * len(candidates))
    weights = train_supernet(config)
    write_submission(config, weights, folder / "candidates.json", folder / "one.json")
    _launch(folder, job.device)
    ours, theirs = (read_arrays(next((folder / name / "checkpoints").iterdir()))[0] for name in ("two", "one"))
    distances = {
        kind: distance(*({name: array for name, array in arrays.items() if name.startswith(OPTIMIZER) == (kind == "gradients")}
                         for arrays in (ours, theirs)))
        for kind in SAME
    }  # fmt: skip
    different = [end for end in (".json", ".metrics.json") if _bytes(folder, "one", end) != _bytes(folder, "two", end)]
    details = {"distances": distances, "libraries": read_json(folder / "libraries.json", "list")}
    line = ", ".join(f"{what} {value:.1e}" for what, value in distances.items())
    if different or not all(value <= SAME[kind] for kind, value in distances.items()):
        scores = "scores differ" if different else "scores equal"
        raise Failed(f"two processes are not one: {scores}, relative distance of {line}", details)
    return f"a step with twice the batch: relative distance of {line}; {len(candidates)} scores byte for byte", details


def configuration(folder: Path, device: str, world: int) -> Config:
    """A step of the demo's method on IMAGES digits, with BatchNorm over all processes."""
    options = [f"output_dir={folder}", f"device={device}", f"train.batch_size={IMAGES // world}", "data.train_limit=64"]
    options += ["train.epochs=2", "train.max_steps=1", "train.watch_images=0", "train.watch_subnets=0", "model.bn=sync"]
    options += ["method.rank_lambda=constant", "method.rank_gradient=both", "method.pairs=3", "data.val_limit=100"]
    return load_config(CONFIGS / "demo.yaml", options)


def work(folder: Path, device: str) -> None:
    """What each of the two processes does: a step together, then scores with the weights of one process."""
    config = configuration(folder / "two", device, 2)
    train_supernet(config)
    write_submission(config, folder / "one" / "supernet.safetensors", folder / "candidates.json", folder / "two.json")
    if rank() == 0:
        write_json(folder / "libraries.json", loaded_libraries())


def _launch(folder: Path, device: str) -> None:
    """Run ``work`` in two processes of Paddle's launcher."""
    script = folder / "work.py"
    call = f"work(Path({str(folder)!r}), {device!r})"
    script.write_text(f"from pathlib import Path\nfrom {__name__} import work\n{call}\n", encoding="utf-8")
    where = ["--nproc_per_node", "2"] if device == "cpu" else ["--devices", "0,1"]
    command = [sys.executable, "-m", "paddle.distributed.launch", *where, "--log_dir", str(folder / "logs"), str(script)]
    # The launcher fails where this variable is empty, which hides all GPUs; the configuration's device does so too.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES" or value}
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        for log in sorted((folder / "logs").glob("workerlog.*")):
            print(log.name, log.read_text(encoding="utf-8", errors="replace")[-1500:], sep="\n")
        raise Failed(f"the launcher ended with status {done.returncode}; the log of this part holds the processes' output")


def _bytes(folder: Path, name: str, end: str) -> bytes:
    return (folder / f"{name}{end}").read_bytes()
