"""Trains and scores everything of a study that has no result yet, several trainings at a time, one core each."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import Diverged, UserError
from paddle_pgonas.io.files import atomic_path, read_json, write_json
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.space.subspace import Subspace
from studies import collecting
from studies.study import Study, Variant

PROBES, PROBE_IMAGES = 16, 2000
"""Number of subnets, none a candidate, on whose mean loss over so many validation images learning rates are chosen."""
PROBE_DRAWS = 100 * PROBES
"""So many subnets are drawn to find the probes."""
EXTENSIONS = 3
"""How often a rate beyond the study's is tried, one at a time, while the best is at an end."""


def best_rate(losses: Mapping[str, float | None]) -> float | None:
    """The rate of the lowest loss, None if all trainings diverged."""
    finite = {rate: loss for rate, loss in losses.items() if loss is not None}
    return float(min(finite, key=finite.__getitem__)) if finite else None


def beyond(losses: Mapping[str, float | None]) -> tuple[float, ...]:
    """The next rate to try if the best of at least two is the lowest or the highest, otherwise none."""
    rates, best = sorted(map(float, losses)), best_rate(losses)
    if len(rates) < 2:
        return ()
    if best == rates[-1]:
        return (float(f"{best * best / rates[-2]:.6g}"),)
    return (float(f"{best * best / rates[1]:.6g}"),) if best == rates[0] else ()


