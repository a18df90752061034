"""NSGA-II (pymoo's) over architectures, and random search to compare it with.

An individual is an :class:`Arch`, not a vector of integers: the code's ties hold by construction, and blocks that a subnet lacks
have no codes that could tell two equal subnets apart. pymoo brings the algorithm (feasible before infeasible, non-dominated
ranks, crowding); what crossing and mutating mean for an architecture stands here. No subnet is proposed twice, and one beyond a
limit is never scored.
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

from paddle_pgonas.arch import Arch, SearchSpace
from paddle_pgonas.progress import Progress

Costs = Callable[[Arch], dict[str, float]]
"""Costs of an architecture by name, smaller is better."""
Scores = Callable[[Sequence[Arch]], Sequence[float]]
"""Scores of a generation, larger is better: given together, so that they can be computed along shared prefixes."""


@dataclass(frozen=True)
class Found:
    """A subnet that was scored."""

    arch: Arch
    costs: Mapping[str, float]
    score: float


@dataclass(frozen=True)
class Task:
    """What is searched: a space, the costs with their limits, and the scores."""

    space: SearchSpace
    costs: Costs
    limits: Mapping[str, float]
    """Largest value allowed, by the cost's name."""
    axis: str
    """The cost that is traded against the score."""
    scores: Scores

    def excess(self, costs: Mapping[str, float]) -> list[float]:
        """By how much each limit is exceeded, relative to it; at most 0 where it is kept."""
        return [costs[name] / limit - 1 for name, limit in self.limits.items()]


def evolve(task: Task, population: int, generations: int, seed: int) -> list[Found]:
    """Every subnet that NSGA-II scored, in the order of scoring; at most ``population * generations``.

    The first generation holds the smallest and the largest subnet and random ones. Equal seeds and scores give equal results.
    """
    rng = random.Random(f"search {seed}")
    problem = _Problem(task)
    algorithm = NSGA2(
        pop_size=population,
        sampling=_population(first_generation(task.space, population, rng)),
        crossover=_Crossover(rng),
        mutation=_Mutation(rng),
        eliminate_duplicates=_Known(problem.seen),
    )
    algorithm.setup(problem, termination=("n_gen", generations), seed=seed, verbose=False)
    with Progress(generations, "searching", "generations") as bar:
        while algorithm.has_next():
            offspring = algorithm.ask()
            if offspring is None or len(offspring) == 0:  # nothing new within reach
                break
            algorithm.evaluator.eval(problem, offspring)
            algorithm.tell(infills=offspring)
            bar.update()
            if problem.found:
                bar.show(best=max(found.score for found in problem.found))
    return problem.found


def random_search(task: Task, budget: int, seed: int, generation: int = 64, patience: int = 1000) -> list[Found]:
    """Score ``budget`` distinct random subnets within the limits; fewer if ``budget * patience`` draws bring no more."""
    rng = random.Random(f"random search {seed}")
    chosen: dict[Arch, dict[str, float]] = {}
    for _ in range(budget * patience):
        if len(chosen) == budget:
            break
        arch = task.space.sample(rng)
        if arch not in chosen and max(task.excess(costs := task.costs(arch)), default=0) <= 0:
            chosen[arch] = costs
    archs = list(chosen)
    scores = [score for start in range(0, len(archs), generation) for score in task.scores(archs[start : start + generation])]
    return [Found(arch, chosen[arch], float(score)) for arch, score in zip(archs, scores, strict=True)]


def front(found: Iterable[Found], axis: str) -> list[Found]:
    """The subnets that no other one beats in cost without being worse in score, or the reverse; cheapest first."""
    kept: list[Found] = []
    for entry in sorted(found, key=lambda entry: (entry.costs[axis], -entry.score, entry.arch.code)):
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
    """A child whose every depth and width code is one parent's, drawn one by one; a block that only one has comes from it."""
    conv1 = []
    for ours, theirs in zip(first.conv1, second.conv1, strict=True):
        depth = rng.choice((len(ours), len(theirs)))
        conv1.append(tuple(rng.choice([codes[i] for codes in (ours, theirs) if i < len(codes)]) for i in range(depth)))
    conv2 = tuple(rng.choice(pair) for pair in zip(first.conv2, second.conv2, strict=True))
    return first.space.build(tuple(conv1), conv2)


def mutate(rng: random.Random, arch: Arch) -> Arch:
    """Redraw each depth and free width code with a probability that redraws one of them on average; new blocks are drawn."""
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

    def __init__(self, task: Task) -> None:
        super().__init__(n_var=1, n_obj=2, n_ieq_constr=len(task.limits), vtype=object)
        self.task = task
        self.found: list[Found] = []
        self.seen: set[Arch] = set()

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        archs = [row[0] for row in x]
        self.seen.update(archs)
        costs = [self.task.costs(arch) for arch in archs]
        excess = np.array([self.task.excess(cost) for cost in costs]).reshape(len(archs), len(self.task.limits))
        within = np.flatnonzero((excess <= 0).all(axis=1))
        scores = np.zeros(len(archs))  # of those beyond a limit pymoo looks at the excess alone
        if len(within):
            scores[within] = self.task.scores([archs[i] for i in within])
        self.found += [Found(archs[i], costs[i], float(scores[i])) for i in within]
        out["F"] = np.column_stack([[cost[self.task.axis] for cost in costs], -scores])
        out["G"] = excess


class _Known(DuplicateElimination):
    """Leaves out what was evaluated before, in any generation, and what stands twice."""

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
    def __init__(self, rng: random.Random) -> None:
        super().__init__(n_parents=2, n_offsprings=2)
        self.rng = rng

    def _do(self, problem: Problem, x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        children = np.empty_like(x)  # [2, matings, 1]
        for mating in range(x.shape[1]):
            for child in range(2):
                children[child, mating, 0] = cross(self.rng, x[0, mating, 0], x[1, mating, 0])
        return children


class _Mutation(Mutation):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng

    def _do(self, problem: Problem, x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return _column([mutate(self.rng, row[0]) for row in x])


def _column(archs: Sequence[Arch]) -> np.ndarray:
    column = np.empty((len(archs), 1), dtype=object)
    column[:, 0] = archs
    return column


def _population(archs: Sequence[Arch]) -> Population:
    return Population.new("X", _column(archs))
