"""What the tables of the studies are made of: Markdown, intervals and names of priors."""

from __future__ import annotations

from paddle_pgonas.priors.by_name import terms
from paddle_pgonas.scores.correlation import Estimate
from studies.intervals import Difference

PRIOR_LABELS = {"flops": "log FLOPs", "params": "log parameters", "zen": "Zen-score"}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(estimate: Estimate | Difference | None, signed: bool = False) -> str:
    """A value with its 95 % interval; nothing if there is none."""
    if estimate is None:
        return ""
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def prior_label(name: str) -> str:
    """What a prior, or a sum of several, is called where costs are logarithms."""
    return " + ".join(PRIOR_LABELS.get(term, term) for term in terms(name))
