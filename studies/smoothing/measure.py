"""Where smoothed scores help (paddle_pgonas/scoring/smoothing.py), and which model smooths best.

Two measurements: on the runs of the other studies, whose candidates have a truth, and on a supernet in Track 1's codes, of which
`write_submission.py --sample` made the files that are read here. README.md beside this file has the commands.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from paddle_pgonas.io.files import read_json, write_json, write_text
from paddle_pgonas.runtime import versions
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import read_candidates
from paddle_pgonas.scoring.smoothing import FOLDS, Sample, Smoothing, features, gaussian_process
from paddle_pgonas.space.arch import TRACK1_THIN, Arch
from studies.document import fill
from studies.intervals import Taus, resampled_tau
from studies.results import read_results
from studies.study import read_study

HOME = Path(__file__).resolve().parent
STUDIES = {"wide": "", "similar_cost": "long", "tiny_imagenet": ""}
"""The studies, and the name of each one's truth."""
METRICS = ("top1", "probability")
PENALTIES = np.logspace(-3, 4, 22)
SIZES = (60, 125, 250, 500)
DIGITS = 4


def models() -> dict[str, Any]:
    """The models that are compared, by name."""
    ridge = RidgeCV(PENALTIES)
    quadratic = PolynomialFeatures(2, include_bias=False)
    return {
        "ridge": make_pipeline(StandardScaler(), ridge),
        "ridge, quadratic": make_pipeline(StandardScaler(), quadratic, StandardScaler(), ridge),
        "Gaussian process": gaussian_process(),
    }


