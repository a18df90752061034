"""Checks whether the challenge would accept a submission: all broken rules of a file, and legal but suspicious values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.files import read_json
from paddle_pgonas.scores.faults import Faults
from paddle_pgonas.scores.files import (
    Accs,
    Candidate,
    check_against,
    check_range,
    collect_candidates,
    detect_space,
    read_candidates,
    read_record,
    space_of,
)
from paddle_pgonas.space.arch import TRACK1, Arch, SearchSpace

CHALLENGE_ENTRIES = 45_000
"""Entries of Track 1's candidate file."""
PREDICTOR = (
    "'acc' are predictions of a model that was fitted to the scores of a sample: rule 6 of the challenge forbids a predictor"
)
"""What a record says of such a file as ``predictor``."""


@dataclass(frozen=True)
class Verdict:
    """Whether a file would be accepted as a submission, with all faults, and notes."""

    path: str
    faults: Faults
    notes: list[str]
    what: str = "no score file"
    """What the file is, by the record beside it or else by its values."""

    @property
    def accepted(self) -> bool:
        """No rule is broken."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """``file``, ``what``, ``accepted``, ``faults`` (``rule``, ``count``, ``examples`` of name and problem), ``notes``."""
        faults = [asdict(fault) for fault in self.faults.values()]
        return {"file": self.path, "what": self.what, "accepted": self.accepted, "faults": faults, "notes": self.notes}

    def __str__(self) -> str:
        word = "accepted" if self.accepted else "NOT accepted"
        lines = [f"{printable(self.path)}: {word} as a submission", f"what: {self.what}", *self.faults.lines()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n  ".join(lines)


def validate_submission(path: str | Path, candidates_path: str | Path | None = None, space: SearchSpace | None = None) -> Verdict:
    """Check a file as a submission and collect all faults; names, order and codes must be those of the candidate file.

    The record beside the file tells whether its scores are a predictor's. Without a space it is found by the length of the codes.
    Raises UserError for a wrong candidate file or an unreadable ``path``.
    """
    faults, notes, repeated = Faults(), list[str](), list[str]()
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        entries = read_json(path, "submission", repeated)
    except UserError as error:
        faults.add("JSON", "the file", str(error).removeprefix(printable(f"{path}: ")))
        return Verdict(str(path), faults, notes)
    for key in repeated:
        faults.add("repeated name", key, "occurs twice in one JSON object; every name may occur only once")
    known: dict[str, Arch] = {}
    space = space or (space_of(entries) if candidates_path is None else detect_space(candidates_path))
    wanted = None if candidates_path is None else read_candidates(candidates_path, space, known)
    _, accs = collect_candidates(entries, space, faults, known)
    check_range(accs, faults)
    record = _record(Path(path))
    if "predictor" in record and "file" in record:
        faults.add("predictor", "the file", PREDICTOR)
    if record.get("prior") is not None:
        notes.append("a prior is in the scores: no legal entry, these must come from a supernet's weights")
    if len(accs) > 1 and len(set(accs.values())) == 1 and (acc := next(iter(accs.values()))) is not None:
        # such a file gives no ranking, and the leaderboards' correlations are not defined
        why = "as in a candidate file that was not scored" if acc == 0 else "so they give no ranking"
        faults.add("constant acc", "the file", f"all {len(accs):,} 'acc' are {acc:g}, {why}")
    count = len(entries) if isinstance(entries, dict) else 0
    if wanted is not None:
        check_against(entries, wanted, faults)
        if count != len(wanted):
            notes.append(f"{count:,} entries, the candidate file has {len(wanted):,}")
    else:
        if space is TRACK1 and count != CHALLENGE_ENTRIES:
            notes.append(f"{count:,} entries, the challenge's candidate file has {CHALLENGE_ENTRIES:,}")
        notes.append("names, order and codes are not compared with a candidate file; give --candidates FILE")
    if not faults:
        values = [acc for acc in accs.values() if acc is not None]
        spread = f"'acc' {min(values):.4g} to {max(values):.4g}, {len(set(values)):,} different values"
        notes.append(f"{count:,} entries of space {space.name}, {spread}")
    return Verdict(str(path), faults, notes, _kind(record, accs) + _part(list(accs), wanted or []))


def _record(path: Path) -> dict[str, Any]:
    """The record beside a file, if it can be read and is not of another content; else an empty one."""
    try:
        return read_record(path)
    except UserError:
        return {}


def _kind(record: dict[str, Any], accs: Accs) -> str:
    """What a file holds; values of a record, which may come from a stranger, are shown in short."""
    shown = {key: printable(str(value))[:100] for key, value in record.items()}
    values = {acc for acc in accs.values() if acc is not None}
    if "predictor" in shown:
        return "predictions by a model of scores"
    if "front" in shown:
        return f"the front of a search by {shown.get('score')}"
    if "weights" in shown:
        weights = ", ".join(map(str, record["weights"])) if isinstance(record["weights"], list) else ""
        prior = f" with the prior {shown['prior']} added" if record.get("prior") is not None else ""
        by = printable(weights)[:200] or "an untrained network"
        return f"scores ({shown.get('acc')}) on {shown.get('images')} images by {by}{prior}"
    if "prior" in shown:
        return f"values of the prior {shown['prior']}, no scores of a supernet"
    if not values or values == {0}:
        return "candidates without scores"
    fractions = all(0 <= value <= 1 for value in values)
    return "scores or a truth" if fractions else "values of a prior, perhaps: scores are fractions of 0 to 1"


def _part(names: list[str], wanted: list[Candidate]) -> str:
    """Which part of the candidates it is, if it is one."""
    listed = [candidate.name for candidate in wanted]
    if not 0 < len(names) < len(listed) or not set(names) <= set(listed):
        return ""
    which = "the first" if names == listed[: len(names)] else "a part,"
    return f", of {which} {len(names):,} of the {len(listed):,} candidates"
