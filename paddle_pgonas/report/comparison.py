"""Agreement of any number of score files with a reference: the truth file, or otherwise the first of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.priors.cost import Setting, macs, setting
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.correlation import LEVEL, Agreement, Estimate, attainable_kendall, correlate, default_k, resamples_for
from paddle_pgonas.scores.faults import EXAMPLES
from paddle_pgonas.scores.files import Candidate, detect_space, read_scored
from paddle_pgonas.space.arch import Arch, SearchSpace

COLUMNS = {
    "pearson": ("Pearson x100", 100, 2),
    "kendall": ("Kendall tau", 1, 3),
    "spearman": ("Spearman", 1, 3),
    "kendall_top": ("tau in top 10 %", 1, 3),
    "precision_at_k": ("precision at {k}", 1, 3),
}
"""Format of each statistic: its heading, its factor, its decimals."""


@dataclass(frozen=True)
class Row:
    """One file compared with the reference, on the common architectures."""

    name: str
    archs: list[Arch]
    reference: np.ndarray
    scores: np.ndarray
    agreement: Agreement
    difference: dict[str, Estimate] | None
    """Paired differences to the first row, on the common architectures; None in the first row."""

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Each statistic with its interval."""
        return self.agreement.estimates()


@dataclass(frozen=True)
class Comparison:
    """All rows and their reference."""

    space: SearchSpace
    reference: str
    k: int
    """The k of precision at k."""
    rows: list[Row]
    ceiling: float | None
    """Noise ceiling: Kendall tau of error-free scores with the reference; None if it has no ``std_error``."""
    notes: list[str]
    """Notes about the files: entries without a counterpart, names that stand for different codes."""
    setting: Setting
    """The images and classes of the costs that pictures show."""

    def macs(self, archs: Sequence[Arch]) -> np.ndarray:
        """Multiply-accumulates of each architecture, in millions."""
        return np.array([macs(arch, self.setting.image_size, self.setting.num_classes) for arch in archs]) / 1e6

    def as_json(self) -> dict[str, Any]:
        """The figures for programs; the keys are stable, and undefined values are null.

        ``reference``, ``space``, ``k``, ``level`` (of the intervals), ``ceiling`` (Kendall tau of error-free scores with this
        reference), ``notes`` (lines of text), and ``rows``, one per file: ``file``, ``count`` (architectures compared),
        ``resamples``, per statistic (``pearson``, ``kendall``, ``spearman``, ``kendall_top``, ``precision_at_k``) an object of
        ``value``, ``low``, ``high``, and ``difference``: null in the first row, else ``to`` (its file) and the same objects.
        """
        return {
            "reference": self.reference,
            "space": self.space.name,
            "k": self.k,
            "level": LEVEL,
            "ceiling": self.ceiling,
            "rows": [
                {
                    "file": row.name,
                    "count": len(row.scores),
                    "resamples": resamples_for(len(row.scores)),
                    **_finite(row.estimates),
                    "difference": None if row.difference is None else {"to": self.rows[0].name, **_finite(row.difference)},
                }
                for row in self.rows
            ],
            "notes": self.notes,
        }


