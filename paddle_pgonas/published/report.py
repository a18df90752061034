"""The differences of a replay as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paddle_pgonas.published.compare import TOLERANCES, Difference


def print_differences(path: str | Path, differences: Sequence[Difference]) -> bool:
    """Print the largest difference of every quantity and step; returns whether all are within their tolerance."""
    print(path)
    for entry in differences:
        step = "after all steps" if entry.step is None else f"step {entry.step}"
        verdict = "within" if entry.within else "NOT within"
        tolerance = f"{verdict} {TOLERANCES[entry.quantity]:.0e}"
        print(f"  {step:16}{entry.quantity:28}{entry.worst:9.1e}  {tolerance:18}({entry.where})")
    within = all(entry.within for entry in differences)
    print(f"  {'all within tolerance' if within else 'NOT the published steps'}")
    return within
