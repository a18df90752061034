"""Provenance of figures: the training run's log, configuration and versions, the score files' records, the commands."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import is_own_file, read_json, read_json_lines, read_text
from paddle_pgonas.scores.files import beside

LARGEST = 1e300
"""Larger numbers in a log are treated as damage; they would also overflow in plots."""


@dataclass(frozen=True)
class Provenance:
    """Information for a report in addition to the figures; missing information is empty."""

    metrics: list[dict[str, float]]
    """The numbers of the run's log, one dictionary per logged step."""
    config: str
    """The run's configuration as YAML."""
    facts: dict[str, dict[str, Any]]
    """Versions and settings of the training, and of each file that was scored with a supernet."""
    commands: list[str]
    """Command lines that repeat the training, the scoring and the report."""


def run_config(run: Path) -> Config | None:
    """The configuration in a training run's folder; one that cannot be used is named on stderr and left out."""
    try:
        return load_config(run / "config.yaml") if is_own_file(run / "config.yaml") else None
    except UserError as error:
        print(f"not used: {error}", file=sys.stderr)
        return None


def read_provenance(run: Path | None, files: Sequence[str], command: str) -> Provenance:
    """Collect what a training run's folder and the records beside the score files (``<file>.record.json``) tell.

    ``command`` is the command line that makes the report. Raises UserError for no folder ``run``, or a record that is not JSON.
    """
    if run is not None and not run.is_dir():
        raise UserError(f"{run}: no such folder; --run takes the output_dir of a training run")
    config_path = run / "config.yaml" if run else None
    config = read_text(config_path, "configuration", errors="backslashreplace") if config_path and _usable(config_path) else ""
    facts: dict[str, dict[str, Any]] = {}
    commands = []
    if run is not None and (trained := _training_record(run / "supernet.safetensors")):
        facts["training"] = {"steps": trained.get("step"), **_object(trained.get("versions"))}
    if config:
        options = ["-c", str(config_path), "-o", f"output_dir={run}-again"]
        commands.append(shlex.join(["python", "tools/train_supernet.py", *options]))
    for file in files:
        path = Path(beside(file, ".record.json"))
        if path.is_file():
            record = read_json(path, "record")
            if not isinstance(record, dict):
                raise UserError(f"{path}: a record is a JSON object; remove the file or score again")
            command_line = record.pop("command", None)
            plain = {key: value for key, value in record.items() if not isinstance(value, dict)}
            facts[Path(file).name] = plain | _object(record.get("versions"))
            if isinstance(command_line, str):
                commands.append(command_line)
    log = run / "metrics.jsonl" if run else None
    lines = read_json_lines(log) if log and _usable(log) else []
    metrics = [numbers for line in lines if "step" in (numbers := _numbers(line))]
    return Provenance(metrics, config, facts, [*commands, command])


def _usable(path: Path) -> bool:
    """Whether a run's folder holds this file; a link or a pipe, which is not followed, is named on stderr."""
    try:
        return is_own_file(path)
    except UserError as error:
        print(f"not used: {error}", file=sys.stderr)
        return False


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in line.items() if isinstance(value, int | float) and abs(value) < LARGEST}


def _training_record(weights: Path) -> dict[str, Any]:
    """The record inside the run's weights, read without reading the weights."""
    if not _usable(weights):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            return _object(json.loads((file.metadata() or {}).get("record", "{}")))
    except (SafetensorError, ValueError, OSError, RecursionError):
        return {}
