"""Writes truth.json and accuracies.csv from the trainings of all complete seeds, and prints how exact the truth is.

python benchmarks/demo/collect.py RESULTS
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from paddle_pgonas.arch import MINI
from paddle_pgonas.correlation import attainable_kendall, kendall
from paddle_pgonas.files import read_json, write_json
from paddle_pgonas.priors import make_prior
from paddle_pgonas.submission import read_candidates, read_scores

HOME = Path(__file__).resolve().parent
SIDE, CLASSES = 8, 10


def collect(folder: Path) -> np.ndarray:
    """Write both files, and return the accuracies [seeds, subnets]; a seed that lacks subnets is left out."""
    runs = sorted(folder.glob("truth-seed*[0-9].json"), key=lambda path: int(path.stem.removeprefix("truth-seed")))
    subnets = {entry.arch.code: entry.name for entry in read_candidates(runs[0], MINI)}
    scores = [read_scores(path, MINI) for path in runs]
    table = np.array([[run[code] for code in subnets] for run in scores if set(run) == set(subnets)])
    with (HOME / "accuracies.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "arch", *(f"seed {seed}" for seed in range(len(table)))])
        for (code, name), accs in zip(subnets.items(), table.T.tolist(), strict=True):
            writer.writerow([name, code, *(f"{acc:.6f}" for acc in accs)])
    write_json(HOME / "truth.json", truth(list(subnets.items()), table))
    record = read_json(runs[0].with_suffix(".record.json"), "record")
    write_json(HOME / "truth.record.json", {name: record[name] for name in ("recipe", "versions")})
    return table


def truth(subnets: list[tuple[str, str]], table: np.ndarray) -> dict[str, dict[str, object]]:
    """Each subnet's mean accuracy and its standard error over the seeds, of the accuracies [seeds, subnets]."""
    means, errors = table.mean(0), table.std(0, ddof=1) / len(table) ** 0.5
    return {
        name: {"acc": round(float(acc), 6), "arch": code, "std_error": round(float(error), 6)}
        for (code, name), acc, error in zip(subnets, means, errors, strict=True)
    }


def summary() -> dict[str, float]:
    """The figures of README.md: percentage points, and Kendall tau."""
    with (HOME / "accuracies.csv").open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    table = 100 * np.array([[float(acc) for acc in row[2:]] for row in rows]).T
    archs, means = [MINI.parse(row[1]) for row in rows], table.mean(0)
    errors = table.std(0, ddof=1) / len(table) ** 0.5
    noise = float(table.var(0, ddof=1).mean()) ** 0.5
    error = noise / len(table) ** 0.5
    figures = {
        "subnets": len(archs),
        "seeds": len(table),
        "lowest": means.min(),
        "highest": means.max(),
        "seed noise": noise,
        "standard error": error,
        "spread": max(0.0, float(means.var(ddof=1)) - error**2) ** 0.5,
        "noise ceiling": attainable_kendall(means, errors),
    }
    for name in ("flops", "params", "zen"):
        prior = make_prior(name, MINI, SIDE, CLASSES)
        figures[name] = kendall(means, np.array([prior(arch) for arch in archs]))
    return figures | {"blocks": kendall(means, np.array([sum(arch.depths) for arch in archs]))}


def main() -> None:
    """Write the files and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the folder of truth-seed<S>.json, as benchmarks/torch_truth writes them")
    collect(parser.parse_args().results)
    for name, value in summary().items():
        print(f"{name:15} {value:.3f}" if value % 1 else f"{name:15} {value}")


if __name__ == "__main__":
    main()
