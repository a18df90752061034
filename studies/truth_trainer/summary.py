"""How exact a truth is: noise between seeds, spread between subnets, the noise ceiling, and Kendall tau of the priors.

    python studies/truth_trainer/summary.py studies/demo

With ``--with FILE`` it is compared with another one, subnet by subnet:

    python studies/truth_trainer/summary.py studies/similar_cost --with studies/similar_cost/long/accuracies.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from paddle_pgonas.io.files import read_json
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.scores.correlation import attainable_kendall, kendall, pearson
from paddle_pgonas.space.named import find_space


def summary(folder: Path) -> dict[str, float]:
    """The figures of a folder's ``accuracies.json``: standard deviations in points of top-1, and correlations with the means."""
    record = read_json(folder / "accuracies.json", "results")
    recipe, results = record["recipe"], record["results"].values()
    space = find_space(recipe["space"])
    archs = [space.parse(one["arch"]) for one in results]
    table = 100 * np.array([one["acc"] for one in results])  # [subnets, seeds]
    means, variances, seeds = table.mean(1), table.var(1, ddof=1), table.shape[1]
    figures = {
        "subnets": len(archs),
        "seeds": seeds,
        "lowest": means.min(),
        "highest": means.max(),
        "seed noise": variances.mean() ** 0.5,
        "standard error": (variances.mean() / seeds) ** 0.5,
        "spread": max(0.0, means.var(ddof=1) - variances.mean() / seeds) ** 0.5,
        "noise ceiling": attainable_kendall(means, (variances / seeds) ** 0.5),
    }
    known = {
        name: np.array([prior(arch) for arch in archs])
        for name in ("flops", "params", "zen")
        for prior in [make_prior(name, space, recipe["data"]["image_size"], recipe["num_classes"])]
    }
    known["blocks"] = np.array([sum(arch.depths) for arch in archs])
    for name, values in known.items():
        figures |= {name: kendall(means, values), f"{name}, Pearson": pearson(means, values)}
    return {name: float(value) for name, value in figures.items()}


def comparison(folder: Path, other: Path) -> dict[str, float]:
    """How two truths of the same subnets agree: differences of the means in points of top-1, and their correlations.

    ``expected deviation`` is that of two samples of the same trainings.
    """
    here, there = (read_json(path, "results")["results"] for path in (folder / "accuracies.json", other))
    names = [name for name in here if name in there and here[name]["arch"] == there[name]["arch"]]
    if len(names) < 3:
        raise SystemExit(f"summary: {folder} and {other} have {len(names)} subnets in common; at least 3 are needed")
    one, two = (100 * np.array([of[name]["acc"] for name in names]) for of in (here, there))
    apart = two.mean(1) - one.mean(1)
    errors = [(table.var(1, ddof=1) / table.shape[1]).mean() for table in (one, two)]
    figures = {
        "subnets": len(names),
        "mean difference": apart.mean(),
        "deviation": apart.std(ddof=1),
        "expected deviation": sum(errors) ** 0.5,
        "Kendall tau": kendall(one.mean(1), two.mean(1)),
        "Pearson": pearson(one.mean(1), two.mean(1)),
    }
    return {name: float(value) for name, value in figures.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds accuracies.json, as train_truth.py writes it")
    parser.add_argument("--with", type=Path, dest="other", metavar="FILE", help="another accuracies.json")
    arguments = parser.parse_args()
    figures = comparison(arguments.folder, arguments.other) if arguments.other else summary(arguments.folder)
    for name, value in figures.items():
        print(f"{name:18} {value:.3f}" if value % 1 else f"{name:18} {value:.0f}")


if __name__ == "__main__":
    main()
