"""NSGA-II over architectures: pymoo's algorithm with a crossover and a mutation of :class:`Arch`.

An individual is no vector of integers: tied widths are equal by construction, and unused blocks have no codes, so equal subnets
are equal individuals. No subnet is proposed twice, and one beyond a limit is never scored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from paddle_pgonas.progress import Progress
from paddle_pgonas.space.arch import Arch, SearchSpace

Costs = Callable[[Arch], dict[str, float]]
"""Costs of an architecture by name, smaller is better."""
Scores = Callable[[Sequence[Arch]], Sequence[float]]
"""Scores of a generation, larger is better; computed together, so that prefixes are shared."""


@dataclass(frozen=True)
class ScoredSubnet:
    """A subnet that was scored."""

    arch: Arch
    costs: Mapping[str, float]
    score: float


@dataclass(frozen=True)
class Task:
    """A search problem: a space, the costs with their limits, and the scores."""

    space: SearchSpace
    costs: Costs
    limits: Mapping[str, float]
    """Largest value allowed, by the cost's name."""
    axis: str
    """The cost that is traded against the score."""
    scores: Scores

    def excess(self, costs: Mapping[str, float]) -> list[float]:
        """Relative excess over each limit; at most 0 if the limit is kept."""
        return [costs[name] / limit - 1 for name, limit in self.limits.items()]


def evolve(task: Task, population: int, generations: int, seed: int) -> list[ScoredSubnet]:
    """Every subnet that NSGA-II scored, in the order of scoring; at most ``population * generations``.

    The first generation holds the smallest and the largest subnet and random ones. Equal seeds and scores give equal results.
    """
    rng = random.Random(f"search {seed}")
    problem = _Problem(task, rng)
    algorithm = NSGA2(
        pop_size=population,
        sampling=Population.new("X", np.array(first_generation(task.space, population, rng), dtype=object)[:, None]),
        crossover=_Crossover(n_parents=2, n_offsprings=2),
        mutation=_Mutation(),
        eliminate_duplicates=_Known(problem.seen),
    )
    algorithm.setup(problem, termination=("n_gen", generations), seed=seed, verbose=False)
    with Progress(generations, "searching", "generations") as bar:
        while algorithm.has_next():
            offspring = algorithm.ask()
            if offspring is None or len(offspring) == 0:  # no new subnet can be generated
                break
            algorithm.evaluator.eval(problem, offspring)
            algorithm.tell(infills=offspring)
            bar.update()
            if problem.scored:
                bar.show(best=max(subnet.score for subnet in problem.scored))
    return problem.scored


def front(scored: Iterable[ScoredSubnet], axis: str) -> list[ScoredSubnet]:
    """The Pareto front of cost and score, cheapest first."""
    kept: list[ScoredSubnet] = []
    for entry in sorted(scored, key=lambda entry: (entry.costs[axis], -entry.score, entry.arch.code)):
        if not kept or entry.score > kept[-1].score:
            kept.append(entry)
    return kept


def first_generation(space: SearchSpace, count: int, rng: random.Random) -> list[Arch]:
    """The smallest and the largest subnet, then distinct random ones (fewer in a space that holds fewer)."""
    archs = dict.fromkeys([space.smallest, space.largest])
    for _ in range(100 * count):
        if len(archs) >= count:
            break
        archs[space.sample(rng)] = None
    return list(archs)[:count]


def cross(rng: random.Random, first: Arch, second: Arch) -> Arch:
    """A child whose depths and width codes each come from a random parent; a block that only one parent has comes from it."""
    conv1 = []
    for ours, theirs in zip(first.conv1, second.conv1, strict=True):
        depth = rng.choice((len(ours), len(theirs)))
        conv1.append(tuple(rng.choice([codes[i] for codes in (ours, theirs) if i < len(codes)]) for i in range(depth)))
    conv2 = tuple(rng.choice(pair) for pair in zip(first.conv2, second.conv2, strict=True))
    return first.space.build(tuple(conv1), conv2)


def mutate(rng: random.Random, arch: Arch) -> Arch:
    """Resample each depth and free width code with a probability that changes one of them on average; new blocks are sampled."""
    space = arch.space
    codes = range(1, len(space.ratios) + 1)
    rate = 1 / (2 * len(space.bases) + sum(arch.depths))

    def maybe(value: int, choices: range) -> int:
        return rng.choice(choices) if rng.random() < rate else value

    conv1 = []
    for old, deepest in zip(arch.conv1, space.max_depths, strict=True):
        depth = maybe(len(old), range(space.min_depth, deepest + 1))
        conv1.append(tuple(maybe(old[i], codes) if i < len(old) else rng.choice(codes) for i in range(depth)))
    return space.build(tuple(conv1), tuple(maybe(code, codes) for code in arch.conv2))


class _Problem(Problem):
    """pymoo's view of a task: minimise the cost and the negative score, within the limits."""

    def __init__(self, task: Task, rng: random.Random) -> None:
        super().__init__(n_var=1, n_obj=2, n_ieq_constr=len(task.limits), vtype=object)
        self.task, self.rng = task, rng
        self.scored: list[ScoredSubnet] = []
        self.seen: set[Arch] = set()

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        archs = [row[0] for row in x]
        self.seen.update(archs)
        costs = [self.task.costs(arch) for arch in archs]
        excess = np.array([self.task.excess(cost) for cost in costs]).reshape(len(archs), len(self.task.limits))
        within = np.flatnonzero((excess <= 0).all(axis=1))
        scores = np.zeros(len(archs))  # for subnets beyond a limit pymoo uses only the excess
        if len(within):
            scores[within] = self.task.scores([archs[i] for i in within])
        self.scored += [ScoredSubnet(archs[i], costs[i], float(scores[i])) for i in within]
        out["F"] = np.column_stack([[cost[self.task.axis] for cost in costs], -scores])
        out["G"] = excess


class _Known(DuplicateElimination):
    """Removes duplicates and individuals that were evaluated in an earlier generation."""

    def __init__(self, seen: set[Arch]) -> None:
        super().__init__()
        self.seen = seen

    def _do(self, pop: Population, other: Population | None, is_duplicate: np.ndarray) -> np.ndarray:
        known = set() if other is None else {individual.X[0] for individual in other}
        for i, individual in enumerate(pop):
            is_duplicate[i] = individual.X[0] in known or individual.X[0] in self.seen
            if other is None:
                known.add(individual.X[0])
        return is_duplicate


class _Crossover(Crossover):
    def _do(self, problem: _Problem, x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        children = np.empty_like(x)  # [2, matings, 1]
        for mating, child in np.ndindex(x.shape[1], 2):
            children[child, mating, 0] = cross(problem.rng, x[0, mating, 0], x[1, mating, 0])
        return children


class _Mutation(Mutation):
    def _do(self, problem: _Problem, x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.array([mutate(problem.rng, row[0]) for row in x], dtype=object).reshape(x.shape)  # [individuals, 1]
