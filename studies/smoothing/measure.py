"""Where smoothed scores help (paddle_pgonas/scoring/smoothing.py), and which model smooths best.

Two measurements: on the runs of the other studies, whose candidates have a truth, and on many candidates of similar cost, which
were all scored by one supernet, and ranked by a sample of 500. README.md beside this file has the commands.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from paddle_pgonas import cli
from paddle_pgonas.io.files import read_json, write_json, write_text
from paddle_pgonas.runtime import versions
from paddle_pgonas.scores.correlation import Estimate, correlate, kendall
from paddle_pgonas.scores.files import read_scored
from paddle_pgonas.scoring.smoothing import FOLDS, features, gaussian_process
from studies.cells import interval
from studies.document import fill
from studies.intervals import Taus, resampled_tau
from studies.results import read_results
from studies.study import read_study

HOME = Path(__file__).resolve().parent
STUDIES = {"wide": "", "similar_cost": "long", "tiny_imagenet": ""}
"""The studies, and the name of each one's truth."""
METRICS = ("top1", "probability")
PENALTIES = np.logspace(-3, 4, 22)
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


def gain(one: Taus, other: Taus) -> list[float]:
    """How far a mean tau lies above another one, with its 95 % interval."""
    of = one.minus(other)
    return [round(value, DIGITS) for value in (of.value, of.low, of.high)]


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
            "gain": {label: gain(taus[label], taus["scores"]) for label in ("smoothed", "not scored")},
        }
    return rows


def of_many(folder: Path) -> dict[str, Any]:
    """What a sample of 500 tells about many candidates of similar cost, all of which were scored by the same supernet.

    ``all.json`` and ``sample500.json``, with their records, are the two submissions, and the study's candidates are among theirs.
    ``agreement`` is Kendall tau of the two over the candidates that are not in the sample.
    """
    study = read_results(read_study(HOME.parent / "similar_cost" / "study.yaml"))
    space = study.config.search_space
    every, sampled = ({e.name: e.acc for e in read_scored(folder / f"{name}.json", space)} for name in ("all", "sample500"))
    every_record, record = (read_json(folder / f"{name}.record.json", "record") for name in ("all", "sample500"))
    rest = sorted(every.keys() - record["sample"]["names"])
    own, predicted = (np.array([scores[name] for name in rest]) for scores in (every, sampled))
    agreement = correlate(own, predicted)
    found: dict[str, Any] = {
        "candidates": len(every),
        "read_by": record["acc"],
        "images": record["images"],
        "seconds": {"all": every_record["seconds"], "sample": record["seconds"]},
        "held_out": record["sample"]["held_out"],
        "agreement": agreement.estimates()["kendall"],
        "truths": {},
    }
    for name in study.study.whole_truths:
        part = study.part(None, "", name)
        scores = np.array([[of[entry.name] for entry in part.candidates] for of in (every, sampled)])
        alone, smoothed = (Taus(resampled_tau(one[None], part.mean_truth), (0,)) for one in scores)
        taus = {"all": alone.value, "sample": smoothed.value, "gain": gain(smoothed, alone)}
        found["truths"][name] = {"subnets": len(part.candidates)} | taus
    return found


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
                cells.append(f"{row['tau'][label]:.3f}: {interval(Estimate(*row['gain'][label]), signed=True)}")
            lines.append(f"| {study}, {metric} | " + " | ".join(cells) + " |")
        made["truths"] = "\n".join(lines)
    if "many" in results:
        made["many"] = many_table(results["many"])
    return made


def many_table(of: dict[str, Any]) -> str:
    """Time and agreement of scoring all and of scoring a sample, as Markdown."""
    everything, sample = (f"{of['seconds'][name] / 60:.1f}" for name in ("all", "sample"))
    lines = [
        f"| | all {of['candidates']:,} scored | 500 scored | difference |",
        "|---|---|---|---|",
        f"| minutes | {everything} | {sample} | |",
        f"| tau with the scores of those not in the sample | | {interval(Estimate(*of['agreement']))} | |",
    ]
    for name, row in of["truths"].items():
        more = interval(Estimate(*row["gain"]), signed=True)
        lines.append(f"| tau with the {name} truth of {row['subnets']} | {row['all']:.3f} | {row['sample']:.3f} | {more} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write results.json and the tables of README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=Path, metavar="DIR", help="holds the submissions of the candidates; measure these only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    path = HOME / "results.json"
    results = read_json(path, "results") if path.exists() else {}
    if arguments.many:
        results["many"] = of_many(arguments.many)
    else:
        results["studies"] = {name: of_study(name, truth) for name, truth in STUDIES.items()}
    write_json(path, results | {"versions": versions()})
    document = HOME / "README.md"
    text = document.read_text(encoding="utf-8")
    for name, table in tables(results).items():
        text = fill(document, text, name, table)
    write_text(document, text)


if __name__ == "__main__":
    cli.run(main)
