"""Provenance of figures: the training run's log and configuration, the score files' records, the commands, and what they lack."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import is_own_file, read_json_lines, read_text
from paddle_pgonas.io.records import Record, value_at
from paddle_pgonas.methods import METHODS
from paddle_pgonas.report.labels import file_names
from paddle_pgonas.runtime import now, own_version
from paddle_pgonas.scores.files import read_record

LARGEST = 1e300
"""Larger numbers in a log are treated as damage; they would also overflow in plots."""
UNSHOWN = ("command", "file", "candidate_file")
"""Keys of a score file's record that the commands tell better, or that are for programs."""


@dataclass
class Provenance:
    """Information for a report in addition to the figures; missing information is empty."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    """The numbers of the run's log, one dictionary per logged step."""
    configs: dict[str, str] = field(default_factory=dict)
    """Configurations of trainings as YAML: the run's, and others that records of score files tell."""
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Versions and settings of the training, and of each file with a record, as plain text."""
    commands: list[str] = field(default_factory=list)
    """Command lines that repeat the trainings, the scoring and the report, in this order."""
    missing: list[str] = field(default_factory=list)
    """What the commands read, and none of them nor any record tells how it was made."""
    made: str = ""
    """When and with which version of the package the page is made."""
    grows: bool = False
    """Whether the run's method lets ever smaller subnets join in, so that the losses of the log may rise."""
    image_size: int | None = None
    """Of the run or the records, as far as they tell; as the number of classes."""
    num_classes: int | None = None

    def needs(self, what: str) -> None:
        """Note something missing, once."""
        if what not in self.missing:
            self.missing.append(what)


def run_config(run: Path) -> Config | None:
    """The configuration in a training run's folder; one that cannot be used is named on stderr and left out."""
    try:
        return load_config(run / "config.yaml") if is_own_file(run / "config.yaml") else None
    except UserError as error:
        print(f"not used: {error}", file=sys.stderr)
        return None


def read_provenance(run: Path | None, files: Sequence[str | Path], command: str, trained: Config | None = None) -> Provenance:
    """Collect what a training run's folder and the records beside the files (scores and truth) tell.

    ``command`` is the command line that makes the report, ``trained`` the run's configuration (:func:`run_config`). Raises
    UserError for no folder ``run``, or a record that is not JSON.
    """
    if run is not None and not run.is_dir():
        raise UserError(f"{run}: no such folder; --run takes the output_dir of a training run")
    own = own_version()
    made = f"{now()} with paddle_pgonas {own['paddle_pgonas']}"
    found = Provenance(made=made + (f", commit {own['commit']}" if "commit" in own else ""))
    seen = set[str]()
    config = None if trained is None else trained.model_dump(mode="json")
    if run is not None:
        config = _add_run(found, run, config, seen)
    known = [config]
    for file, name in zip(files, file_names(files), strict=True):
        _add_file(found, file, name, known, seen)
    found.commands.append(command)
    return found


def _add_run(found: Provenance, run: Path, config: Any, seen: set[str]) -> Any:
    """What a run's folder tells; returns its configuration, if it has one that can be read."""
    weights, config_path, log = run / "supernet.safetensors", run / "config.yaml", run / "metrics.jsonl"
    trained = _record_inside(weights) if _usable(weights) else {}
    config = config or trained.get("config")
    method = value_at(config, "method", "name")
    found.grows = isinstance(method, str) and method in METHODS and METHODS[method].grows
    if trained:
        finished = datetime.fromtimestamp(weights.stat().st_mtime).astimezone().isoformat(" ", "minutes")
        found.facts["training"] = _plain({"steps": trained.get("step"), "finished": finished}) | _versions(trained)
    if _usable(config_path):
        found.configs[str(config_path)] = read_text(config_path, "configuration", errors="backslashreplace")
        _add_inputs(found, config, seen)
        seen.add(os.path.abspath(weights))
        options = ["-c", str(config_path), "-o", f"output_dir={run}-again"]
        found.commands.append(shlex.join(["python", "tools/train_supernet.py", *options]))
    lines = read_json_lines(log) if _usable(log) else []
    found.metrics = [numbers for line in lines if "step" in (numbers := _numbers(line))]
    _note_sizes(found, config)
    return config


def _add_file(found: Provenance, file: str | Path, name: str, known: list[Any], seen: set[str]) -> None:
    """What the record beside a score file tells, and the training of its weights."""
    record = read_record(file)
    if record:
        shown = {key: value for key, value in record.items() if key not in UNSHOWN}
        found.facts[name] = _plain(shown) | _versions(record)
    trainings = record.get("training")
    for number, config in enumerate(trainings if isinstance(trainings, list) else [], start=1):
        if isinstance(config, dict) and config not in known:
            known.append(config)
            with suppress(RecursionError):  # a stranger's
                found.configs[f"training {number} of {name}"] = yaml.safe_dump(config, sort_keys=False)
    weights = record.get("weights")
    for path in weights if isinstance(weights, list) else []:
        _add_weights(found, path, seen)
    _add_inputs(found, record.get("config"), seen, starts=not weights)
    _note_sizes(found, record.get("config"))
    _note_sizes(found, {"data": record, "model": {"num_classes": record.get("classes")}})  # a prior's
    if isinstance(candidates := record.get("candidate_file"), str):
        found.needs(f"the candidates {candidates}")
    if isinstance(command := record.get("command"), str):
        found.commands.append(command)
    else:
        found.needs(str(file))


def _add_weights(found: Provenance, path: Any, seen: set[str]) -> None:
    """The commands that made a weight file, those of its inputs first."""
    if not isinstance(path, str) or (place := os.path.abspath(path)) in seen:
        return
    seen.add(place)
    record = _record_inside(path) if os.path.isfile(path) else {}
    _add_inputs(found, record.get("config"), seen)
    if isinstance(command := record.get("command"), str):
        found.commands.append(command)
    else:
        found.needs(path)


def _add_inputs(found: Provenance, config: Any, seen: set[str], starts: bool = True) -> None:
    """What a configuration reads: images, and weights of other trainings where it ``starts`` from them."""
    for keys in (("model", "pretrained"), ("method", "teacher")) if starts else ():
        _add_weights(found, value_at(config, *keys), seen)
    if isinstance(root := value_at(config, "data", "root"), str):
        found.needs(f"the images in {root}")


def _note_sizes(found: Provenance, config: Any) -> None:
    """Take image size and classes of a configuration, unless they are known; records may come from strangers."""
    sizes = value_at(config, "data", "image_size"), value_at(config, "model", "num_classes")
    image_size, num_classes = (size if isinstance(size, int) and 1 <= size <= 100_000 else None for size in sizes)
    found.image_size, found.num_classes = found.image_size or image_size, found.num_classes or num_classes


def _plain(values: dict[str, Any]) -> dict[str, str]:
    """Numbers, texts and lists of them as a reader writes them; what is nested deeper, or not there, is left out."""
    return {key.replace("_", " "): text for key, value in values.items() if (text := _text(value))}


def _versions(record: Record) -> dict[str, str]:
    return {name: text for name, text in _object(record.get("versions")).items() if isinstance(text, str)}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value if not isinstance(item, list))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else value if isinstance(value, str) else ""


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


def _record_inside(weights: str | Path) -> Record:
    """The record inside a weight file, read without reading the weights; empty if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            return _object(json.loads((file.metadata() or {}).get("record", "{}")))
    except (SafetensorError, ValueError, OSError, RecursionError):
        return {}
