"""The best subnets of each file, and how many of them two files have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nlargest
from itertools import combinations
from typing import NamedTuple

from paddle_pgonas.scores.files import Candidate

MOST = 10
"""Number of subnets shown of a file; of fewer than 20 the better half."""

Scores = dict[str, Candidate]
"""Entries by canonical code."""


@dataclass(frozen=True)
class Best:
    """The best subnets of one file, of all that it names."""

    name: str
    entries: list[Candidate]
    """By falling score; of equal ones those that the file names first."""
    truths: list[float | None]
    """The truth of each entry, where there is one."""
    tied: int
    """Further subnets with the score of the last entry."""


class Shared(NamedTuple):
    """How many of their ``of`` best subnets are the ``same`` in two files."""

    same: int
    of: int


def best_of(files: Mapping[str, Scores], truth: Scores) -> list[Best]:
    """The best subnets of each file."""
    found = []
    for name, scores in files.items():
        entries = _best(scores.values())
        equal = sum(entry.acc == entries[-1].acc for entry in scores.values())
        tied = equal - sum(entry.acc == entries[-1].acc for entry in entries)
        codes = (entry.arch.code for entry in entries)
        found.append(Best(name, entries, [truth[code].acc if code in truth else None for code in codes], tied))
    return found


def shared_by(files: Mapping[str, Scores]) -> dict[tuple[str, str], Shared]:
    """What each pair of files, in their order, shares of the best among the subnets that both name."""
    found = {}
    for (one, ours), (other, theirs) in combinations(files.items(), 2):
        common = [code for code in ours if code in theirs]
        if common:
            best, others = (_best(scores[code] for code in common) for scores in (ours, theirs))
            same = {entry.arch.code for entry in best} & {entry.arch.code for entry in others}
            found[one, other] = Shared(len(same), len(best))
    return found


def _best(entries: Iterable[Candidate]) -> list[Candidate]:
    known = list(entries)
    return nlargest(min(MOST, max(1, len(known) // 2)), known, key=lambda entry: float(entry.acc or 0))
