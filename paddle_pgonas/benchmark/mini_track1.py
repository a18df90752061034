"""The mini track's evidence: results of its runs, and the tables and pictures that are rebuilt from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paddle_pgonas.arch import MINI, Arch
from paddle_pgonas.correlation import Estimate, kendall
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, read_json_lines, write_json
from paddle_pgonas.submission import read_candidates, read_scores

METHODS = {
    "baseline": "official baseline (uniform, teacher)",
    "progressive": "progressive shrinking (teacher)",
    "sandwich_relu": "sandwich, ReLU",
    "sandwich_prelu": "sandwich, PReLU",
    "sandwich_mish": "sandwich, Mish",
    "pgonas_flops_constant": "PGONAS, FLOPs, constant weight, PReLU",
    "pgonas_flops_warmup": "PGONAS, FLOPs, rising weight, PReLU",
    "pgonas_zen": "PGONAS, Zen-score, constant weight, Mish",
}
"""Configuration name (configs/mini_track1/<name>.yaml) to what the tables call it, in their order."""

TAUGHT = ("baseline", "progressive")
"""Methods that distil from the stand-alone largest network."""

BN = ("running", "calibrated")
TRUTH_SEEDS = 2
RESAMPLES = 1000


def collect(folder: Path, method: str, seed: int, result: Path) -> None:
    """Condense a run's folder into one result file: scores, curves per epoch, and what they were made from."""
    record = read_json(folder / f"{BN[0]}.record.json", "record")
    lines = read_json_lines(folder / "metrics.jsonl")
    write_json(
        result,
        {
            "method": method,
            "seed": seed,
            "scores": {bn: read_json(folder / f"{bn}.metrics.json", "metrics") for bn in BN},
            "epochs": _per_epoch(lines),
            "train_seconds": round(sum(line.get("seconds", 0) for line in lines)),
            "versions": record["versions"],
            "config": yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
        },
    )


def _per_epoch(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means of every logged scalar over each epoch, and the held-out accuracies behind it."""
    epochs: dict[int, dict[str, list[float]]] = {}
    current = 0
    for line in lines:
        current = int(line.get("epoch", current))
        into = epochs.setdefault(current, {})
        for name, value in line.items():
            if name not in ("step", "seconds", "images_per_second"):
                into.setdefault(name, []).append(value)
    return [{name: float(np.mean(values)) for name, values in into.items()} for into in epochs.values()]


@dataclass(frozen=True)
class Track:
    """Everything that the document is made from, arrays in the order of ``candidates.json``."""

    archs: list[Arch]
    truth: np.ndarray
    """Stand-alone accuracy, [seeds, candidates]."""
    runs: dict[str, list[dict[str, Any]]]
    """Result files by method, in the order of METHODS and of the seeds."""

    def scores(self, method: str, bn: str, metric: str = "top1") -> np.ndarray:
        """Scores of a method's runs, [seeds, candidates]; the loss with its sign turned, so that more is better."""
        sign = -1 if metric == "loss" else 1
        return np.array([[sign * row[metric] for row in run["scores"][bn].values()] for run in self.runs[method]])


def read_track(home: Path) -> Track:
    """Read candidates and results.

    Raises:
        UserError: no truth yet, or a result that names other candidates.
    """
    candidates = read_candidates(home / "candidates.json", MINI)
    names, archs = [entry.name for entry in candidates], [entry.arch for entry in candidates]
    truth = []
    for path in sorted((home / "results").glob("truth-seed*.json")):
        known = read_scores(path, MINI)
        truth.append([known[arch.code] for arch in archs])
    if not truth:
        raise UserError(f"{home / 'results'}: no truth-seed*.json yet; make it with: mini_track1.py run --root DIR --only truth")
    runs: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        for path in sorted((home / "results").glob(f"{method}-seed*.json")):
            run = read_json(path, "result")
            if any(list(scores) != names for scores in run["scores"].values()):
                raise UserError(f"{path}: names other candidates than {home / 'candidates.json'}; remove it and run again")
            runs.setdefault(method, []).append(run)
    return Track(archs, np.array(truth), runs)


def mean_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall tau with the truth, averaged over the runs: scores [runs, n], truth [n]."""
    return float(np.mean([kendall(row, truth) for row in scores]))


def bootstrap(statistic: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic of candidate positions, resampling the candidates."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def tau_with_interval(scores: np.ndarray, truth: np.ndarray) -> Estimate:
    """:func:`mean_tau` with its interval over the candidates."""
    return Estimate(mean_tau(scores, truth), *bootstrap(lambda at: mean_tau(scores[:, at], truth[at]), len(truth)))


def tau_difference(ours: np.ndarray, theirs: np.ndarray, truth: np.ndarray) -> Estimate:
    """How much more :func:`mean_tau` one method has than another, on the same resampled candidates."""

    def difference(at: np.ndarray) -> float:
        return mean_tau(ours[:, at], truth[at]) - mean_tau(theirs[:, at], truth[at])

    return Estimate(difference(np.arange(len(truth))), *bootstrap(difference, len(truth)))
