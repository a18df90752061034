"""The search job of the command line: what is scored and limited, the search, and its result as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.config.meaning import warn_untrained
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_json, write_text
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.io.outputs import claim
from paddle_pgonas.io.records import Store, digest
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.by_name import Prior
from paddle_pgonas.progress import say_once
from paddle_pgonas.runtime import select_device, versions
from paddle_pgonas.scores.files import Candidate, beside, write_scores
from paddle_pgonas.searching.evolution import Costs, ScoredSubnet, Scores, Task, evolve, front
from paddle_pgonas.space.arch import Arch

if TYPE_CHECKING:
    from paddle_pgonas.scoring.session import Session

COSTS = {"macs": "multiply-accumulates", "params": "parameters", "latency_ms": "milliseconds"}
"""Costs by name, with their units."""


@dataclass(frozen=True)
class Result:
    """The result of a search."""

    task: Task
    scored_by: str
    """Name of the score: a metric of the supernet, or a prior."""
    scored: list[ScoredSubnet]
    """Every subnet that was scored, in the order of scoring."""
    settings: dict[str, Any]

    @property
    def best(self) -> ScoredSubnet:
        """The subnet with the highest score; of equal scores the cheapest."""
        return self.front[-1]

    @property
    def front(self) -> list[ScoredSubnet]:
        """The Pareto front of cost and score, cheapest first."""
        return front(self.scored, self.task.axis)

    def summary(self) -> str:
        """The search and its best subnet as lines of text."""
        limits = ", ".join(f"{name} at most {value:,.10g}" for name, value in self.task.limits.items()) or "no limit"
        costs = ", ".join(f"{value:,.10g} {COSTS[name]}" for name, value in self.best.costs.items())
        return (
            f"scored  {len(self.scored):,} subnets ({limits}), {len(self.front)} of them on the front\n"
            f"best    {self.best.arch}\n"
            f"score   {self.best.score:.10g} ({self.scored_by})\n"
            f"cost    {costs}"
        )

    def write(self, output: str | Path) -> None:
        """Write the front in the candidate file's format, ``NAME.record.json`` with all costs, and ``NAME.svg``."""
        from paddle_pgonas.report.plots import pareto_scatter, svg

        record_path, picture_path = claim_front(output)
        chosen = {f"front{number}": entry for number, entry in enumerate(self.front, start=1)}
        candidates = [Candidate(name, entry.arch, entry.arch.code, None) for name, entry in chosen.items()]
        write_scores(output, candidates, [entry.score for entry in chosen.values()])
        record = {
            "best": _plain(self.best),
            "score": self.scored_by,
            "limits": dict(self.task.limits),
            "scored": len(self.scored),
            **self.settings,
            "front": {name: _plain(entry) for name, entry in chosen.items()},
            "versions": versions(),
        }
        write_json(record_path, record)
        axis = self.task.axis
        points = [(entry.costs[axis], entry.score) for entry in self.scored]
        line = [(entry.costs[axis], entry.score) for entry in chosen.values()]
        picture = pareto_scatter(points, line, self.task.limits.get(axis), COSTS[axis], self.scored_by)
        write_text(picture_path, svg(picture))


def claim_front(output: str | Path) -> tuple[str, str]:
    """The paths of record and picture beside the front. Raises UserError if one of the three must not or cannot be written."""
    others = beside(output, ".record.json"), beside(output, ".svg")
    claim("search --output", output, beside=others)
    return others


def search(
    config: Config,
    *,
    weights: str | Path | None = None,
    prior: str | None = None,
    limits: Mapping[str, float] | None = None,
    metric: str = "top1",
    population: int = 64,
    generations: int = 20,
    latency_batch: int = 1,
) -> Result:
    """Search the configured space for the subnets with the best score at any cost within the limits, by NSGA-II.

    Several processes (python -m paddle.distributed.launch) run the same search and share the scoring of each generation; the
    first one writes. Measured scores and latencies are stored in ``<output_dir>/search``: an interrupted search, started again,
    repeats at most one generation and ends with the same result. All random numbers come from ``seed`` of the configuration.

    The score is a supernet's ``metric`` (of its ``weights``) on the configured images, or the ``prior`` of this name, which needs
    no images. ``limits`` are the largest ``macs`` (per image at ``data.image_size``), ``params`` and ``latency_ms`` (a batch of
    ``latency_batch`` on this device); the first of them is the cost of the front, without any it is ``macs``. Raises
    UserError for neither or both of weights and prior, a limit that not even the smallest subnet keeps, several processes with
    nothing to share, or another search that keeps its measurements in the same folder.
    """
    limits = dict(limits or {})
    _check_arguments(weights, prior, limits, population, generations)
    measures = weights is not None or "latency_ms" in limits  # and stores its measurements
    side, model, folder = config.data.image_size, config.model, Path(config.output_dir) / "search"
    device = select_device(config.device, config.exhaustive_search) if measures else ""
    within = ", ".join(f"{name} at most {limit:,.10g}" for name, limit in limits.items()) or "no limit"
    stored = f", measurements in {folder}" if measures else ""
    budget = f"{generations:,} generations of {population:,} subnets by {prior or metric}"
    say_once(f"searching space {config.search_space.name}: {budget} ({within}){stored}", error=False)
    kept = exclusive(config.output_dir, "search") if measures else nullcontext(lambda: None)
    with processes.together(), kept as check_folder:
        latency = session = None
        if "latency_ms" in limits:
            from paddle_pgonas.searching.latency import Latency

            latency = Latency(device, config.space, model, side, latency_batch, folder, check_folder)
        if prior is not None:
            scores = _prior_scores(config.prior(prior))
        else:
            from paddle_pgonas.scoring.session import Session

            session = Session(config, weights)
            scores = supernet_scores(session, folder, metric, check_folder)
        costs = make_costs(side, model.num_classes, latency)
        task = Task(config.search_space, costs, limits, next(iter(limits), "macs"), scores)
        _check_limits(task)
        scored = evolve(task, population, generations, config.seed)
        if session is not None and processes.leads():
            archs = [entry.arch for entry in scored]
            warn_untrained(session.file, session.trained, archs)
            session.warn_guessing(max(supernet_scores(session, folder, "top1")(archs)))  # as stored
    settings = {
        "weights": weights and str(weights),
        "population": population,
        "generations": generations,
        "latency_batch": latency_batch,
        "config": config.model_dump(mode="json"),
    }
    return Result(task, prior or f"{metric}, score.bn {config.score.bn}", scored, settings)


