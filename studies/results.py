"""A study's results as its tables need them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas.config.loading import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json
from paddle_pgonas.priors.by_name import sum_of_priors, terms, with_prior
from paddle_pgonas.scores.files import Candidate, read_scores
from paddle_pgonas.space.arch import Arch
from studies.intervals import Taus, resampled_tau
from studies.study import Study


@dataclass(frozen=True)
class Results:
    """All data of a study's document, arrays in the order of ``candidates``."""

    study: Study
    config: Config
    """The configuration of the stand-alone largest network: space, image size and number of classes."""
    candidates: list[Candidate]
    truths: dict[str, np.ndarray]
    """Stand-alone accuracies by the name of the further truth (empty: the first one), [seeds, candidates]; NaN for candidates
    that have none yet, and where one has fewer seeds than others."""
    runs: dict[str, list[dict[str, Any]]]
    """Result files by variant, in the order of the study and of the seeds."""
    truth_name: str = ""
    """Of the truth that counts in this part."""
    memo: dict[tuple[object, ...], Taus] = field(default_factory=dict)
    """Values of :meth:`tau`, shared by all parts, because many tables need them."""

    def part(self, regime: str | None, half: str, truth_name: str | None = None) -> Results:
        """The same of one regime (None: of all) and of one half of the candidates (empty: of all) as far as they have a truth.

        Args:
            truth_name: of the truth that counts (empty: the first one); by default that of this part.
        """
        truth_name = self.truth_name if truth_name is None else truth_name
        known = np.isfinite(self.truths[truth_name]).any(0)
        rows = [row for row in self.study.half(half, len(self.candidates)) if known[row]]
        runs = {name: runs for name, runs in self.runs.items() if regime in (None, self.study.variants[name].regime_name)}
        candidates = [self.candidates[row] for row in rows]
        truths = {name: truth[:, rows] for name, truth in self.truths.items()}
        return replace(self, candidates=candidates, truths=truths, truth_name=truth_name, runs=runs)

    @property
    def archs(self) -> list[Arch]:
        """The candidates' architectures."""
        return [entry.arch for entry in self.candidates]

    @property
    def truth(self) -> np.ndarray:
        """Stand-alone accuracy, [seeds, candidates]; NaN where a candidate has fewer seeds than others."""
        return self.truths[self.truth_name]

    @property
    def mean_truth(self) -> np.ndarray:
        """Stand-alone accuracy, the mean over its seeds, [candidates]."""
        return np.nanmean(self.truth, 0)

    @cached_property
    def macs(self) -> np.ndarray:
        """Multiply-accumulates, [candidates]."""
        return self.prior("flops")

    def prior(self, name: str) -> np.ndarray:
        """A control's values for the results's image size and classes, [candidates]; of priors joined by ``+``, their sum."""
        if name == "blocks":
            return np.array([sum(arch.depths) for arch in self.archs])
        if name == "width":
            return np.array([arch.out_width for arch in self.archs])
        if len(terms(name)) > 1:
            return sum_of_priors({one: self.prior(one) for one in terms(name)})
        return np.array(list(map(self.config.prior(name), self.archs)))

    def label(self, name: str) -> str:
        """The name of a variant or control in tables; with its regime if this part has several."""
        if name not in self.study.variants:
            return f"{name} alone"
        variant = self.study.variants[name]
        several = len({self.study.variants[run].regime_name for run in self.runs}) > 1
        return f"{variant.method.label} ({variant.regime_name})" if several else variant.method.label

    def resolved(self, comparison: tuple[str, str]) -> list[tuple[str, str]]:
        """A comparison's variants and controls that have results; two methods are compared in every regime of this part."""
        regimes = dict.fromkeys(self.study.variants[name].regime_name for name in self.runs)
        there = {*self.runs, *self.study.controls}

        def named(name: str, regime: str) -> str:
            return f"{name}-{regime}".rstrip("-") if name in self.study.methods else name

        pairs = dict.fromkeys((named(comparison[0], regime), named(comparison[1], regime)) for regime in regimes)
        return [pair for pair in pairs if there.issuperset(pair)]

    def bn(self, name: str) -> str:
        """The statistics with which a variant's regime scores."""
        return self.study.variants[name].regime.bn

    def scored(self, name: str, bn: str | None) -> list[dict[str, Any]]:
        """A variant's runs that were scored by these statistics; None: by any."""
        return [run for run in self.runs[name] if bn is None or bn in run["scores"]]

    def scores(
        self, name: str, bn: str | None = None, metric: str = "top1", watched: int | None = None, prior: str | None = None
    ) -> np.ndarray:
        """Scores of a variant's runs, [runs, candidates], larger is better.

        Args:
            metric: ``top1``, ``probability`` or ``likelihood``, which is exp(-loss), as for the tools.
            bn: by default the regime's.
            watched: those of this measurement during the training instead of those at its end.
            prior: added to each run's scores with equal weight.
        """
        if watched is None:
            rows = [run["scores"][bn or self.bn(name)] for run in self.scored(name, bn)]
        else:
            rows = [list(run["watched"].values())[watched] for run in self.runs[name] if run["watched"]]
        column = "loss" if metric == "likelihood" else metric
        scores = np.array([[row[entry.name][column] for entry in self.candidates] for row in rows])
        if metric == "likelihood":
            scores = np.exp(-scores)
        if prior is None:
            return scores
        values = self.prior(prior)
        return np.array([with_prior(row, prior, values, 1) for row in scores])

    def tau(
        self,
        name: str,
        bn: str | None = None,
        metric: str = "top1",
        pairs: np.ndarray | None = None,
        prior: str | None = None,
    ) -> Taus:
        """Kendall tau of a variant's runs or of a control with the truth; arguments as of :meth:`scores`.

        Runs of the same seed belong together where they start from the same pretrained network of several.
        """
        wanted = (self.truth_name, name, bn, metric, prior, *(entry.name for entry in self.candidates))
        if pairs is None and wanted in self.memo:
            return self.memo[wanted]
        control = name in self.study.controls
        scores = self.prior(name)[None] if control else self.scores(name, bn, metric, None, prior)
        seeds = [] if control or self.study.largest_seeds == 1 else [run["seed"] for run in self.scored(name, bn)]
        taus = Taus(resampled_tau(scores, self.mean_truth, pairs), tuple(seeds))
        return taus if pairs is not None else self.memo.setdefault(wanted, taus)


