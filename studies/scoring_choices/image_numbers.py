"""How Kendall tau with the truth depends on the number of validation images, for every metric and the supernets of a study.

Measures every image of every candidate of the supernets whose weights are there, so that each number of images can be looked at
in many random draws, and rebuilds the table of README.md beside this file. What was measured is kept in the folder of --work;
another call adds the supernets that are new.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle

from paddle_pgonas import cli
from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.io.files import read_json, write_json, write_text
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scoring.scorer import calibration_batches, to_network
from paddle_pgonas.scoring.session import Session
from paddle_pgonas.scoring.tree import Node, build_tree
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import Arch
from studies.cells import markdown
from studies.document import fill
from studies.results import read_results
from studies.study import Study, read_study

HOME = Path(__file__).resolve().parent
STUDY = HOME.parent / "similar_cost" / "study.yaml"
QUOTED = HOME.parents[1] / "paddle_pgonas" / "scoring" / "fewer_images.json"
NUMBERS = (500, 1000, 2500, 5000, 10_000)
DRAWS = 50
METRICS = ("top1", "probability", "likelihood")
UNTRAINED = ("no_training", "no_training_long")
"""Variants without weights of their own: they are the committed largest networks."""


Weights = tuple[str, Path, bool]
"""The method, the weights, and whether these are a largest network's."""


def supernets(study: Study, runs: Path | None) -> dict[str, Weights]:
    """All supernets by name. Trained ones lie in the folder ``runs``."""
    found: dict[str, Weights] = {}
    for method in UNTRAINED:
        recipe = study.methods[method].largest
        stem = "largest" if recipe is None else f"largest-{Path(recipe).stem}-"
        for path in sorted(study.path("largest").glob(f"{stem}[0-9].safetensors")):
            found[f"{method}-seed{path.stem[-1]}"] = (method, path, True)
    for name, variant in study.variants.items():
        for path in (
            sorted(runs.glob(f"{name}/**/seed*/supernet.safetensors")) if runs and variant.regime.bn == "calibrated" else ()
        ):
            if variant.method.trained and not variant.method.groups:
                found[f"{name}-{path.parent.name}"] = (variant.method_name, path, False)
    return found


def measure_images(config: Config, session: Session, archs: list[Arch]) -> np.ndarray:
    """Hit, probability of the true class and loss of every image: float32 [archs, images, 3], with calibrated statistics."""
    images, settings = session.images, config.score
    session.net.eval()
    walker, root = Walker(session.net, "calibrated"), build_tree(archs)
    assert images.calibration is not None
    batches = calibration_batches(images.calibration, config.data, settings.calibration_batch, settings.batch_size)
    walker.calibrate(root, batches)
    values = np.empty((len(archs), len(images.labels), 3), np.float32)
    for start in progress(range(0, len(images.labels), settings.batch_size), "images", "batches"):
        batch = slice(start, start + settings.batch_size)
        labels = paddle.to_tensor(images.labels[batch])

        def visit(node: Node, logits: paddle.Tensor, batch: slice = batch, labels: paddle.Tensor = labels) -> None:
            loss = paddle.nn.functional.cross_entropy(logits, labels, reduction="none").flatten()
            hit = (logits.argmax(-1) == labels).astype("float32")
            values[list(node.candidates), batch] = paddle.stack([hit, (-loss).exp(), loss], -1).numpy()

        walker.walk(root, to_network(images.images[batch], config.data), visit)
    return values


def measured(study: Study, name: str, of: Weights, root: str, work: Path, archs: list[Arch]) -> np.ndarray:
    """The values of a supernet, from the folder of ``work`` if it has them."""
    kept = work / f"{name}.safetensors"
    if kept.exists():
        return records.read(kept)[0]["values"]
    method, weights, untrained = of
    start = [f"model.pretrained={weights}"] if untrained else []
    options = [f"data.root={root}", f"output_dir={work}", *start, *study.options]
    config = load_config(
        study.path(study.methods[method].config or ("no_training.yaml" if untrained else f"{method}.yaml")), options
    )
    session = Session(config, None if untrained else weights)
    if (images := len(session.images.labels)) < NUMBERS[-1]:
        raise UserError(f"{root}: has {images:,} validation images, fewer than the {NUMBERS[-1]:,} of this measurement")
    values = measure_images(config, session, archs)
    records.write(kept, {"supernet": name}, {"values": values})
    return values


def scores(values: np.ndarray, metric: str) -> np.ndarray:
    """A metric of every candidate, [candidates], of values [candidates, images, 3]; in double precision, as in scoring."""
    means = values.mean(1, dtype=np.float64)
    return {"top1": means[:, 0], "probability": means[:, 1], "likelihood": np.exp(-means[:, 2])}[metric]