def compare(
    paths: Sequence[str | Path],
    truth: str | Path | None = None,
    k: int | None = None,
    space: SearchSpace | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Comparison:
    """Read the files and compare each with the reference, matched by architecture (names do not matter).

    ``k`` is that of precision at k, by default :func:`default_k` of the smallest number compared; ``space`` by default the first
    built-in one with codes as long as the reference's. The costs in pictures are of images of side ``image_size`` with
    ``num_classes``; without them the space's image size and 1,000 are assumed, and the page says so. Raises UserError for a file
    that cannot be read, fewer than two files in all, fewer than two common architectures, or a k beyond 1 to their number.
    """
    reference = truth or paths[0]
    others = list(paths) if truth else list(paths[1:])
    if not others:
        raise UserError("nothing to compare: give --truth FILE, or at least two score files")
    known: dict[str, Arch] = {}
    space = space or detect_space(reference)
    wanted = {entry.arch.code: entry for entry in read_scored(reference, space, known)}
    [reference_name] = _names([reference])
    notes = _constant(reference_name, wanted.values())
    files = []
    for path, name in zip(others, _names(others), strict=True):
        scores = {entry.arch.code: entry for entry in read_scored(path, space, known)}
        common = [code for code in wanted if code in scores]
        if len(common) < 2:
            raise UserError(f"{path}: shares {len(common)} architectures with {reference}; at least 2 are needed")
        notes += _constant(name, scores.values()) + _gaps(name, scores, reference_name, wanted)
        if len(common) == 2:
            notes.append(f"{name} shares only 2 architectures with {reference_name}: every correlation of two is 1 or -1")
        files.append((name, common, scores))
    fewest = min(len(common) for _, common, _ in files)
    k = default_k(fewest) if k is None else k
    if not 1 <= k <= fewest:
        raise UserError(f"--top must be 1 to {fewest}, the number of architectures compared, not {k}")
    rows, ceiling = _rows(wanted, files, k), _ceiling(wanted)
    return Comparison(space, reference_name, k, rows, ceiling, notes, setting(space, image_size, num_classes))


Scores = dict[str, Candidate]
"""Entries by canonical code."""


def _rows(wanted: Scores, files: list[tuple[str, list[str], Scores]], k: int) -> list[Row]:
    def agree(scores: Scores, codes: list[str]) -> Agreement:
        return correlate(_accs(wanted, codes), _accs(scores, codes), k)

    rows: list[Row] = []
    _, first_codes, first_scores = files[0]
    for name, codes, scores in progress(files, "comparing", "files"):
        agreed, difference = agree(scores, codes), None
        if rows and codes == first_codes:
            difference = agreed.minus(rows[0].agreement)
        elif rows:
            both = [code for code in codes if code in first_scores]
            if len(both) >= max(2, k):
                difference = agree(scores, both).minus(agree(first_scores, both))
        archs = [wanted[code].arch for code in codes]
        rows.append(Row(name, archs, _accs(wanted, codes), _accs(scores, codes), agreed, difference))
    return rows


def _ceiling(wanted: Scores) -> float | None:
    errors = [entry.std_error for entry in wanted.values()]
    if None in errors:
        return None
    ceiling = attainable_kendall(_accs(wanted, wanted), np.array(errors, dtype=float))
    return ceiling if math.isfinite(ceiling) else None


def _accs(scores: Scores, codes: Iterable[str]) -> np.ndarray:
    return np.array([scores[code].acc for code in codes], dtype=float)


def _constant(name: str, entries: Iterable[Candidate]) -> list[str]:
    values = {entry.acc for entry in entries}
    return [f"{name} is constant (every 'acc' is {values.pop():g}): it gives no ranking"] if len(values) == 1 else []


def _gaps(name: str, scores: Scores, reference: str, wanted: Scores) -> list[str]:
    notes = []
    if lacking := [entry.name for code, entry in wanted.items() if code not in scores]:
        notes.append(f"{name} lacks {len(lacking):,} of the {len(wanted):,} architectures of {reference}: {_some(lacking)}")
    if extra := [entry.name for code, entry in scores.items() if code not in wanted]:
        notes.append(f"{name} has {len(extra):,} architectures that {reference} lacks, left out: {_some(extra)}")
    codes = {entry.name: code for code, entry in wanted.items()}
    if other := [entry.name for code, entry in scores.items() if codes.get(entry.name, code) != code]:
        notes.append(f"{name} has another code than {reference} under {len(other):,} names, matched by code: {_some(other)}")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(map(printable, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")


def _names(paths: Sequence[str | Path]) -> list[str]:
    """File names, with their folder if two files have the same name; safe to print."""
    names = [Path(path).name for path in paths]
    whole = [name if names.count(name) == 1 else str(Path(path)) for name, path in zip(names, paths, strict=True)]
    return list(map(printable, whole))


def cells(estimates: dict[str, Estimate], signed: bool = False) -> list[tuple[str, str]]:
    """Each statistic as a number and its interval in brackets; a dash for undefined values."""
    texts = []
    for name, (_, factor, digits) in COLUMNS.items():
        value, low, high = (f"{factor * number:{'+' if signed else ''}.{digits}f}" for number in estimates[name])
        texts.append((value, f"[{low}, {high}]") if math.isfinite(estimates[name].value) else ("-", ""))
    return texts


def heads(comparison: Comparison) -> list[str]:
    """The statistics' headings."""
    return [head.format(k=comparison.k) for head, _, _ in COLUMNS.values()]


def verdict(comparison: Comparison) -> str:
    """The comparison's result in a few sentences: the file with the highest Kendall tau, the others, and the ceiling."""
    rows = [row for row in comparison.rows if math.isfinite(row.agreement.values["kendall"])]
    if not rows:
        return f"No file can be ranked against {comparison.reference}: Kendall tau is not defined where all values are equal."
    best, *others = sorted(rows, key=lambda row: -row.agreement.values["kendall"])
    tau = "Kendall tau " + " ".join(cells(best.estimates)[1])
    if best.estimates["kendall"].low > 0:
        text = f"{best.name} agrees {'best ' if others else ''}with {comparison.reference}: {tau}"
    else:
        text = f"No file clearly agrees with {comparison.reference}. The highest is {best.name}: {tau}"
    for row in others:
        reverse = " (in reverse order)" if row.estimates["kendall"].high < 0 else ""
        text += f"; {row.name} {row.agreement.values['kendall']:.3f}{reverse}"
    text += "."
    if others and best.archs == others[0].archs:
        lead = best.agreement.minus(others[0].agreement)
        if not lead["kendall"].low > 0:
            text += f" Its lead over {others[0].name} is not clear: {' '.join(cells(lead, signed=True)[1])}."
    if comparison.ceiling is not None:
        text += f" Error-free scores would reach {comparison.ceiling:.3f}, as {comparison.reference} itself has errors."
    return text


def explanation(comparison: Comparison) -> list[str]:
    """Explanation of the figures."""
    resamples = {resamples_for(len(row.scores)) for row in comparison.rows}
    drawn = " to ".join(f"{count:,}" for count in sorted({min(resamples), max(resamples)}))
    return [
        f"In brackets: {100 * LEVEL:.0f} % bootstrap intervals over the architectures, {drawn} resamples; "
        "for a difference the same ones for both files.",
        "Leaderboard A of the challenge shows |Pearson| x 100, leaderboard B Kendall tau.",
    ]


def table(comparison: Comparison) -> str:
    """The comparison as aligned text, each figure with its interval; below it the differences to the first file."""
    lines = [["against " + comparison.reference, "count", *heads(comparison)]]
    lines += [[row.name, f"{len(row.scores):,}", *map(" ".join, cells(row.estimates))] for row in comparison.rows]
    blocks = [_aligned(lines)]
    if len(comparison.rows) > 1:
        lines = [["difference to " + comparison.rows[0].name, *heads(comparison)]]
        differing = [(row.name, row.difference) for row in comparison.rows if row.difference is not None]
        lines += [[name, *map(" ".join, cells(difference, signed=True))] for name, difference in differing]
        blocks.append(_aligned(lines))
    return "\n\n".join([*blocks, "\n".join([verdict(comparison), *explanation(comparison), *comparison.notes])])


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "-" * sum(widths, 2 * len(widths) - 2))
    return "\n".join(text)


def _finite(estimates: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Replaces NaN, the correlation of a constant file, by None, because JSON has no NaN."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in estimate._asdict().items()}
        for name, estimate in estimates.items()
    }