def read_results(study: Study) -> Results:
    """Read candidates and results.

    Raises:
        UserError: there is no truth, or a file of a seed lacks candidates; or a result has other candidates.
    """
    config, candidates = study.config(), study.read_candidates()
    accuracies = [study.path("accuracies.json")]
    truth = np.array(_truth_files(study, config, candidates)) if study.truth else _seeds(accuracies, candidates)
    further = {name: _seeds(map(study.path, paths), candidates) for name, paths in study.further_truths.items()}
    names = [entry.name for entry in candidates]
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, variant in study.variants.items():
        for path in sorted(
            study.results.glob(f"{variant.stem}-seed*.json"), key=lambda path: int(path.stem.rpartition("seed")[2])
        ):
            run = read_json(path, "result")
            if any(list(scores) != names for scores in run["scores"].values()):
                raise UserError(f"{path}: names other candidates than {study.path(study.candidates)}; remove it and run again")
            runs.setdefault(name, []).append(run)
    return Results(study, config, candidates, {"": truth, **further}, runs)


def _truth_files(study: Study, config: Config, candidates: list[Candidate]) -> list[list[float]]:
    """Accuracies by seed and candidate, a file of ``results`` for each seed."""
    truth, remedy = [], "continue with: studies/run.py run --study FILE --root DIR --only truth"
    for seed in range(study.truth_seeds):
        path = study.results / f"truth-seed{seed}.json"
        known = read_scores(path, config.search_space) if path.exists() else {}
        if lacking := sum(entry.arch.code not in known for entry in candidates):
            raise UserError(f"{path}: lacks {lacking} subnets; {remedy}")
        truth.append([known[entry.arch.code] for entry in candidates])
    return truth


def _seeds(paths: Iterable[Path], candidates: list[Candidate]) -> np.ndarray:
    """The same of files of every seed's accuracies, NaN for the seeds and candidates that they lack.

    Raises:
        UserError: a file has no accuracies, or two have the same candidate.
    """
    rows: dict[str, list[float]] = {}
    for path in paths:
        results = read_json(path, "stand-alone accuracies").get("results")
        if not results:
            raise UserError(f"{path}: holds no accuracies yet; it must be an accuracies.json, with every seed")
        for name, entry in results.items():
            if entry["arch"] in rows:
                raise UserError(f"{path}: another file of the same truth holds {name}, too")
            rows[entry["arch"]] = entry["acc"]
    truth = np.full((max(map(len, rows.values())), len(candidates)), math.nan)
    for column, entry in enumerate(candidates):
        accs = rows.get(entry.arch.code, [])
        truth[: len(accs), column] = accs
    return truth
