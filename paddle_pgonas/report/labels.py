"""What names a score file in a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.records import value_at
from paddle_pgonas.scores.files import read_record

TRUTH = "the truth"
"""Name of the reference that ``truth`` gives; no file's label."""


def labels_of(paths: Sequence[str | Path], given: Sequence[str] | None) -> list[str]:
    """The labels given, or what the records beside the files tell; what is the same for two files is followed by the file's name.

    Raises UserError for labels that are not one for each file, different, not empty and not that of the truth.
    """
    if given is not None:
        if len(given) != len(paths) or len({TRUTH, *given}) <= len(given) or not all(map(str.strip, given)):
            raise UserError(f"labels: give {len(paths)} different names, one for each score file in their order; not {TRUTH!r}")
        return list(map(printable, given))
    names = file_names(paths)
    labels = [printable(maker(read_record(path))) or name for path, name in zip(paths, names, strict=True)]
    alike = [label != name and labels.count(label) > 1 for label, name in zip(labels, names, strict=True)]
    return [f"{label} ({name})" if same else label for label, name, same in zip(labels, names, alike, strict=True)]


def maker(record: dict[str, Any]) -> str:
    """What made the scores, as their record tells it: the training's method, no training, a prior, smoothed; else empty."""
    trainings = record.get("training")
    methods = [value_at(config, "method", "name") for config in trainings] if isinstance(trainings, list) else []
    known = ["no training"] if record.get("weights") == [] else sorted({name for name in methods if isinstance(name, str)})
    prior = record.get("prior")
    made = " + ".join([*known, *([prior.partition(",")[0]] if isinstance(prior, str) else [])])
    return f"{made} (smoothed)" if made and "predictor" in record else made


def file_names(paths: Sequence[str | Path]) -> list[str]:
    """File names, with their folder if two files have the same name; safe to print."""
    names = [Path(path).name for path in paths]
    whole = [name if names.count(name) == 1 else str(Path(path)) for name, path in zip(names, paths, strict=True)]
    return list(map(printable, whole))
