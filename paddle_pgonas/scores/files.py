"""Candidate, submission and truth files: one format, read, checked and written here.

``{"arch1": {"acc": 0.71, "arch": "<code>"}, ...}``. In a candidate file ``acc`` is a placeholder; in a submission it is the
score, a top-1 fraction; in a truth file it is the stand-alone accuracy, and the file may name a part of the candidates only.
Files that hold a prior's values use the same format with any finite number as ``acc``.

The readers here stop at the first fault; :mod:`paddle_pgonas.scores.check` collects all by the same rules.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json, write_text
from paddle_pgonas.io.outputs import content_digest
from paddle_pgonas.priors.cost import sample_spread
from paddle_pgonas.scores.faults import Faults
from paddle_pgonas.space.arch import SPACES, TRACK1, Arch, ArchError, SearchSpace

LARGEST = 1e100
"""Largest absolute score: squares of larger ones overflow in comparisons and plots."""

Accs = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of a file: its name, its architecture, the code as the file writes it, and its ``acc`` (None if absent)."""

    name: str
    arch: Arch
    written: str
    acc: float | None
    std_error: float | None = None
    """The standard error of ``acc``, which a truth file may name."""


def read_candidates(path: str | Path, space: SearchSpace, known: dict[str, Arch] | None = None) -> list[Candidate]:
    """Read a candidate, submission or truth file; the order is the file's.

    ``known`` caches architectures of this space by code as written. Raises UserError for a file that is no JSON or is empty, an
    entry without ``arch``, and an illegal or repeated code.
    """
    faults = Faults()
    candidates, _ = collect_candidates(read_json(path, "candidate file"), space, faults, {} if known is None else known)
    faults.stop(path)
    return candidates


def select(
    path: str | Path, candidates: Sequence[Candidate], first: int | None, names: Sequence[str] | None
) -> Sequence[Candidate]:
    """The first candidates or those named, in the file's order. Raises UserError for fewer than one, or an unknown name."""
    if first is not None and first < 1:
        raise UserError(f"--first must be at least 1, not {first}")
    if names is not None:
        missing = set(names).difference(candidate.name for candidate in candidates)
        if missing:
            raise UserError(f"--only: {path} has no candidate named {min(missing)}")
        candidates = [candidate for candidate in candidates if candidate.name in set(names)]
    return candidates[:first]


def collect_candidates(entries: Any, space: SearchSpace, faults: Faults, known: dict[str, Arch]) -> tuple[list[Candidate], Accs]:
    """The valid entries, with every ``acc`` that is a number or absent; the faults of the others are added to ``faults``."""
    if not isinstance(entries, dict):
        faults.add("format", "the file", "must hold a JSON object of name: {'acc': ..., 'arch': ...} entries")
        return [], {}
    if not entries:
        faults.add("format", "the file", "is empty; it needs at least one entry")
    candidates, accs, names = list[Candidate](), Accs(), dict[str, str]()
    for name, entry in entries.items():
        if not isinstance(entry, dict) or "arch" not in entry:
            faults.add("entry", name, "lacks the key 'arch'; an entry looks like {'acc': 0.0, 'arch': '<code>'}")
            continue
        given, given_error = entry.get("acc"), entry.get("std_error")
        acc, std_error = _number(given), _number(given_error)
        if acc is None and given is not None:
            faults.add("acc is not a number", name, f"'acc' must be a number, not {given!r:.40}")
        else:
            accs[name] = acc
        arch = _arch(name, entry["arch"], space, faults, known)
        if arch is None:
            continue
        first = names.setdefault(arch.code, name)
        if first is not name:
            faults.add("repeated code", name, f"repeats the code of {first}; every architecture may occur only once")
        if given_error is not None and (std_error is None or not 0 <= std_error <= LARGEST):
            faults.add("std_error", name, f"'std_error' must be a number of 0 to {LARGEST:g}, not {given_error!r:.40}")
            std_error = None
        candidates.append(Candidate(name, arch, entry["arch"], acc, std_error))
    return candidates, accs


