"""Correlations of any number of score files with a reference: the truth file, or else the first of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.correlation import Estimate, correlate
from paddle_pgonas.errors import UserError
from paddle_pgonas.submission import detect_space, read_scores


@dataclass(frozen=True)
class Row:
    """One file against the reference, on the architectures that both name."""

    name: str
    archs: list[Arch]
    reference: np.ndarray
    scores: np.ndarray
    correlations: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they are compared with."""

    space: SearchSpace
    reference: str
    rows: list[Row]
    notes: list[str]
    """What a reader must know of the files: entries without a counterpart."""

    def as_json(self) -> dict[str, Any]:
        """The figures for programs."""
        rows = [
            {"file": row.name, "count": len(row.scores)} | {key: _finite(value) for key, value in row.correlations.items()}
            for row in self.rows
        ]
        return {"reference": self.reference, "rows": rows, "notes": self.notes}


def compare(paths: Sequence[str | Path], truth: str | Path | None = None) -> Comparison:
    """Read the files and correlate each with the reference.

    Raises:
        UserError: a file that cannot be read, fewer than two files in all, or fewer than two common architectures.
    """
    reference = truth or paths[0]
    others = list(paths) if truth else list(paths[1:])
    if not others:
        raise UserError("nothing to compare: give --truth FILE, or at least two score files")
    space = detect_space(reference)
    wanted = read_scores(reference, space)
    rows, notes = [], []
    for path, name in zip(others, _names(others), strict=True):
        scores = read_scores(path, space)
        common = [code for code in wanted if code in scores]
        if len(common) < 2:
            raise UserError(f"{path}: shares {len(common)} architectures with {reference}; at least 2 are needed")
        if len(common) < len(wanted):
            notes.append(f"{name} lacks {len(wanted) - len(common)} of the {len(wanted)} architectures of {Path(reference).name}")
        if truth is None and len(common) < len(scores):
            notes.append(f"{name} has {len(scores) - len(common)} architectures that {Path(reference).name} lacks")
        x = np.array([wanted[code] for code in common])
        y = np.array([scores[code] for code in common])
        rows.append(Row(name, [space.parse(code) for code in common], x, y, correlate(x, y)))
    return Comparison(space, Path(reference).name, rows, notes)


def _names(paths: Sequence[str | Path]) -> list[str]:
    """File names, with their folder where two files are called the same."""
    names = [Path(path).name for path in paths]
    return [name if names.count(name) == 1 else str(Path(path)) for name, path in zip(names, paths, strict=True)]


def table(comparison: Comparison) -> str:
    """The comparison as aligned text: Pearson times 100 as on leaderboard A, Kendall and Spearman, each with its interval."""
    heads = ["against " + comparison.reference, "count", "Pearson x100", "Kendall tau", "Spearman"]
    lines = [heads]
    for row in comparison.rows:
        pearson, kendall, spearman = (row.correlations[key] for key in ("pearson", "kendall", "spearman"))
        lines.append([
            row.name,
            f"{len(row.scores):,}",
            f"{100 * pearson.value:.2f} [{100 * pearson.low:.2f}, {100 * pearson.high:.2f}]",
            _bracket(kendall),
            _bracket(spearman),
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "-" * sum(widths, 2 * len(widths) - 2))
    return "\n".join([*text, "95 % bootstrap intervals over the architectures", *comparison.notes])


def _finite(estimate: Estimate) -> dict[str, float | None]:
    """JSON has no NaN, which a constant file's correlations are."""
    return {key: value if math.isfinite(value) else None for key, value in estimate._asdict().items()}


def _bracket(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
