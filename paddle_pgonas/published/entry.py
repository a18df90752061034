"""Repeating a published leaderboard entry without training: its weights must give the accuracies of its submission file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddle_pgonas.config.loading import Config
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.weights import activation_of, read_weights
from paddle_pgonas.progress import say_once
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.faults import Faults
from paddle_pgonas.scores.files import Candidate, check_range, read_scored, select
from paddle_pgonas.scoring.session import Session, metric_values

NAMED = 10
"""Deviating entries that are listed."""
WHOLE = 0.3
"""Images by which a value may miss a whole number; four decimals of 3,923 images miss one by at most .2."""


@dataclass(frozen=True)
class EntryCheck:
    """Accuracies as published and as computed here, of the same candidates on the same ``images``."""

    candidates: Sequence[Candidate]
    ours: np.ndarray
    """Fractions of correct answers, float64 [N]."""
    images: int
    activation: str

    @property
    def published(self) -> np.ndarray:
        """The entry's accuracies, float64 [N]."""
        return np.array([candidate.acc for candidate in self.candidates])

    @property
    def off_by(self) -> np.ndarray:
        """Images that are correct here minus those in the entry, which may be rounded: int64 [N]."""
        return np.rint((self.ours - self.published) * self.images).astype(np.int64)

    @property
    def counts_whole_images(self) -> bool:
        """Whether the entry's accuracies are fractions of this number of images."""
        counts = self.published * self.images
        return bool(np.abs(counts - np.rint(counts)).max() <= WHOLE)

    def __str__(self) -> str:
        off_by, count = self.off_by, len(self.candidates)
        deviating = np.argsort(-np.abs(off_by), kind="stable")[: np.count_nonzero(off_by)]
        lines = [f"{count:,} candidates, {self.images:,} images, activation {self.activation}"]
        lines += [
            f"{count - len(deviating):,} of {count:,} agree exactly; largest difference in images: {np.abs(off_by).max():,}"
        ]
        for index in deviating[:NAMED]:
            name, acc = self.candidates[index].name, self.ours[index]
            lines.append(f"  {name}: {acc:.5f} here, {self.published[index]:.5f} published, {off_by[index]:+,} images")
        if len(deviating) > NAMED:
            lines.append(f"  and {len(deviating) - NAMED:,} more")
        lines.append(f"Kendall tau of the two rankings: {kendall(self.published, self.ours):.4f}")
        if not self.counts_whole_images:
            lines.append(f"note: its values are no multiples of 1/{self.images}: rounded, or of another number of images")
        return "\n".join(lines)


def check_entry(config: Config, weights: str | Path, submission: str | Path, first: int | None = None) -> EntryCheck:
    """Score the submission's ``first`` candidates (None: all) with the entry's weights and frozen BatchNorm, as published.

    The activation is PReLU if the weights hold its slopes, else the configured one. Finished chunks are kept in
    ``config.output_dir``. Raises UserError if files or images do not fit, or the entry's accuracies are no fractions.
    """
    activation = activation_of(*read_weights(weights))
    if activation is None and config.model.activation == "prelu":
        raise UserError(
            f"{weights}: holds no slopes of PReLU, and nothing in it tells another activation; "
            "give it: -o model.activation=mish (or relu, swish, selu)"
        )
    config = config.changed(model={"activation": activation or config.model.activation}, score={"bn": "running"})
    candidates, faults = select(submission, read_scored(submission, config.search_space), first, None), Faults()
    check_range({candidate.name: candidate.acc for candidate in candidates}, faults)
    faults.stop(submission)
    say_once(f"{len(candidates):,} candidates of {submission} with {weights}", error=False)
    session = Session(config, weights)
    measured = session.measure([candidate.arch for candidate in candidates], Path(config.output_dir) / "scores")
    return EntryCheck(candidates, metric_values(measured, "top1"), len(session.images.labels), config.model.activation)
