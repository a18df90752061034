"""A comparison told in words, then in figures, for the page and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from paddle_pgonas.report.comparison import Comparison
from paddle_pgonas.scores.correlation import LEVEL, Estimate, resamples_for

COLUMNS = {
    "pearson": ("Pearson x100", 100, 2),
    "kendall": ("Kendall tau", 1, 3),
    "spearman": ("Spearman", 1, 3),
    "kendall_top": ("tau in top 10 %", 1, 3),
    "precision_at_k": ("precision at {k}", 1, 3),
}
"""Format of each statistic: its heading, its factor, its decimals."""

Words = dict[int | None, str]
"""Words by the side of 0 on which an interval lies: 1, -1, 0 for both; None for an undefined value."""

CHANCE: Words = {
    1: "ranks clearly better than chance",
    0: "does not rank clearly better than chance",
    -1: "ranks in reverse order",
    None: "cannot be ranked, as all values of one side are equal",
}
LEADS: Words = {-1: "clearly better than", 0: "not clearly different from", 1: "clearly worse than", None: "not comparable with"}
ALIKE: Words = {1: "clear for", 0: "not clear for", -1: "reversed for", None: "not defined for"}


def verdict(comparison: Comparison) -> str:
    """Whether the first file ranks better than chance and than each other file; without a truth, which files rank alike."""
    first, *others = comparison.rows
    if not comparison.truth:
        words = _in_words(ALIKE, ((row.estimates["kendall"], row.name) for row in comparison.rows))
        return f"Without a truth nothing tells which file is right. Agreement with {comparison.reference} is {words}."
    text = f"{first.name} {CHANCE[_side(first.estimates['kendall'])]}."
    if others:
        leads = ((None if row.difference is None else row.difference["kendall"], row.name) for row in others)  # of the others
        text += f" It is {_in_words(LEADS, leads)}."
    best = max(comparison.rows, key=lambda row: np.nan_to_num(row.agreement.values["kendall"], nan=-2))
    return text + (f" The highest Kendall tau has {best.name}." if best is not first else "")


def _in_words(words: Words, files: Iterable[tuple[Estimate | None, str]]) -> str:
    """The words of each side, with the files whose estimates lie there."""
    groups: dict[int | None, list[str]] = {side: [] for side in words}
    for estimate, name in files:
        groups[_side(estimate)].append(name)
    return "; ".join(f"{words[side]} {listed(names)}" for side, names in groups.items() if names)


def _side(estimate: Estimate | None) -> int | None:
    if estimate is None or not math.isfinite(estimate.value):
        return None
    return 1 if estimate.low > 0 else -1 if estimate.high < 0 else 0


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def explanation(comparison: Comparison) -> list[str]:
    """How to read the figures, a sentence or two each."""
    resamples = {resamples_for(len(row.scores)) for row in comparison.rows}
    drawn = " to ".join(f"{count:,}" for count in sorted({min(resamples), max(resamples)}))
    lines = [
        "Clearly: the interval of Kendall tau, or of its difference, excludes 0. In brackets: "
        f"{100 * LEVEL:.0f} % bootstrap intervals over the subnets, {drawn} resamples; the same ones for all files.",
        "Leaderboard A of the challenge shows |Pearson| x 100, leaderboard B Kendall tau.",
    ]
    if comparison.ceiling is not None:
        ceiling = f"{comparison.ceiling:.3f}"
        lines.append(f"As {comparison.reference} has errors itself, error-free scores would reach a Kendall tau of {ceiling}.")
    return lines


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


def differing(comparison: Comparison) -> list[tuple[str, dict[str, Estimate]]]:
    """The files that the first one is compared with, and their differences to it; none without a truth."""
    return [(row.name, row.difference) for row in comparison.rows if comparison.truth and row.difference is not None]


def table(comparison: Comparison) -> str:
    """The result in words, then the figures as aligned text, each with its interval, and the differences to the first file."""
    lines = [["against " + comparison.reference, "count", *heads(comparison)]]
    lines += [[row.name, f"{len(row.scores):,}", *map(" ".join, cells(row.estimates))] for row in comparison.rows]
    blocks = [verdict(comparison), _aligned(lines)]
    if shown := differing(comparison):
        lines = [["difference to " + comparison.rows[0].name, *heads(comparison)]]
        lines += [[name, *map(" ".join, cells(difference, signed=True))] for name, difference in shown]
        blocks.append(_aligned(lines))
    return "\n\n".join([*blocks, "\n".join([*explanation(comparison), *comparison.notes])])


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "-" * sum(widths, 2 * len(widths) - 2))
    return "\n".join(text)