def _check_arguments(
    weights: str | Path | None, prior: str | None, limits: Mapping[str, float], population: int, generations: int
) -> None:
    """Raise UserError for arguments of :func:`search` that make none."""
    if (weights is None) == (prior is None):
        raise UserError("give either weights (of a supernet) or a prior to score with")
    if population < 4 or generations < 1:
        raise UserError("a search needs a population of at least 4 and at least 1 generation")
    if unknown := set(limits) - set(COSTS):
        raise UserError(f"there is no cost {min(unknown)!r}; limits are {', '.join(COSTS)}")
    if processes.world() > 1 and (weights is None or "latency_ms" in limits):
        reason = "several processes share the scoring with weights; a prior or a latency needs one process"
        raise UserError(f"{reason} ({processes.announced()})")


def make_costs(image_size: int, num_classes: int, latency: Callable[[Arch], float] | None = None) -> Costs:
    """The costs of an architecture by name; milliseconds, which take a second to measure, only with a ``latency``."""

    def costs(arch: Arch) -> dict[str, float]:
        known: dict[str, float] = {"macs": cost.macs(arch, image_size, num_classes), "params": cost.params(arch, num_classes)}
        return known | ({"latency_ms": latency(arch)} if latency else {})

    return costs


def _prior_scores(prior: Prior) -> Scores:
    return lambda archs: list(map(prior, archs))


def supernet_scores(session: Session, folder: Path, metric: str, check_folder: Callable[[], None] = lambda: None) -> Scores:
    """Scores by a supernet: each generation at once along shared prefixes, each subnet once, kept on disk after a check.

    Subnets that are measured together are one entry in ``folder``: so a resumed search measures the same subnets together as an
    uninterrupted one, with the same rounding.
    """
    from paddle_pgonas.scoring.session import metric_values

    store = Store(folder, {"kept": "search scores", **session.identity()})
    measured: dict[str, np.ndarray] = {}
    for entry in store.entries():
        measured.update(zip(entry.record["codes"], entry.arrays["metrics"], strict=True))

    def scores(archs: Sequence[Arch]) -> Sequence[float]:
        if missing := [arch for arch in archs if arch.code not in measured]:
            codes, values = [arch.code for arch in missing], _measure_together(session, missing)
            if processes.leads():
                check_folder()
                store.put(digest({"codes": codes}), {"codes": codes}, {"metrics": values})
            measured.update(zip(codes, values, strict=True))
        return metric_values(np.stack([measured[arch.code] for arch in archs]), metric).tolist()

    return scores


def _measure_together(session: Session, archs: Sequence[Arch]) -> np.ndarray:
    """``METRICS``, float64 [len(archs), 4]; each process measures neighbours in the prefix tree. All raise what one raises."""
    from paddle_pgonas.scoring.tree import scoring_order

    rank, world = processes.rank(), processes.connected()
    if world == 1:
        return session.measure(archs)
    order = scoring_order(archs)
    mine = [archs[position] for position in order[len(order) * rank // world : len(order) * (rank + 1) // world]]
    try:
        part: np.ndarray | str = session.measure(mine)
    except UserError as error:
        part = str(error)
    parts = processes.gather(part)
    for message in parts:
        if isinstance(message, str):
            raise UserError(message)
    return np.concatenate(parts)[np.argsort(order)]


def _check_limits(task: Task) -> None:
    for name, limit in task.limits.items():
        if not limit > 0:
            raise UserError(f"the limit of {name} must be above 0, not {limit:g}")
        least = task.costs(task.space.smallest)[name]
        if least > limit:
            raise UserError(
                f"no subnet of space {task.space.name} has {name} of at most {limit:,.10g}: "
                f"the smallest has {least:,.10g} {COSTS[name]}"
            )


def _plain(entry: ScoredSubnet) -> dict[str, Any]:
    return {"arch": entry.arch.code, "score": entry.score, **entry.costs}
