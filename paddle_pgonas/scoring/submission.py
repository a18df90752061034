"""The scoring job: score the candidates and write the submission with its metrics and its record."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.config.meaning import warn
from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.files import write_json, write_text
from paddle_pgonas.io.outputs import claim, content_digest
from paddle_pgonas.priors.by_name import with_prior
from paddle_pgonas.progress import progress
from paddle_pgonas.runtime import command_line, versions
from paddle_pgonas.scores.files import Candidate, beside, check_submission, read_candidates, write_scores
from paddle_pgonas.scoring.chunks import METRICS
from paddle_pgonas.scoring.session import measure_with, metric_values


def write_submission(
    config: Config,
    weights: str | Path | Sequence[str | Path],
    path: str | Path,
    output: str | Path,
    metric: str = "top1",
    candidates: Sequence[Candidate] | None = None,
    prior: tuple[str, float] | None = None,
) -> None:
    """Score the candidates, write ``output`` (``NAME.json``), ``NAME.metrics.json`` and ``NAME.record.json``, and check the file.

    The candidate file is ``path``; ``candidates`` are the entries of it that are scored, all by default. Of several ``weights``
    (few-shot supernets) each scores the candidates of its ``train.depth_ranges``; an empty list scores the network of
    ``model.pretrained`` before any training. ``acc`` is the ``metric`` ``top1``, ``top5``, ``probability`` or ``likelihood``
    (``exp(-loss)``), to which :func:`~paddle_pgonas.priors.by_name.with_prior` adds a ``prior`` of this name and weight. Raises
    UserError if weights or images do not fit, an output is an input, a file cannot be written, the candidate file changed
    meanwhile, or the prior is the same for all candidates.
    """
    started = time.time()
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    metrics_path, record_path = (beside(output, ending) for ending in (".metrics.json", ".record.json"))
    claim("write_submission --output", output, beside=[metrics_path, record_path], inputs=[*files, path])
    content = content_digest(path)
    candidates = candidates or read_candidates(path, config.search_space)
    archs = [candidate.arch for candidate in candidates]
    name, weight = prior or ("", 0.0)
    formula = config.prior(name) if prior else None
    if formula is not None:
        formula(archs[0])  # an imported prior that fails must not cost hours of scoring
    processes.say_share()
    measured, sessions = measure_with(config, files, archs, Path(config.output_dir) / "scores")
    if processes.rank() != 0:
        print(printable(f"all {len(archs)} candidates are scored; process 0 writes {output}"))
        return
    images = len(sessions[0].images.labels)
    if content_digest(path) != content:
        raise UserError(f"{path}: the candidates changed while they were scored; give the command again to score what is new")
    acc = metric_values(measured, metric)
    if formula is not None:
        values = np.array([formula(arch) for arch in progress(archs, name, "subnets")])
        if np.ptp(values) == 0:
            raise UserError(f"--prior {name} is the same for all candidates ({len(archs)}); leave it out")
        acc = with_prior(acc, name, values, weight)
    sessions[0].warn_guessing(float(measured[:, METRICS.index("top1")].max()))
    if len(acc) > 1 and np.ptp(acc) == 0:
        warn(f"{output}: every 'acc' is {acc[0]:g}: the {len(acc):,} candidates are not ranked")
    write_scores(output, candidates, acc.tolist())
    check_submission(output, candidates, config.search_space)
    metrics = [dict(zip(METRICS, row, strict=True)) for row in measured.tolist()]
    lines = [f"{json.dumps(entry.name)}: {json.dumps(row)}" for entry, row in zip(candidates, metrics, strict=True)]
    write_text(metrics_path, "{\n" + ",\n".join(lines) + "\n}\n")
    record = {
        "acc": metric,
        "prior": prior and f"{name}, weight {weight:g}",
        "bn": config.score.bn,
        "weights": [str(file) for file in files],
        "trained_steps": [session.trained.get("step") for session in sessions],
        "candidates": len(candidates),
        "images": images,
        "seconds": round(time.time() - started, 1),
        "device": sessions[0].device,
        "command": command_line(),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
    write_json(record_path, record)
    shown = f"{metric} with {name}" if prior else metric
    print(printable(f"{len(candidates)} candidates, {images} images, {shown} {acc.min():.4f} to {acc.max():.4f}: {output}"))
