"""Trains and scores everything of the mini track that has no result yet, several trainings at a time, one core each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from paddle_pgonas.arch import MINI
from paddle_pgonas.errors import UserError
from paddle_pgonas.mini_track import results as track
from paddle_pgonas.submission import write_scores


@dataclass(frozen=True)
class Runner:
    """The mini track of a checkout. Each training is a process of its own, a command of ``tools/``.

    Existing results are kept, and an interrupted run continues.
    """

    repository: Path
    """The checkout: results go into its ``benchmarks/mini_track1``."""
    root: str
    """CIFAR-10 as ``root/train/<class>/*`` and ``root/val/<class>/*``."""
    runs: Path
    """Working files: checkpoints, weights, logs, decoded images."""

    @property
    def home(self) -> Path:
        """The folder of candidates and results."""
        return self.repository / "benchmarks" / "mini_track1"

    def run(self, only: Sequence[str] | None, seeds: int, processes: int) -> Iterator[str]:
        """Compute missing results of the truth and of every method (or ``only`` of these); yields each result's path.

        Raises:
            UserError: an unknown name, or a command that failed, with its log.
        """
        known = ["truth", *track.METHODS]
        for name in only or []:
            if name not in known:
                raise UserError(f"--only {name}: the mini track has {', '.join(known)}")
        wanted = only or known
        methods = [name for name in track.METHODS if name in wanted]
        if any(name in track.TAUGHT or name not in track.RANDOM for name in methods):
            self._train_largest()
        jobs = [partial(self._train_truth, seed) for seed in range(track.TRUTH_SEEDS) if "truth" in wanted]
        jobs += [partial(self._train_method, name, seed) for seed in range(seeds) for name in methods]
        with ThreadPoolExecutor(processes) as pool:
            yield from pool.map(lambda job: job(), jobs)

    def _train_truth(self, seed: int) -> str:
        """Train the subnets that the committed truth of this seed lacks, and add them to it."""
        result, working = self.home / "results" / f"truth-seed{seed}.json", self.runs / "truth"
        missing = track.missing_truth(self.home, seed)
        if missing:
            wanted, trained = working / f"missing-seed{seed}.json", working / f"trained-seed{seed}.json"
            write_scores(wanted, missing, [0.0] * len(missing))
            config = self._config("truth", working, f"seed={seed}")
            self._tool(f"truth-seed{seed}", "train_standalone", *config, "--candidates", wanted, "--output", trained)
            track.collect_truth(self.home, working, seed)
        return str(result)

    def _train_largest(self) -> None:
        """The stand-alone largest network that supernets start from and the baseline distils from."""
        if not self._largest.exists():
            config = self._config("truth", self.runs / "truth")
            self._tool("largest", "train_standalone", *config, "--arch", MINI.largest, "--weights", self._largest)

    def _train_method(self, method: str, seed: int) -> str:
        """Train one supernet, score the candidates with each choice of statistics, and store the result."""
        result = self.home / "results" / f"{method}-seed{seed}.json"
        if not result.exists():
            name, folder = f"{method}-seed{seed}", self.runs / method / f"seed{seed}"
            options = [f"seed={seed}"]
            if method in track.TAUGHT:
                options.append(f"train.teacher={self._largest}")
            if method not in track.RANDOM:
                options.append(f"model.pretrained={self._largest}")
            config, weights = self._config(method, folder, *options), folder / "supernet.safetensors"
            if not weights.exists():
                self._tool(name, "train_supernet", *config, "--resume")
            for bn in track.BN:
                files = ["--candidates", self.home / "candidates.json", "--weights", weights, "--output", folder / f"{bn}.json"]
                self._tool(name, "write_submission", *config, *files, "--bn", bn)
            track.collect(folder, method, seed, result)
        return str(result)

    @property
    def _largest(self) -> Path:
        return self.runs / "largest.safetensors"

    def _config(self, name: str, output: Path, *options: str) -> list[object]:
        file = self.repository / "configs" / "mini_track1" / f"{name}.yaml"
        cache = f"data.cache_dir={self.runs / 'cache'}"
        return ["-c", file, "-o", f"data.root={self.root}", cache, f"output_dir={output}", *options]

    def _tool(self, log: str, name: str, *arguments: object) -> None:
        """Run one of the tools on one core, with its output in a log file."""
        path = self.runs / "logs" / f"{log}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(self.repository / "tools" / f"{name}.py"), *map(str, arguments)]
        with path.open("a", encoding="utf-8") as output:
            status = subprocess.run(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
        if status:
            raise UserError(f"{name} failed with status {status}; its log is {path}")
