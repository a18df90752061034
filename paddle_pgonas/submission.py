"""Candidate, submission and truth files: one format, read, checked and written here.

``{"arch1": {"acc": 0.71, "arch": "<code>"}, ...}``. In a candidate file ``acc`` is a placeholder; in a submission it is the
score, a top-1 fraction; in a truth file it is the stand-alone accuracy, and the file may name a part of the candidates only.
Files that hold a prior's values use the same format with any finite number as ``acc``.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_pgonas.arch import SPACES, Arch, ArchError, SearchSpace
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, write_text


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of a file: its name, its architecture, the code as the file writes it, and its ``acc`` (None if absent)."""

    name: str
    arch: Arch
    written: str
    acc: float | None


def read_candidates(path: str | Path, space: SearchSpace) -> list[Candidate]:
    """Read a candidate, submission or truth file; the order is the file's.

    Raises:
        UserError: not JSON, empty, an entry without ``arch``, an illegal code, or a code that occurs twice.
    """
    entries = read_json(path, "candidate file")
    if not isinstance(entries, dict):
        raise UserError(f"{path}: a candidate file is a JSON object of name: {{'acc': ..., 'arch': ...}} entries")
    if not entries:
        raise UserError(f"{path}: the candidate file is empty; it needs at least one entry")
    candidates = [_candidate(path, name, entry, space) for name, entry in entries.items()]
    names: dict[str, str] = {}
    for candidate in candidates:
        first = names.setdefault(candidate.arch.code, candidate.name)
        if first is not candidate.name:
            raise UserError(f"{path}: {candidate.name} repeats the code of {first}; every architecture may stand once")
    return candidates


def _candidate(path: str | Path, name: str, entry: Any, space: SearchSpace) -> Candidate:
    if not isinstance(entry, dict) or "arch" not in entry:
        raise UserError(f"{path}: {name} lacks the key 'arch'; an entry looks like {{'acc': 0.0, 'arch': '<code>'}}")
    try:
        arch = space.parse(entry["arch"])
    except ArchError as error:
        raise UserError(f"{path}: {name}: {error}") from None
    acc = entry.get("acc")
    if acc is not None and (isinstance(acc, bool) or not isinstance(acc, int | float)):
        raise UserError(f"{path}: {name}: 'acc' must be a number, not {acc!r}")
    try:
        return Candidate(name, arch, entry["arch"], None if acc is None else float(acc))
    except OverflowError:
        return Candidate(name, arch, entry["arch"], math.inf)


def detect_space(path: str | Path) -> SearchSpace:
    """The space whose codes are as long as those of the file; Track 1 if none is, so that its errors are shown."""
    entries = read_json(path, "candidate file")
    first = next(iter(entries.values()), None) if isinstance(entries, dict) else None
    code = first.get("arch") if isinstance(first, dict) else None
    for space in SPACES.values():
        if isinstance(code, str) and len(code) in (space.code_length, space.code_length - 1):
            return space
    return SPACES["track1"]


def read_scores(path: str | Path, space: SearchSpace) -> dict[str, float]:
    """Read the finite ``acc`` of every entry, by canonical code.

    Raises:
        UserError: as :func:`read_candidates`, or an entry without a finite ``acc``.
    """
    scores = {}
    for candidate in read_candidates(path, space):
        if candidate.acc is None or not math.isfinite(candidate.acc):
            raise UserError(f"{path}: {candidate.name} has no finite 'acc'; score the file before comparing it")
        scores[candidate.arch.code] = candidate.acc
    return scores


def check_submission(path: str | Path, candidates: Sequence[Candidate], space: SearchSpace) -> None:
    """Accept a submission file for these candidates, or say what is wrong with it.

    Raises:
        UserError: other names, another order, other codes, or an ``acc`` outside [0, 1].
    """
    entries = read_candidates(path, space)
    if [entry.name for entry in entries] != [candidate.name for candidate in candidates]:
        raise UserError(f"{path}: the entries differ from the candidate file's in name, number or order")
    for entry, candidate in zip(entries, candidates, strict=True):
        if entry.written != candidate.written:
            raise UserError(f"{path}: {entry.name} holds another code than the candidate file")
        if entry.acc is None or not 0 <= entry.acc <= 1:
            raise UserError(f"{path}: {entry.name}: 'acc' must lie in [0, 1], not {entry.acc}")


def write_scores(path: str | Path, candidates: Sequence[Candidate], scores: Sequence[float]) -> None:
    """Write the candidate file with every ``acc`` filled in: the same names in the same order, atomically.

    Raises:
        UserError: a score that is not finite, or the file cannot be written.
    """
    entries = {}
    for candidate, score in zip(candidates, scores, strict=True):
        if not math.isfinite(score):
            raise UserError(f"{path}: the score of {candidate.name} is {score}; check the weights that produced it")
        entries[candidate.name] = {"acc": float(score), "arch": candidate.written}
    write_text(path, json.dumps(entries))


def sample_candidates(space: SearchSpace, count: int, seed: int) -> list[Candidate]:
    """Distinct random architectures of a space, named ``arch1``, ``arch2`` and so on; equal seeds give equal lists.

    Raises:
        UserError: more than half of the space is asked for, or less than one.
    """
    if not 1 <= count <= space.size // 2:
        raise UserError(f"count must be 1 to {space.size // 2} for space {space.name}, not {count}")
    archs: dict[Arch, None] = {}
    rng = random.Random(seed)
    while len(archs) < count:
        archs[space.sample(rng)] = None
    return [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs, start=1)]