def crossed(model: Any, known: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Predictions of scores [n] by models that were fitted without them."""
    return cross_val_predict(model, known, scores, cv=KFold(FOLDS, shuffle=True, random_state=0))


def of_study(name: str, truth_name: str) -> dict[str, dict[str, Any]]:
    """By metric, means over the runs that are read with calibrated statistics: agreement of each model with held-out scores, and
    tau with the truth of the scores, of their smoothed values, and of predictions for candidates that were not scored."""
    results = read_results(read_study(HOME.parent / name / "study.yaml"))
    truth = np.nanmean(results.truths[truth_name], 0)
    there = np.isfinite(truth)
    setting = (results.config.data.image_size, results.config.model.num_classes)
    known = features(results.archs, *setting)
    rows: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        held_out: dict[str, list[float]] = {}
        ranked: dict[str, list[np.ndarray]] = {}
        for variant in results.runs:
            for scores in results.scores(variant, None, metric) if results.bn(variant) == "calibrated" else ():
                for model, fitted in models().items():
                    predicted = crossed(fitted, known, scores)
                    held_out.setdefault(model, []).append(kendall(scores, predicted))
                    if model == "Gaussian process":
                        ranked.setdefault("not scored", []).append(predicted)
                ranked.setdefault("scores", []).append(scores)
                ranked.setdefault("smoothed", []).append(gaussian_process().fit(known, scores).predict(known))
        runs = len(ranked["scores"])
        # By number, so that each run is compared with itself.
        taus = {
            label: Taus(resampled_tau(np.array(values)[:, there], truth[there]), tuple(range(runs)))
            for label, values in ranked.items()
        }
        rows[metric] = {
            "runs": runs,
            "held_out": {model: round(float(np.mean(values)), DIGITS) for model, values in held_out.items()},
            "tau": {label: round(of.value, DIGITS) for label, of in taus.items()},
            "gain": {
                label: [round(value, DIGITS) for value in taus[label].minus(taus["scores"])]
                for label in ("smoothed", "not scored")
            },
        }
    return rows


def metric_of(path: Path, metric: str) -> dict[str, float]:
    """A metric of every scored candidate, by name."""
    return {name: row[metric] for name, row in read_json(path, "metrics").items()}


def of_samples(archs: dict[str, Arch], setting: tuple[int, int], folder: Path) -> dict[str, dict[str, Any]]:
    """By metric: what a sample of each size tells about 1,000 candidates, of which the last 500 are never in the sample.

    They were scored on some images, and again on as many others, which judge both: ``by_own`` is tau between the two scores.
    """
    names = read_json(folder / "sample1000.record.json", "record")["sample"]["names"]
    chosen, rest = [archs[name] for name in names], slice(500, None)
    known, report = features(chosen, *setting), dict[str, dict[str, Any]]()
    for metric in METRICS:
        first, whole = (metric_of(folder / f"{file}.metrics.json", metric) for file in ("sample1000", "more_images"))
        one, other = np.array([(first[name], 2 * whole[name] - first[name]) for name in names]).T
        rows = {}
        for size in SIZES:
            smoothing = Smoothing(chosen, Sample(size), *setting)
            smoothing.positions = list(range(size))
            started = time.process_time()
            smoothed = smoothing.fit(one[:size])
            seconds = time.process_time() - started
            rows[str(size)] = {
                "with_scores": kendall(one[rest], smoothed.values[rest]),
                "with_other_images": kendall(other[rest], smoothed.values[rest]),
                "scored_with_other_images": kendall(other[:size], smoothed.values[:size]),
                "held_out": smoothed.held_out.value,
                "kernel": smoothed.kernel,
                "fit_seconds": seconds,
            }
        report[metric] = {
            "by_own": {"not_in_the_sample": kendall(other[rest], one[rest]), "sample": kendall(other[:500], one[:500])},
            "held_out_500": {
                name: kendall(one[:500], crossed(model, known[:500], one[:500])) for name, model in models().items()
            },
            "deviation": float(one.std()),
            "mean": float(one.mean()),
            "samples": rows,
        }
    return report


def of_supernet(candidates: Path, folder: Path) -> dict[str, Any]:
    """What the files of the supernet tell, with the work of scoring the sample and all candidates."""
    record = read_json(folder / "sample500.record.json", "record")
    setting = (record["config"]["data"]["image_size"], record["config"]["model"]["num_classes"])
    archs = {entry.name: entry.arch for entry in read_candidates(candidates, TRACK1_THIN)}
    plans = {name: read_json(folder / f"plan_{name}.json", "plan") for name in ("all", "sample")}
    work = {name: {key: plan[key] for key in ("candidates", "macs_per_image")} for name, plan in plans.items()}
    written = {name: record[name] for name in ("images", "seconds", "trained_steps")}
    held_out = record["sample"]["held_out"] | {"metric": record["acc"]}
    return {"work": work, "sample500": written | {"held_out": held_out}, **of_samples(archs, setting, folder)}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The document's tables as Markdown, by name, as far as they have been measured."""
    made = {}
    if "studies" in results:
        rows = [(study, metric, row) for study, of in results["studies"].items() for metric, row in of.items()]
        names = list(models())
        lines = [f"| study, read by | runs | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
        for study, metric, row in rows:
            lines.append(
                f"| {study}, {metric} | {row['runs']} | " + " | ".join(f"{row['held_out'][name]:.3f}" for name in names) + " |"
            )
        made["models"] = "\n".join(lines)
        lines = ["| study, read by | scores | smoothed | not scored |", "|---|---|---|---|"]
        for study, metric, row in rows:
            cells = [f"{row['tau']['scores']:.3f}"]
            for label in ("smoothed", "not scored"):
                gain, low, high = row["gain"][label]
                cells.append(f"{row['tau'][label]:.3f}: {gain:+.3f} [{low:+.3f}, {high:+.3f}]")
            lines.append(f"| {study}, {metric} | " + " | ".join(cells) + " |")
        made["truths"] = "\n".join(lines)
    if "supernet" in results:
        made["supernet"] = supernet_table(results["supernet"])
    return made


def supernet_table(of: dict[str, Any]) -> str:
    """Agreement of the supernet's predictions by sample and metric, as Markdown."""
    lines = [
        "| sample, read by | held-out | with the scores | with other images | the sample's own, smoothed |",
        "|---|---|---|---|---|",
    ]
    for metric in METRICS:
        for size, row in of[metric]["samples"].items():
            values = (row[key] for key in ("held_out", "with_scores", "with_other_images", "scored_with_other_images"))
            lines.append(f"| {size}, {metric} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
        own = of[metric]["by_own"]
        lines.append(f"| no model, {metric} | | | {own['not_in_the_sample']:.3f} | {own['sample']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write results.json and the tables of README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the files of the supernet lie")
    parser.add_argument("--candidates", type=Path, help="the challenge's candidate file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    path = HOME / "results.json"
    results = read_json(path, "results") if path.exists() else {}
    if arguments.folder:
        results["supernet"] = of_supernet(arguments.candidates, arguments.folder)
    else:
        results["studies"] = {name: of_study(name, truth) for name, truth in STUDIES.items()}
    write_json(path, results | {"versions": versions()})
    document = HOME / "README.md"
    text = document.read_text(encoding="utf-8")
    for name, table in tables(results).items():
        text = fill(document, text, name, table)
    write_text(document, text)


if __name__ == "__main__":
    main()