@dataclass(frozen=True)
class Runner:
    """The runs of a study. Each training is a process of its own, a command of ``tools/``.

    Existing results are kept, and an interrupted run continues.
    """

    study: Study
    repository: Path
    """The checkout with the tools."""
    root: str
    """The images as ``root/train/<class>/*`` and ``root/val/<class>/*``."""
    runs: Path
    """Working files: checkpoints, weights, logs, decoded images."""
    weights: bool = False
    """Also train the supernets of existing results whose weights are not among the working files."""
    _locks: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))
    """By the name of a result that several jobs may need."""

    def run(self, only: Sequence[str] | None, seeds: Sequence[int], processes: int) -> Iterator[str]:
        """Compute missing results of the truth and of every variant (or ``only`` of these); yields each result's path.

        What a run starts from is computed first: the stand-alone largest network, the learning rate, another method's supernet.

        Raises:
            UserError: an unknown name, another runner in the folder of ``runs``, or a command that failed, with its log.
        """
        variants, study = self.study.variants, self.study
        known = [*["truth"] * (study.truth is not None), "largest", *study.methods, *(set(variants) - set(study.methods))]
        for name in only or []:
            if name not in known:
                raise UserError(f"--only {name}: the study has {', '.join(known)}")
        wanted = set(only or known)
        chosen = [variant for variant in variants.values() if wanted & {variant.name, variant.method_name}]
        chosen.sort(key=lambda variant: variant.method.trained)  # no training first
        jobs: list[Callable[[], str]] = []
        if study.truth is not None and "truth" in wanted:
            jobs += [partial(self._train_truth, seed, study.truth) for seed in range(study.truth_seeds)]
        if "largest" in (only or []):  # otherwise trained when a run needs it
            numbers = sorted({seed % study.largest_seeds for seed in seeds})
            configs = dict.fromkeys([study.largest, *(method.largest for method in study.methods.values() if method.largest)])
            jobs += [partial(self._largest, number, config) for config in configs for number in numbers]
        jobs += [partial(self._result, variant, seed) for seed in seeds for variant in chosen if self._runs(variant, seed)]
        with exclusive(self.runs, "study"), ThreadPoolExecutor(processes) as pool:
            yield from pool.map(lambda job: job(), jobs)

    def _runs(self, variant: Variant, seed: int) -> bool:
        """Without training there are as many runs as largest networks, each in one regime only."""
        first = variant.regime_name == next(iter(self.study.regimes))
        return variant.method.trained or (first and seed < self.study.largest_seeds)

    def _train_truth(self, seed: int, config: str) -> str:
        """Train the subnets that the committed truth of this seed lacks, and add them to it."""
        from paddle_pgonas.training.standalone import recipe, results_store

        working = self.runs / "truth"
        options = self._options(self.study.path(config), working, f"seed={seed}")
        _, file, _, *overrides = map(str, options)
        settings = load_config(file, overrides)
        missing = collecting.missing_truth(self.study, seed, recipe(settings))
        if missing:
            wanted, trained = working / f"missing-seed{seed}.json", working / f"trained-seed{seed}.json"
            write_scores(wanted, missing, [0.0] * len(missing))
            self._tool(f"truth-seed{seed}", "train_standalone", *options, "--candidates", wanted, "--output", trained)
            collecting.collect_truth(self.study, results_store(settings), seed)
        return str(self.study.results / f"truth-seed{seed}.json")

    def _largest(self, seed: int, config: str) -> str:
        """Weights of the stand-alone largest network that the supernets of a seed start from or distil from.

        They are kept beside the results, because another machine would train another sample of the same seed. Runs always name
        the copy among the working files: a run that is to be continued must name the file that it began with, and the study's
        folder may have been moved since, or may not have had the network then.
        """
        number = seed % self.study.largest_seeds
        recipe = "" if config == self.study.largest else f"-{Path(config).stem}-"
        weights = self.runs / f"largest{recipe}{number or ''}.safetensors"
        kept = self.study.path("largest") / weights.name
        with self._locks[weights.name]:
            if not weights.exists() and kept.exists():
                with atomic_path(weights) as part:
                    shutil.copyfile(kept, part)
            elif not weights.exists():
                options = self._options(self.study.path(config), self.runs / f"largest{recipe}", f"seed={number}")
                arch = self.study.config().search_space.largest
                self._tool(weights.stem, "train_standalone", *options, "--arch", arch, "--weights", weights)
            if not kept.exists():
                collecting.keep_largest(weights, kept)
        return str(weights)

    def _result(self, variant: Variant, seed: int) -> str:
        """Train one supernet, score the candidates with each choice of statistics, and store the result."""
        result = self.study.results / f"{variant.stem}-seed{seed}.json"
        if not result.exists():
            folder, commit = self._folder(variant, seed), self._commit()
            weights = self._supernet(variant, seed)
            options = self._options_of(variant, seed, folder, *self._rate_option(variant))
            for bn in collecting.BN if self.study.detailed(variant, seed) else [variant.regime.bn]:
                self._score(variant.name, options, weights, self.study.path(self.study.candidates), folder / f"{bn}.json", bn)
            collecting.collect(folder, variant, seed, self.study, commit)
        elif self.weights:
            self._supernet(variant, seed)
        return str(result)

    def _supernet(self, variant: Variant, seed: int) -> list[Path]:
        """The weights of a variant's supernet (of several groups: of each), trained if they do not exist."""
        study = self.study
        shares, of = f"train.watch_at={list(study.watch_at)}", f"train.watch_truth={study.path(study.candidates)}"
        watch = [f"train.watch_images={study.watch_images}", shares, of]
        name = f"{variant.name}-seed{seed}"
        with self._locks[name]:
            options = [*self._rate_option(variant), *(watch if study.watched(variant, seed) else [])]
            return self._train(name, variant, seed, self._folder(variant, seed), *options)

    def _folder(self, variant: Variant, seed: int) -> Path:
        """A run's working folder: another one for another learning rate."""
        rate = self._rate(variant)
        return self.runs / variant.name / ("" if rate is None else str(rate)) / f"seed{seed}"

    def _train(self, log: str, variant: Variant, seed: int, folder: Path, *options: str) -> list[Path]:
        groups = variant.method.groups or {"": ""}
        files = [folder / group / "supernet.safetensors" for group in groups] if variant.method.trained else []
        for file, ranges in zip(files, groups.values(), strict=False):
            if not file.exists():
                depths = [f"train.depth_ranges={ranges}"] if ranges else []
                resume = ["--resume"] if file.with_name("config.yaml").exists() else []
                self._tool(log, "train_supernet", *self._options_of(variant, seed, file.parent, *options, *depths), *resume)
        return files

    def _rate_option(self, variant: Variant) -> list[str]:
        """The chosen learning rate as an option; none if the configuration's is taken."""
        rate = self._rate(variant)
        return [] if rate is None else [f"train.lr_per_256={rate}"]

    def _rate(self, variant: Variant) -> float | None:
        """The learning rate of a variant, chosen by short trainings as far as they are not known yet; None: nothing to choose.

        While the best rate is the lowest or the highest one, the next beyond it is tried, in the steps of the study's rates.
        """
        if variant.method.rate_of is not None:
            return self._rate(self.study.beside(variant, variant.method.rate_of))
        wanted = variant.regime.rates if variant.method.trained else ()
        if not wanted:
            return None
        path = self.study.results / "rates.json"
        with self._locks[f"rate {variant.name}"]:
            losses = self._known_rates(path).get(variant.name, {}).get("losses", {})
            while wanted:
                losses |= {str(rate): self._probe_loss(variant, rate) for rate in wanted if str(rate) not in losses}
                best = best_rate(losses)
                if best is None:
                    raise UserError(f"{variant.name} diverged with every rate; lower regimes.{variant.regime_name}.rates")
                with self._locks["rates"]:
                    known = self._known_rates(path) | {variant.name: {"lr_per_256": best, "losses": losses}}
                    write_json(path, dict(sorted(known.items())))
                wanted = beyond(losses) if len(losses) < len(variant.regime.rates) + EXTENSIONS else ()
        return best

    @staticmethod
    def _known_rates(path: Path) -> dict[str, Any]:
        return dict(read_json(path, "learning rates")) if path.exists() else {}

    def _probe_loss(self, variant: Variant, rate: float) -> float | None:
        """Mean loss of the probes after a training of seed 0 with this rate; None if it diverged."""
        name, folder = f"rate-{variant.name}-{rate:g}", self.runs / "rates" / variant.name / f"{rate:g}"
        options = [*variant.regime.rate_options, f"train.lr_per_256={rate}"]
        try:
            weights = self._train(name, variant, 0, folder, *options)
        except Diverged:
            return None
        few = self._options_of(variant, 0, folder, *options, f"data.val_limit={PROBE_IMAGES}")
        bn = variant.regime.bn
        self._score(name, few, weights, self._probes(), folder / f"{bn}.json", bn)
        rows = read_json(folder / f"{bn}.metrics.json", "metrics").values()
        return round(float(np.mean([row["loss"] for row in rows])), collecting.DIGITS)

    def _probes(self) -> Path:
        """Random subnets of the candidates' widths, none of them a candidate, as a candidate file."""
        path, space, rng = self.runs / "probes.json", self.study.config().search_space, random.Random("probes")
        taken = {entry.arch for entry in self.study.read_candidates()}
        subspace = Subspace(space, self.study.narrowest_codes)
        drawn = dict.fromkeys(subspace.sample(rng) for _ in range(PROBE_DRAWS))
        probes = [arch for arch in drawn if arch not in taken][:PROBES]
        if len(probes) < PROBES:
            raise UserError(f"regimes.*.rates: the space has too few subnets beside the candidates to choose rates on {PROBES}")
        write_scores(path, [Candidate(f"probe{n}", arch, arch.code, None) for n, arch in enumerate(probes)], [0.0] * PROBES)
        return path

    def _score(self, log: str, options: list[object], weights: list[Path], candidates: Path, output: Path, bn: str) -> None:
        networks = ["--weights", *weights] if weights else ["--untrained"]
        self._tool(log, "write_submission", *options, *networks, "--candidates", candidates, "--output", output, "--bn", bn)

    def _options_of(self, variant: Variant, seed: int, folder: Path, *options: str) -> list[object]:
        """Configuration, start and overrides of a variant's run, the later ones stronger."""
        method, regime = variant.method, variant.regime
        start = []
        if method.after is not None:
            base = self.study.beside(variant, method.after)
            start = [f"model.pretrained={self._supernet(base, seed)[-1]}", "model.reorder=false"]
        elif method.pretrained:
            start = [f"model.pretrained={self._largest(seed, method.largest or self.study.largest)}"]
        if method.teacher:
            start.append(f"method.teacher={self._largest(seed, method.largest or self.study.largest)}")
        own = method.options.get(variant.regime_name, ())
        file = self.study.config_of(variant.method_name)
        return self._options(file, folder, f"seed={seed}", *start, *regime.options, *options, *own)

    def _options(self, file: Path, output: Path, *options: str) -> list[object]:
        cache = f"data.cache_dir={self.runs / 'cache'}"
        return ["-c", file, "-o", f"data.root={self.root}", cache, f"output_dir={output}", *self.study.options, *options]

    def _commit(self) -> str | None:
        """The checkout's commit, with ``-dirty`` if a tracked file differs from it; None outside of Git."""
        command = ["git", "-C", str(self.repository), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        return described.stdout.strip() or None

    def _tool(self, log: str, name: str, *arguments: object) -> None:
        """Run one of the tools on one core, with its output in a log file.

        Raises:
            UserError: it failed, with its folder, whose files of an earlier version are not replaced; Diverged, if that is
                why, as its exit status says.
        """
        path = self.runs / "logs" / f"{log}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(self.repository / "tools" / f"{name}.py"), *map(str, arguments)]
        with path.open("a", encoding="utf-8") as output:
            status = subprocess.run(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
        if status:
            last = path.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            kind = Diverged if status == Diverged.status else UserError
            folder = next(text.partition("=")[2] for text in command if text.startswith("output_dir="))
            again = f"to begin this run anew, move {folder} away"
            raise kind(f"{name} failed with status {status}: {last[-300:]} (its log is {path}; {again})")
