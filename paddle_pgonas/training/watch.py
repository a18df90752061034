"""Measurements on the way of a training: accuracy of subnets on held-out images, and Kendall tau."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from paddle_pgonas.config.loading import Config
from paddle_pgonas.data.images import open_images
from paddle_pgonas.io.files import write_json
from paddle_pgonas.io.outputs import claim
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import read_scores
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.scorer import score
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.training.checkpoints import TRAINING


class Watcher:
    """Measures the smallest, middle and largest subnet, and, if configured, Kendall tau with the prior and the truth.

    It uses ``train.watch_images`` validation images and the statistics of ``score.bn``, and does not change the supernet.
    """

    def __init__(self, config: Config) -> None:
        settings, space = config.train, config.search_space
        self.config = config.changed(data={"val_limit": settings.watch_images})
        self.images = open_images(self.config).for_scoring(self.config.score)
        self.latest: dict[str, float] = {}  # the last measurement
        self.named = {"smallest": space.smallest, "middle": space.middle, "largest": space.largest}
        rng = random.Random("watched subnets")
        self.references: dict[str, dict[Arch, float]] = {}
        if settings.watch_subnets:
            prior, drawn = config.prior(settings.watch_prior), [space.sample(rng) for _ in range(settings.watch_subnets)]
            self.references[settings.watch_prior] = {arch: prior(arch) for arch in drawn}
        if settings.watch_truth:
            truth = read_scores(settings.watch_truth, space)
            self.references["truth"] = {space.parse(code): accuracy for code, accuracy in truth.items()}

    def __call__(self, net: Supernet, step: int) -> dict[str, float]:
        """``heldout/<subnet>``: accuracy; ``kendall/<prior or truth>``: tau.

        With ``train.watch_truth``, all metrics of its subnets are written to ``<output_dir>/watched/<step>.json``. Raises
        UserError for such a file that no training wrote.
        """
        archs = list(dict.fromkeys([*self.named.values(), *(arch for known in self.references.values() for arch in known)]))
        rows_of = dict(zip(archs, score(net, archs, self.images, self.config.data, self.config.score), strict=True))
        if "truth" in self.references:
            rows = {arch.code: dict(zip(METRICS, rows_of[arch].tolist(), strict=True)) for arch in self.references["truth"]}
            claim(TRAINING, path := Path(self.config.output_dir) / "watched" / f"{step}.json")
            write_json(path, rows)
        accuracy = {arch: row[0] for arch, row in rows_of.items()}
        measured = {f"heldout/{name}": float(accuracy[arch]) for name, arch in self.named.items()}
        for name, known in self.references.items():
            scores = np.array([accuracy[arch] for arch in known])
            measured[f"kendall/{name}"] = kendall(np.array(list(known.values())), scores)
        self.latest = {name: value for name, value in measured.items() if np.isfinite(value)}  # a constant side has no tau
        return self.latest

    def summary(self) -> str:
        """The last measurement as a line of text."""
        reached = ", ".join(f"{name} {self.latest[f'heldout/{name}']:.3f}" for name in self.named)
        chance = 1 / len(np.unique(self.images.labels))
        return f"top-1 of the subnets on {len(self.images.labels)} validation images: {reached} (chance {chance:.3f})"
