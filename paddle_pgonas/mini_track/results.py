"""The mini track's results: condensed from its runs, stored, and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paddle_pgonas.arch import MINI, Arch
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, read_json_lines, write_json
from paddle_pgonas.mini_track.statistics import resampled_tau
from paddle_pgonas.priors import make_prior
from paddle_pgonas.submission import Candidate, read_candidates, read_scores, write_scores

METHODS = {
    "baseline": "official baseline (uniform, teacher)",
    "progressive": "progressive shrinking (teacher)",
    "sandwich_relu": "sandwich, ReLU",
    "sandwich_prelu": "sandwich, PReLU",
    "sandwich_mish": "sandwich, Mish",
    "pgonas_flops_constant": "PGONAS, FLOPs, constant weight, PReLU",
    "pgonas_flops_warmup": "PGONAS, FLOPs, rising weight, PReLU",
    "pgonas_zen": "PGONAS, Zen-score, constant weight, PReLU",
    "pgonas_flops_better": "PGONAS, FLOPs, rising weight, better side, PReLU",
    "pgonas_flops_ordered": "PGONAS, FLOPs, rising weight, better side, pairs twice apart, PReLU",
    "random_baseline": "from random weights: baseline",
    "random_sandwich": "from random weights: sandwich, PReLU",
    "random_pgonas": "from random weights: PGONAS, FLOPs, rising weight, PReLU",
}
"""Configuration name (configs/mini_track1/<name>.yaml) to its name in the tables, in their order."""

TAUGHT = ("baseline", "progressive", "random_baseline")
"""Methods with the stand-alone largest network as fixed teacher."""
RANDOM = ("random_baseline", "random_sandwich", "random_pgonas")
"""Methods that start from random weights; the others start from the stand-alone largest network."""

BN = ("running", "calibrated")
TRUTH_SEEDS = 2
CLASSES = 10
CURVE_POINTS = 30


def missing_truth(home: Path, seed: int) -> list[Candidate]:
    """The candidates that a seed's truth file lacks; all of them if there is no file yet."""
    path = home / "results" / f"truth-seed{seed}.json"
    known = read_scores(path, MINI) if path.exists() else {}
    return [entry for entry in read_candidates(home / "candidates.json", MINI) if entry.arch.code not in known]


def collect_truth(home: Path, working: Path, seed: int) -> None:
    """Add the results of stand-alone training in its working folder to a seed's truth file and its record."""
    path = home / "results" / f"truth-seed{seed}.json"
    record_path = path.with_suffix(".record.json")
    acc = read_scores(path, MINI) if path.exists() else {}
    record = read_json(record_path, "record") if record_path.exists() else {"seconds": {}}
    candidates = read_candidates(home / "candidates.json", MINI)
    for entry in candidates:
        for result in working.glob(f"standalone/*/{entry.arch.code}.json"):
            one = read_json(result, "result")
            if one["config"]["seed"] == seed:
                acc[entry.arch.code] = one["acc"]
                record["seconds"][entry.name] = one["seconds"]
                record |= {"config": _portable(one["config"]), "versions": one["versions"]}
    done = [entry for entry in candidates if entry.arch.code in acc]
    write_scores(path, done, [acc[entry.arch.code] for entry in done])
    write_json(record_path, record)


def collect(folder: Path, method: str, seed: int, result: Path) -> None:
    """Condense a run's folder into one result file: scores, curves, and their inputs."""
    record = read_json(folder / f"{BN[0]}.record.json", "record")
    lines = read_json_lines(folder / "metrics.jsonl")
    write_json(
        result,
        {
            "method": method,
            "seed": seed,
            "scores": {bn: read_json(folder / f"{bn}.metrics.json", "metrics") for bn in BN},
            "curve": _curve(lines),
            "train_seconds": round(sum(line.get("seconds", 0) for line in lines)),
            "versions": record["versions"],
            "config": _portable(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))),
        },
    )


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without file paths of the machine."""
    sections = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items() if name != "output_dir"}
    for place in ("root", "cache_dir"):
        del sections["data"][place]
    for section, file in (("train", "teacher"), ("model", "pretrained")):
        if sections[section][file]:
            sections[section][file] = Path(sections[section][file]).name
    return sections


def _curve(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means of every logged scalar over each thirtieth of a run, with the share of the run at its middle."""
    total = max(line["step"] for line in lines) + 1
    parts: list[dict[str, list[float]]] = [{} for _ in range(CURVE_POINTS)]
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "seconds", "images_per_second"):
                parts[line["step"] * CURVE_POINTS // total].setdefault(name, []).append(value)
    means = [{name: float(np.mean(values)) for name, values in part.items()} for part in parts]
    return [{"progress": (number + 0.5) / CURVE_POINTS, **part} for number, part in enumerate(means)]


@dataclass(frozen=True)
class Track:
    """All data of the document, arrays in the order of ``candidates.json``."""

    candidates: list[Candidate]
    truth: np.ndarray
    """Stand-alone accuracy, [seeds, candidates]."""
    runs: dict[str, list[dict[str, Any]]]
    """Result files by method, in the order of METHODS and of the seeds."""

    @property
    def archs(self) -> list[Arch]:
        """The candidates' architectures."""
        return [entry.arch for entry in self.candidates]

    @property
    def mean_truth(self) -> np.ndarray:
        """Stand-alone accuracy, the mean over its seeds, [candidates]."""
        return self.truth.mean(0)

    @property
    def macs(self) -> np.ndarray:
        """Multiply-accumulates, [candidates]."""
        return self.prior("flops")

    def prior(self, name: str) -> np.ndarray:
        """A prior's values for the track's image size and classes, [candidates]."""
        return np.array(list(map(make_prior(name, MINI, num_classes=CLASSES), self.archs)))

    def scores(self, method: str, bn: str, metric: str = "top1") -> np.ndarray:
        """Scores of a method's runs, [seeds, candidates]; the loss is negated, so that larger is better."""
        sign = -1 if metric == "loss" else 1
        return np.array([[sign * row[metric] for row in run["scores"][bn].values()] for run in self.runs[method]])

    def tau(self, method: str, bn: str = "calibrated", metric: str = "top1", pairs: np.ndarray | None = None) -> np.ndarray:
        """Kendall tau of a method's runs with the truth, see :func:`resampled_tau`."""
        return resampled_tau(self.scores(method, bn, metric), self.mean_truth, list(METHODS).index(method), pairs)


def read_track(home: Path) -> Track:
    """Read candidates and results.

    Raises:
        UserError: the truth is incomplete, or a result has other candidates.
    """
    candidates = read_candidates(home / "candidates.json", MINI)
    names, truth = [entry.name for entry in candidates], []
    for path in sorted(set((home / "results").glob("truth-seed*.json")) - set((home / "results").glob("*.record.json"))):
        known = read_scores(path, MINI)
        if lacking := sum(entry.arch.code not in known for entry in candidates):
            raise UserError(f"{path}: lacks {lacking} subnets; continue with: mini_track1.py run --root DIR --only truth")
        truth.append([known[entry.arch.code] for entry in candidates])
    if not truth:
        raise UserError(f"{home / 'results'}: no truth-seed*.json yet; make it with: mini_track1.py run --root DIR --only truth")
    runs: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        for path in sorted((home / "results").glob(f"{method}-seed*.json")):
            run = read_json(path, "result")
            if any(list(scores) != names for scores in run["scores"].values()):
                raise UserError(f"{path}: names other candidates than {home / 'candidates.json'}; remove it and run again")
            runs.setdefault(method, []).append(run)
    return Track(candidates, np.array(truth), runs)
