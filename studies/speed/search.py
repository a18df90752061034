"""NSGA-II compared with random search of the same budget, with a prior and with a supernet trained on the digits."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from pymoo.indicators.hv import HV

from paddle_pgonas.config.loading import CONFIGS, load_config
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.searching.evolution import ScoredSubnet, Task, evolve, front
from paddle_pgonas.searching.search import make_costs, supernet_scores
from paddle_pgonas.space.arch import MINI, TRACK1, Arch

RECIPE = ("train.epochs=12", "train.lr_per_256=0.1", "train.label_epochs=0", "train.watch_subnets=0", "train.watch_images=0")


def measure(seeds: int = 5) -> dict[str, Any]:
    """``zen_track1``: closed-form Zen-score of Track 1 within 2 G multiply-accumulates, populations of 64 over 20 generations.

    ``digits``: top-1 and exp(-loss) of a mini supernet trained here for a minute, within 1 M, 32 over 10 generations.
    """
    limits = {"macs": 2e9}
    score = make_prior("zen", TRACK1, 224, 1000)
    zen = Task(TRACK1, make_costs(224, 1000), limits, "macs", lambda archs: list(map(score, archs)))
    figures: dict[str, Any] = {"zen_track1": compare(zen, 64, 20, seeds)}
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(CONFIGS / "mini" / "digits.yaml", RECIPE).changed(output_dir=folder)
        from paddle_pgonas.scoring.session import Session
        from paddle_pgonas.training.trainer import train_supernet

        weights = train_supernet(config)
        session, limits = Session(config, weights), {"macs": 1e6}
        costs = make_costs(config.data.image_size, config.model.num_classes)
        for metric in ("top1", "likelihood"):
            # Both searches share the stored scores, which is fair because neither is timed.
            task = Task(MINI, costs, limits, "macs", supernet_scores(session, Path(folder), metric))
            figures[f"digits_{metric}"] = compare(task, 32, 10, seeds)
    return figures


def random_search(task: Task, budget: int, seed: int, generation: int = 64, patience: int = 1000) -> list[ScoredSubnet]:
    """Score ``budget`` distinct random subnets within the limits; fewer if ``budget * patience`` samples do not suffice."""
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
    return [ScoredSubnet(arch, chosen[arch], float(score)) for arch, score in zip(archs, scores, strict=True)]


def compare(task: Task, population: int, generations: int, seeds: int) -> dict[str, Any]:
    """Both searches with equal numbers of scored subnets per seed: best scores, and the area that the fronts dominate.

    The area (hypervolume) is relative to the rectangle from no cost to the limit and from the worst to the best score of
    both searches over all seeds.
    """
    runs: dict[str, list[list[ScoredSubnet]]] = {"nsga2": [], "random": []}
    for seed in range(seeds):
        evolved = evolve(task, population, generations, seed)
        runs["nsga2"].append(evolved)
        runs["random"].append(random_search(task, len(evolved), seed, generation=population))
    scores = [entry.score for scored in (*runs["nsga2"], *runs["random"]) for entry in scored]
    low, high, limit = min(scores), max(scores), task.limits[task.axis]

    def area(scored: list[ScoredSubnet]) -> float:
        kept = front(scored, task.axis)
        points = [[entry.costs[task.axis] / limit, (high - entry.score) / (high - low)] for entry in kept]
        return float(HV(ref_point=np.ones(2))(np.array(points)))

    best = {name: [max(entry.score for entry in scored) for scored in each] for name, each in runs.items()}
    return {
        "scored": [len(scored) for scored in runs["nsga2"]],
        "scored_random": [len(scored) for scored in runs["random"]],
        "best": best,
        "mean_best": {name: mean(values) for name, values in best.items()},
        "mean_area": {name: mean(map(area, each)) for name, each in runs.items()},
        "nsga2_better": sum(ours > theirs for ours, theirs in zip(best["nsga2"], best["random"], strict=True)),
        "equal": sum(ours == theirs for ours, theirs in zip(best["nsga2"], best["random"], strict=True)),
    }
