"""The FLOPs-balanced sandwich of the PGONAS authors' code (a variant that their paper reports no figure for).

A step is that of the sandwich. For each random subnet, ``choices`` subnets are sampled, and one of them is trained: each with a
probability proportional to its multiply-accumulates. So large subnets are trained more often than by uniform sampling.
"""

from __future__ import annotations

from typing import Literal

from paddle_pgonas.methods.base import Parts, RandomSubnets, Step
from paddle_pgonas.methods.sandwich import SandwichBase
from paddle_pgonas.schema import Integer, key
from paddle_pgonas.space.arch import Arch


class BalancedSandwichOptions(SandwichBase):
    """Random subnets, chosen in proportion to their cost."""

    name: Literal["balanced_sandwich"] = "balanced_sandwich"
    choices: Integer = key(3, at_least=2)
    """Sampled subnets of which one is trained."""

    def subnets(self, parts: Parts) -> RandomSubnets:
        """One of ``choices`` samples for each."""
        macs = parts.prior("flops")

        def balanced(step: Step) -> list[Arch]:
            sampled = [[parts.subspace.sample(step.rng) for _ in range(self.choices)] for _ in range(self.random_subnets)]
            return [step.rng.choices(archs, list(map(macs, archs)))[0] for archs in sampled]

        return balanced
