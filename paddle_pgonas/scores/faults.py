"""All faults of one file, grouped by the rule they break, so that 45,000 equal faults stay readable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paddle_pgonas.errors import UserError, printable

EXAMPLES = 3
"""Number of places that a group names; the others are only counted."""


@dataclass
class Fault:
    """One broken rule: the number of places, and the first of them (the entry's ``name``, and the ``problem``)."""

    rule: str
    count: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


class Faults(dict[str, Fault]):
    """Faults by rule, in the order in which they were noted."""

    def add(self, rule: str, name: str, problem: str) -> None:
        """Note that the entry ``name`` breaks the rule."""
        fault = self.setdefault(rule, Fault(rule))
        fault.count += 1
        if len(fault.examples) < EXAMPLES:
            fault.examples.append({"name": printable(name), "problem": printable(problem)})

    def stop(self, path: str | Path) -> None:
        """Raise a UserError if there are faults: the first, how many entries share it and which come next, and other kinds."""
        if not self:
            return
        fault, *others = self.values()
        example, *next_ones = fault.examples
        line = f"{path}: {example['name']}: {example['problem']}"
        if next_ones:
            names = ", ".join(other["name"] for other in next_ones) + (", ..." if fault.count > EXAMPLES else "")
            line += f" (and {fault.count - 1:,} more like it: {names})"
        if others:
            line += "; it has other faults too: tools/compare.py --validate lists them all"
        raise UserError(line)

    def lines(self) -> list[str]:
        """The groups as readable text: rule and count, then the examples, indented."""
        lines = []
        for fault in self.values():
            lines.append(f"{fault.rule}: {fault.count:,} {'place' if fault.count == 1 else 'places'}")
            lines += ["    {name}: {problem}".format(**example) for example in fault.examples]
            if fault.count > len(fault.examples):
                lines.append(f"    and {fault.count - len(fault.examples):,} more")
        return lines