def _number(value: Any) -> float | None:
    """A JSON number as a float, too large ones as infinite; None for another value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _arch(name: str, code: Any, space: SearchSpace, faults: Faults, known: dict[str, Arch]) -> Arch | None:
    arch = known.get(code) if isinstance(code, str) else None
    if arch is not None:
        return arch
    try:
        arch = known[code] = space.parse(code)
    except ArchError:
        for fault in space.faults(code):
            faults.add(f"illegal code ({fault.rule})", name, str(fault))
    return arch


def detect_space(path: str | Path) -> SearchSpace:
    """The space whose codes are as long as those of the file; Track 1 if none is, so that its errors are shown."""
    return space_of(read_json(path, "candidate file"))


def space_of(entries: Any) -> SearchSpace:
    """The space whose codes are as long as those of parsed entries; Track 1 if none is."""
    for entry in entries.values() if isinstance(entries, dict) else ():
        code = entry.get("arch") if isinstance(entry, dict) else None
        for space in SPACES.values():
            if isinstance(code, str) and len(code) in (space.code_length, space.code_length - 1):
                return space
    return TRACK1


def read_scores(path: str | Path, space: SearchSpace) -> dict[str, float]:
    """Read the finite ``acc`` of every entry, by canonical code; errors as in :func:`read_scored`."""
    return {entry.arch.code: entry.acc for entry in read_scored(path, space) if entry.acc is not None}


def read_scored(path: str | Path, space: SearchSpace, known: dict[str, Arch] | None = None) -> list[Candidate]:
    """Read a file whose every entry has a finite ``acc`` of at most ``LARGEST``; else as :func:`read_candidates`."""
    candidates, faults = read_candidates(path, space, known), Faults()
    for candidate in candidates:
        if candidate.acc is None or not math.isfinite(candidate.acc):
            faults.add("acc", candidate.name, "has no finite 'acc'; score the file before comparing it")
        elif abs(candidate.acc) > LARGEST:
            faults.add("size", candidate.name, f"'acc' {candidate.acc:g} is too large to be compared (at most {LARGEST:g})")
    faults.stop(path)
    return candidates


def check_submission(path: str | Path, candidates: Sequence[Candidate], space: SearchSpace) -> None:
    """Raise a UserError for wrong names, order or codes, or an ``acc`` outside [0, 1]. (Equal scores are no fault.)"""
    entries, faults = read_json(path, "submission"), Faults()
    _, accs = collect_candidates(entries, space, faults, {})
    check_range(accs, faults)
    check_against(entries, candidates, faults)
    faults.stop(path)


def check_range(accs: Accs, faults: Faults) -> None:
    """Every ``acc`` is a fraction of 0 to 1."""
    for name, acc in accs.items():
        if acc is None:
            faults.add("acc is missing", name, "'acc' must be in [0, 1], but is missing")
        elif not 0 <= acc <= 1:
            faults.add("acc is outside [0, 1]", name, f"'acc' must be in [0, 1], not {acc}")


def check_against(entries: Any, candidates: Sequence[Candidate], faults: Faults) -> None:
    """Checks the names, the order and the codes as written against the candidate file."""
    if not isinstance(entries, dict):
        return
    wanted = {candidate.name: candidate for candidate in candidates}
    for name in wanted:
        if name not in entries:
            faults.add("missing entry", name, "is in the candidate file, but not in this file")
    for name, entry in entries.items():
        code = entry.get("arch") if isinstance(entry, dict) else None
        if name not in wanted:
            faults.add("unknown entry", name, "is not in the candidate file")
        elif isinstance(code, str) and code != wanted[name].written:
            same = code.rjust(len(wanted[name].arch.code), "1") == wanted[name].arch.code
            how = "writes digit 0 of the code differently from" if same else "holds another code than in"
            faults.add("other code", name, f"{how} the candidate file")
    ours = (name for name in entries if name in wanted)
    theirs = (name for name in wanted if name in entries)
    for here, there in zip(ours, theirs, strict=True):
        if here != there:
            faults.add("order", here, f"is at the position of {there} in the candidate file; keep its order")
            return


def beside(path: str | Path, ending: str) -> str:
    """The file beside a score file: ``NAME<ending>`` for ``NAME.json``, and ``path<ending>`` for any other name."""
    return str(path).removesuffix(".json") + ending


def read_record(path: str | Path) -> dict[str, Any]:
    """The record beside a score file; empty without one, and for a file that was changed since. UserError for no JSON object."""
    place = beside(path, ".record.json")
    if not Path(place).is_file():
        return {}
    record = read_json(place, "record")
    if not isinstance(record, dict):
        raise UserError(f"{place}: a record is a JSON object; remove the file or score again")
    return record if "file" not in record or record["file"] == content_digest(path) else {}


def write_scores(path: str | Path, candidates: Sequence[Candidate], scores: Sequence[float]) -> None:
    """Write the candidate file with every ``acc`` filled in, atomically. Raises UserError for a score that is not finite."""
    entries = {}
    for candidate, score in zip(candidates, scores, strict=True):
        if not math.isfinite(score):
            raise UserError(f"{path}: the score of {candidate.name} is {score}; check the weights that produced it")
        entries[candidate.name] = {"acc": float(score), "arch": candidate.written}
    write_text(path, json.dumps(entries))


def sample_candidates(space: SearchSpace, count: int, seed: int, spread: bool = False) -> list[Candidate]:
    """Distinct random architectures of a space, named ``arch1``, ``arch2`` and so on; equal seeds give equal lists.

    With ``spread`` they lie evenly over the logarithm of cost (``sample_spread`` of ``priors/cost.py``) at the space's image size
    with 1,000 classes, else they are drawn uniformly. Raises UserError for fewer than one or more than half of the space.
    """
    if not 1 <= count <= space.size // 2:
        raise UserError(f"count must be 1 to {space.size // 2} for space {space.name}, not {count}")
    rng = random.Random(seed)
    archs = dict.fromkeys(sample_spread(space, count, rng, space.image_size, 1000) if spread else [])
    while len(archs) < count:
        archs[space.sample(rng)] = None
    return [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs, start=1)]
