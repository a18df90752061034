"""The scoring job: score the candidates and write the submission with its metrics and its record."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.config.meaning import warn
from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.files import write_json, write_text
from paddle_pgonas.io.outputs import claim, content_digest
from paddle_pgonas.priors.by_name import prior_values, terms, with_prior
from paddle_pgonas.progress import say_once
from paddle_pgonas.runtime import made_by, now
from paddle_pgonas.scores.check import PREDICTOR
from paddle_pgonas.scores.files import Candidate, beside, check_submission, read_candidates, write_scores
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.session import Session, measure_with, metric_values
from paddle_pgonas.scoring.smoothing import TOGETHER, Sample, Smoothing
from paddle_pgonas.space.arch import Arch, SearchSpace

CHANGED = "the candidates changed while they were {}; give the command again to score what is new"


def write_submission(
    config: Config,
    weights: str | Path | Sequence[str | Path],
    path: str | Path,
    output: str | Path,
    metric: str = "top1",
    candidates: Sequence[Candidate] | None = None,
    prior: tuple[str, float] | None = None,
    sample: Sample | None = None,
) -> None:
    """Score the candidates, write ``output`` (``NAME.json``), ``NAME.metrics.json`` and ``NAME.record.json``, and check the file.

    The candidate file is ``path``; ``candidates`` are the entries of it that are scored, all by default. Of several ``weights``
    (few-shot supernets) each scores the candidates of its ``train.depth_ranges``; an empty list scores the network of
    ``model.pretrained`` before any training. ``acc`` is the ``metric`` ``top1``, ``top5``, ``probability`` or ``likelihood``
    (``exp(-loss)``), to which :func:`~paddle_pgonas.priors.by_name.with_prior` adds a ``prior`` of this name and weight. With a
    ``sample`` only its candidates are scored, and all get the metric that :class:`~paddle_pgonas.scoring.smoothing.Smoothing`
    predicts, which is no legal entry. Raises UserError if weights or images do not fit, an output is an input, a file cannot be
    written, the candidate file changed meanwhile, the prior is the same for all candidates, or the sample cannot be fitted.
    """
    started = time.time()
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    metrics_path, record_path = (beside(output, ending) for ending in (".metrics.json", ".record.json"))
    claim("write_submission --output", output, beside=[metrics_path, record_path], inputs=[*files, path])
    content = content_digest(path)
    space = config.search_space
    candidates = _as_listed(path, candidates, space) if candidates else read_candidates(path, space)
    archs = [candidate.arch for candidate in candidates]
    for term in terms(prior[0]) if prior else ():
        config.prior(term)(archs[0])  # an imported prior that fails must not cost hours of scoring
    smoothing = sample and Smoothing(archs, sample, config.data.image_size, config.model.num_classes)
    scored = smoothing.positions if smoothing else range(len(archs))
    folder, together = Path(config.output_dir) / "scores", TOGETHER if sample else None
    processes.say_share()
    say_once(f"{len(scored):,} candidates by {metric} with {' '.join(map(str, files)) or 'no training'}: {output}", error=False)
    measured, sessions = measure_with(config, files, [archs[position] for position in scored], folder, together)
    if processes.rank() != 0:
        print(printable(f"all {len(archs)} candidates are scored; process 0 writes {output}"))
        return
    if content_digest(path) != content:
        raise UserError(f"{path}: {CHANGED.format('scored')}")
    acc, facts = metric_values(measured, metric), dict[str, object]()
    if smoothing and sample:
        acc, about = _smoothed(acc, smoothing)
        names = [candidates[position].name for position in scored]
        facts = {"predictor": PREDICTOR, "sample": {"seed": sample.seed, **about, "names": names}}
    if prior:
        acc = _with_prior(acc, archs, config, *prior)
    sessions[0].warn_guessing(float(measured[:, METRICS.index("top1")].max()))
    if len(acc) > 1 and np.ptp(acc) == 0:
        warn(f"{output}: every 'acc' is {acc[0]:g}: the {len(acc):,} candidates are not ranked")
    write_scores(output, candidates, acc.tolist())
    check_submission(output, candidates, config.search_space)
    order = np.argsort(scored)
    _write_metrics(metrics_path, [candidates[scored[row]].name for row in order], measured[order])
    images = len(sessions[0].images.labels)
    facts |= {"acc": metric, "prior": prior and f"{prior[0]}, weight {prior[1]:g}", "candidates": len(candidates)}
    facts |= {"weights": [str(file) for file in files], "candidate_file": str(path), "file": content_digest(output)}
    write_json(record_path, _record(config, sessions, time.time() - started) | facts)
    shown = f"{metric} with {prior[0]}" if prior else metric
    print(printable(f"{len(candidates)} candidates, {images} images, {shown} {acc.min():.4f} to {acc.max():.4f}: {output}"))


def _smoothed(scores: np.ndarray, smoothing: Smoothing) -> tuple[np.ndarray, dict[str, Any]]:
    """Predictions of all candidates from the scores of the sample, and what the record says of the fit."""
    smoothed = smoothing.fit(scores)
    print(f"{len(scores)} of {len(smoothed.values)} candidates scored; {smoothed}")
    return smoothed.values, smoothed.record()


def _with_prior(acc: np.ndarray, archs: Sequence[Arch], config: Config, name: str, weight: float) -> np.ndarray:
    values = prior_values(name, archs, config.prior)
    if np.ptp(values) == 0:
        raise UserError(f"--prior {name} is the same for all candidates ({len(archs)}); leave it out")
    return with_prior(acc, name, values, weight)


def _record(config: Config, sessions: Sequence[Session], seconds: float) -> dict[str, object]:
    """How the candidates were measured."""
    return {
        "bn": config.score.bn,
        "trained_steps": [session.trained.get("step") for session in sessions],
        "images": len(sessions[0].images.labels),
        "seconds": round(seconds, 1),
        "device": sessions[0].device,
        "date": now(),
        **made_by(),
        "config": config.model_dump(mode="json"),
        "training": [session.trained.get("config") for session in sessions],
    }


def _write_metrics(path: str, names: Sequence[str], measured: np.ndarray) -> None:
    """Write the metrics of the measured candidates, one a line."""
    rows = [dict(zip(METRICS, row, strict=True)) for row in measured.tolist()]
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in zip(names, rows, strict=True)]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _as_listed(path: str | Path, candidates: Sequence[Candidate], space: SearchSpace) -> Sequence[Candidate]:
    """The candidates, which were read earlier, if the file still lists them; a pipe cannot be read again. Raises UserError."""
    if Path(path).is_file():
        known = {entry.written: entry.arch for entry in candidates}
        codes = {entry.name: entry.written for entry in read_candidates(path, space, known)}
        if any(codes.get(entry.name) != entry.written for entry in candidates):
            raise UserError(f"{path}: {CHANGED.format('read')}")
    return candidates
