"""A study's results: condensed from its runs and stored beside its candidates."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.io.files import read_json, read_json_lines, write_json, write_text
from paddle_pgonas.io.records import Store
from paddle_pgonas.schema import flat
from paddle_pgonas.scores.files import Candidate, read_scores, write_scores
from studies.study import Study, Variant

BN = ("running", "calibrated")
CURVE_POINTS = 30
DIGITS = 6
"""Decimals of stored measurements."""


def missing_truth(study: Study, seed: int, recipe: dict[str, Any]) -> list[Candidate]:
    """The candidates that a seed's truth file lacks; all of them if there is no file yet.

    Raises:
        UserError: the file was made by another ``recipe`` than this one.
    """
    path, space = study.results / f"truth-seed{seed}.json", study.config().search_space
    known = read_scores(path, space) if path.exists() else {}
    record_path = path.with_suffix(".record.json")
    if known and record_path.exists():
        then = flat(read_json(record_path, "record").get("config", {}))
        for key, now in flat(json.loads(json.dumps(recipe))).items():
            if then.get(key, now) != now:
                raise UserError(f"{path}: was made with {key}={then[key]}, now it is {now}; move the file away to make it anew")
    return [entry for entry in study.read_candidates() if entry.arch.code not in known]


def collect_truth(study: Study, store: Store, seed: int) -> None:
    """Add the stored results of stand-alone training to a seed's truth file and its record."""
    path, space = study.results / f"truth-seed{seed}.json", study.config().search_space
    record_path = path.with_suffix(".record.json")
    acc = read_scores(path, space) if path.exists() else {}
    record = read_json(record_path, "record") if record_path.exists() else {"seconds": {}}
    candidates = study.read_candidates()
    for entry in candidates:
        if (result := store.get(entry.arch.code)) is not None:
            one = result.record
            acc[entry.arch.code] = one["acc"]
            record["seconds"][entry.name] = one["seconds"]
            record |= {"config": _portable(one["config"]), "versions": one["versions"]}
    done = [entry for entry in candidates if entry.arch.code in acc]
    write_scores(path, done, [acc[entry.arch.code] for entry in done])
    write_json(record_path, record)


def collect(folder: Path, variant: Variant, seed: int, study: Study, commit: str | None) -> None:
    """Condense a run's folder into one result file: scores, measurements during the training, and their inputs.

    Raises:
        UserError: measurements are missing.
    """
    scored = read_json(folder / f"{variant.regime.bn}.record.json", "record")
    trained = folder / "config.yaml"
    config = _portable(yaml.safe_load(trained.read_text(encoding="utf-8")) if trained.exists() else scored["config"])
    lines, watched = read_json_lines(folder / "metrics.jsonl"), _watched(folder, study)
    times = len(study.watch_at) if study.watched(variant, seed) else 0
    if len(watched) != times:
        raise UserError(f"{folder}: was measured {len(watched)} times, not {times}; remove it and run again")
    scored_by = BN if study.detailed(variant, seed) else (variant.regime.bn,)
    groups = [line for name in variant.method.groups or {} for line in read_json_lines(folder / name / "metrics.jsonl")]
    result = {
        "method": variant.name if variant.method.trained else variant.method_name,
        "seed": seed,
        "scores": {bn: _rounded(read_json(folder / f"{bn}.metrics.json", "metrics")) for bn in scored_by},
        "watched": watched,
        "curve": _curve(lines),
        "train_seconds": round(sum(line.get("seconds", 0) for line in [*lines, *groups])),
        "score_seconds": {bn: read_json(folder / f"{bn}.record.json", "record")["seconds"] for bn in scored_by},
        "versions": scored["versions"],
        "commit": commit,
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "config": config,
    }
    write_text(study.results / f"{variant.stem}-seed{seed}.json", json.dumps(result) + "\n")


def keep_largest(weights: Path, kept: Path) -> None:
    """Copy a largest network beside the results, without file paths of the machine in its record."""
    arrays, record = records.read(weights)
    record = {key: value for key, value in record.items() if key != "command"}
    records.write(kept, {**record, "config": _portable(record["config"])}, arrays)


def _watched(folder: Path, study: Study) -> dict[str, Any]:
    """Candidates' metrics after a number of training steps."""
    names = {entry.arch.code: entry.name for entry in study.read_candidates()}
    files = sorted((folder / "watched").glob("*.json"), key=lambda path: int(path.stem))
    return {
        path.stem: _rounded({names[code]: row for code, row in read_json(path, "measurement").items()}, ("top1", "loss"))
        for path in files
    }


def _rounded(rows: dict[str, Any], metrics: tuple[str, ...] | None = None) -> dict[str, dict[str, float]]:
    return {name: {metric: round(row[metric], DIGITS) for metric in metrics or row} for name, row in rows.items()}


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without file paths of the machine."""
    sections = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items() if name != "output_dir"}
    for place in ("root", "cache_dir"):
        del sections["data"][place]
    for section, file in (("method", "teacher"), ("train", "watch_truth"), ("model", "pretrained")):
        values = sections[section]
        if values and values.get(file):
            values[file] = Path(values[file]).name
    return sections


def _curve(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means of every logged scalar over each thirtieth of a run, with the share of the run at its middle."""
    total = max((line["step"] for line in lines), default=0) + 1
    parts: list[dict[str, list[float]]] = [{} for _ in range(CURVE_POINTS)]
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "seconds", "images_per_second"):
                parts[line["step"] * CURVE_POINTS // total].setdefault(name, []).append(value)
    means = [{name: round(float(np.mean(values)), DIGITS) for name, values in part.items()} for part in parts]
    return [{"progress": (number + 0.5) / CURVE_POINTS, **part} for number, part in enumerate(means)]
