"""Agreement of any number of score files with a reference: the truth file, or otherwise the first of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.priors.cost import Setting, macs, setting
from paddle_pgonas.progress import progress
from paddle_pgonas.report.best import Best, Scores, Shared, best_of, shared_by
from paddle_pgonas.report.labels import TRUTH, file_names, labels_of
from paddle_pgonas.scores.correlation import LEVEL, Agreement, Estimate, attainable_kendall, correlate, default_k, resamples_for
from paddle_pgonas.scores.faults import EXAMPLES
from paddle_pgonas.scores.files import detect_space, read_scored
from paddle_pgonas.space.arch import Arch, SearchSpace


@dataclass(frozen=True)
class Row:
    """One file compared with the reference, on the common architectures."""

    name: str
    """Its label."""
    file: str
    """The file's name."""
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
    """``the truth``, or the first file's label."""
    reference_file: str
    truth: bool
    """Whether the reference is a truth, against which a ranking can be wrong."""
    k: int
    """The k of precision at k."""
    rows: list[Row]
    ceiling: float | None
    """Noise ceiling: Kendall tau of error-free scores with the reference; None if it has no ``std_error``."""
    best: list[Best]
    """The best subnets of each file, the truth's last."""
    shared: dict[tuple[str, str], Shared]
    """What each two files have in common of these, by their labels."""
    notes: list[str]
    """Notes about the files: entries without a counterpart, names that stand for different codes."""
    setting: Setting
    """The images and classes of the costs that the page shows."""
    _known: dict[Arch, int] = field(default_factory=dict, repr=False)

    def macs(self, archs: Iterable[Arch]) -> np.ndarray:
        """Multiply-accumulates of each architecture, in millions."""
        for arch in archs:
            if arch not in self._known:
                self._known[arch] = macs(arch, self.setting.image_size, self.setting.num_classes)
        return np.array([self._known[arch] for arch in archs]) / 1e6

    def as_json(self) -> dict[str, Any]:
        """The figures for programs; the keys are stable, and undefined values are null.

        ``reference``, ``space``, ``k``, ``level`` (of the intervals), ``ceiling`` (Kendall tau of error-free scores with this
        reference), ``notes`` (lines of text), and ``rows``, one per file: ``file``, ``label``, ``count`` (subnets compared),
        ``resamples``, per statistic (``pearson``, ``kendall``, ``spearman``, ``kendall_top``, ``precision_at_k``) an object of
        ``value``, ``low``, ``high``, and ``difference``: null in the first row, else ``to`` (its file) and the same objects.
        """
        return {
            "reference": self.reference_file,
            "space": self.space.name,
            "k": self.k,
            "level": LEVEL,
            "ceiling": self.ceiling,
            "rows": [
                {
                    "file": row.file,
                    "label": row.name,
                    "count": len(row.scores),
                    "resamples": resamples_for(len(row.scores)),
                    **_finite(row.estimates),
                    "difference": None if row.difference is None else {"to": self.rows[0].file, **_finite(row.difference)},
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
    labels: Sequence[str] | None = None,
) -> Comparison:
    """Read the files and compare each with the reference, matched by architecture (names do not matter).

    ``labels`` name the ``paths`` in what is shown; by default the method or the prior of the record beside a file, else its name.
    ``k`` is that of precision at k, by default :func:`default_k` of the smallest number compared; ``space`` by default the first
    built-in one with codes as long as the reference's. The costs shown are of images of side ``image_size`` with
    ``num_classes``; without them the space's image size and 1,000 are assumed, and the page says so. Raises UserError for a file
    that cannot be read, fewer than two files in all, fewer than two common architectures, a k beyond 1 to their number, or
    labels that are not one for each file and different.
    """
    if len(paths) < (1 if truth else 2):
        raise UserError("nothing to compare: give --truth FILE, or at least two score files")
    space, known = space or detect_space(truth or paths[0]), dict[str, Arch]()

    def read(name: str, file: str, path: str | Path) -> _File:
        return _File(name, file, path, {entry.arch.code: entry for entry in read_scored(path, space, known)})

    files = list(map(read, labels_of(paths, labels), file_names(paths), paths))
    reference = read(TRUTH, file_names([truth])[0], truth) if truth else files.pop(0)
    wanted = reference.scores
    commons = [_common(file, reference) for file in files]
    fewest = min(map(len, commons))
    k = default_k(fewest) if k is None else k
    if not 1 <= k <= fewest:
        raise UserError(f"--top must be 1 to {fewest}, the number of architectures compared, not {k}")
    shown = {file.name: file.scores for file in ([*files, reference] if truth else [reference, *files])}
    return Comparison(
        space=space,
        reference=reference.name,
        reference_file=reference.file,
        truth=truth is not None,
        k=k,
        rows=_rows(wanted, files, commons, k),
        ceiling=_ceiling(wanted),
        best=best_of(shown, wanted if truth else {}),
        shared=shared_by(shown),
        notes=_constant(reference) + [note for pair in zip(files, commons, strict=True) for note in _notes(*pair, reference)],
        setting=setting(space, image_size, num_classes),
    )


class _File(NamedTuple):
    name: str
    file: str
    path: str | Path
    scores: Scores


def _common(file: _File, reference: _File) -> list[str]:
    common = [code for code in reference.scores if code in file.scores]
    if len(common) < 2:
        raise UserError(f"{file.path}: shares {len(common)} architectures with {reference.path}; at least 2 are needed")
    return common


def _rows(wanted: Scores, files: list[_File], commons: list[list[str]], k: int) -> list[Row]:
    def agree(scores: Scores, codes: list[str]) -> Agreement:
        return correlate(_accs(wanted, codes), _accs(scores, codes), k)

    rows: list[Row] = []
    pairs = list(zip(files, commons, strict=True))
    first, first_codes = pairs[0]
    for file, codes in progress(pairs, "comparing", "files"):
        agreed, difference = agree(file.scores, codes), None
        if rows and codes == first_codes:
            difference = agreed.minus(rows[0].agreement)
        elif rows:
            both = [code for code in codes if code in first.scores]
            if len(both) >= max(2, k):
                difference = agree(file.scores, both).minus(agree(first.scores, both))
        archs = [wanted[code].arch for code in codes]
        rows.append(Row(file.name, file.file, archs, _accs(wanted, codes), _accs(file.scores, codes), agreed, difference))
    return rows


def _ceiling(wanted: Scores) -> float | None:
    errors = [entry.std_error for entry in wanted.values()]
    if None in errors:
        return None
    ceiling = attainable_kendall(_accs(wanted, wanted), np.array(errors, dtype=float))
    return ceiling if math.isfinite(ceiling) else None


def _accs(scores: Scores, codes: Iterable[str]) -> np.ndarray:
    return np.array([scores[code].acc for code in codes], dtype=float)


def _notes(file: _File, common: list[str], reference: _File) -> list[str]:
    """What a reader must know about a file: a constant score, gaps, other codes under the same names."""
    name, scores, wanted = file.name, file.scores, reference.scores
    notes = _constant(file)
    if lacking := [entry.name for code, entry in wanted.items() if code not in scores]:
        notes.append(f"{name} lacks {len(lacking):,} of the {len(wanted):,} architectures of {reference.name}: {_some(lacking)}")
    if extra := [entry.name for code, entry in scores.items() if code not in wanted]:
        notes.append(f"{name} has {len(extra):,} architectures that {reference.name} lacks, left out: {_some(extra)}")
    codes = {entry.name: code for code, entry in wanted.items()}
    if other := [entry.name for code, entry in scores.items() if codes.get(entry.name, code) != code]:
        notes.append(f"{name} has another code than {reference.name} under {len(other):,} names, matched by code: {_some(other)}")
    if len(common) == 2:
        notes.append(f"{name} shares only 2 architectures with {reference.name}: every correlation of two is 1 or -1")
    return notes


def _constant(file: _File) -> list[str]:
    values = {entry.acc for entry in file.scores.values()}
    return [f"{file.name} is constant (every 'acc' is {values.pop():g}): it gives no ranking"] if len(values) == 1 else []


def _some(names: list[str]) -> str:
    return ", ".join(map(printable, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")


def _finite(estimates: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Replaces NaN, the correlation of a constant file, by None, because JSON has no NaN."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in estimate._asdict().items()}
        for name, estimate in estimates.items()
    }