def draws(values: np.ndarray, number: int) -> list[np.ndarray]:
    """Values of ``number`` random images, drawn ``DRAWS`` times without replacement; all images once if there are no more."""
    total = values.shape[1]
    if number >= total:
        return [values]
    return [values[:, np.random.default_rng((number, draw)).permutation(total)[:number]] for draw in range(DRAWS)]


def table(values: np.ndarray, truth: np.ndarray, known: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """By metric and number of images: tau with the truth (mean and deviation of the draws), and with the ranking by all images.

    Args:
        values: [candidates, images, 3] of one supernet.
        truth: [candidates].
        known: bool [candidates], which have a truth.
    """
    rows: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
    whole = {metric: scores(values, metric) for metric in METRICS}
    for number in NUMBERS:
        drawn = draws(values, number)
        for metric in METRICS:
            each = [scores(part, metric) for part in drawn]
            taus = [kendall(truth[known], one[known]) for one in each]
            same = [kendall(whole[metric], one) for one in each]
            rows[metric][str(number)] = {
                "tau": round(float(np.mean(taus)), 4),
                "deviation": round(float(np.std(taus, ddof=1)), 4) if len(taus) > 1 else 0.0,
                "with_all": round(float(np.mean(same)), 4),
            }
    return rows


def _trained(name: str) -> bool:
    """Whether this supernet, as :func:`supernets` calls it, has been trained as one."""
    return name.rpartition("-")[0] not in UNTRAINED


def images_table(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Tau by number of images and metric as Markdown: mean over the supernets, and mean deviation of the draws."""
    kinds = {"trained": True, "not trained": False}
    parted = {what: [row for name, row in found.items() if _trained(name) == kind] for what, kind in kinds.items()}
    groups = {f"{len(group)} {what}": group for what, group in parted.items() if group}
    rows = []
    for number in map(str, NUMBERS):
        cells = []
        for group, metric in itertools.product(groups.values(), METRICS):
            tau, deviation = (np.mean([row[metric][number][key] for row in group]) for key in ("tau", "deviation"))
            cells.append(f"{tau:.3f}" + (f" +- {deviation:.3f}" if deviation else ""))
        rows.append([f"{int(number):,}", *cells])
    return markdown(["images", *(f"{group}: {metric}" for group, metric in itertools.product(groups, METRICS))], rows)


def agreement(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """By number of images and metric: tau with the ranking by all, mean over the trained supernets; for the tools."""
    trained = [row for name, row in found.items() if _trained(name)]

    def mean(metric: str, number: str) -> float:
        return round(float(np.mean([row[metric][number]["with_all"] for row in trained])), 3)

    return {number: {metric: mean(metric, number) for metric in METRICS} for number in map(str, NUMBERS[:-1]) if trained}


def main() -> None:
    """Measure, and write images.json, the table of README.md, and what the tools quote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="CIFAR-10 as DIR/train/<class>/* and DIR/val/<class>/*")
    parser.add_argument("--runs", type=Path, help="the working files of studies/run.py, where trained supernets lie")
    parser.add_argument("--work", type=Path, default=Path("runs/images"), help="working files (default: %(default)s)")
    parser.add_argument("--truth", default="long", help="the truth of the study that counts (default: %(default)s)")
    arguments = parser.parse_args()
    results = read_results(read_study(STUDY))
    if arguments.truth not in results.truths:
        raise UserError(f"--truth must be one of {', '.join(filter(None, results.truths))}, not {arguments.truth}")
    truth = np.nanmean(results.truths[arguments.truth], 0)
    there, kept = supernets(results.study, arguments.runs), HOME / "images.json"
    if kept.exists() and (lost := read_json(kept, "images")["supernets"].keys() - there):
        raise UserError(f"{kept}: has {len(lost)} supernets that are not below --runs {arguments.runs}, first {min(lost)}")
    report = {"truth": arguments.truth, "subnets": int(np.isfinite(truth).sum()), "draws": DRAWS}
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name, of in there.items():
        values = measured(results.study, name, of, arguments.root, arguments.work, results.archs)
        found[name] = table(values, truth, np.isfinite(truth))
        print(name, found[name]["probability"], flush=True)
    write_json(kept, report | {"supernets": found})
    write_json(QUOTED, {"source": "CIFAR-10, studies/scoring_choices", "images": NUMBERS[-1], "kendall": agreement(found)})
    document = HOME / "README.md"
    write_text(document, fill(document, document.read_text(encoding="utf-8"), "images", images_table(found)))


if __name__ == "__main__":
    cli.run(main)
