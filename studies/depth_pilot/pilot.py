"""What makes depth count against a subnet of equal cost? Pairs of equal cost, trained with one change each.

    OMP_NUM_THREADS=1 python studies/depth_pilot/pilot.py run --root IMAGES [--only CHANGE ...]
    python studies/depth_pilot/pilot.py report

``run`` trains what has no result yet (two seeds; the subnets of similar_cost's space, its recipe of 4 epochs) and can be
interrupted; several processes may have different changes. ``report`` rebuilds the README's table.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "truth_trainer"))

import numpy as np
from scipy import stats
from train_truth import Trainer, comparable, recipe

from paddle_pgonas import cli
from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json, write_json, write_text
from paddle_pgonas.priors.cost import macs, params
from paddle_pgonas.runtime import versions
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.named import find_space
from studies.cells import markdown
from studies.document import fill
from studies.similar_cost.make_candidates import draw

HOME = Path(__file__).resolve().parent
SIMILAR_COST = HOME.parent / "similar_cost"
PAIRS, DRAWS, SEEDS = 6, 2000, (0, 1)
DEEPER = 3
"""Blocks more in the deeper subnet of a pair, at least."""
CLOSE = (0.03, 0.05)
"""Largest differences of log FLOPs and log parameters in a pair."""


class Change(NamedTuple):
    """What a variant changes in the recipe of 4 epochs."""

    label: str
    options: tuple[str, ...] = ()
    smoothing: float = 0.0
    closed: bool = False


CHANGES = {
    "none": Change("as the first truth: 4 epochs"),
    "wide": Change("twice the channels in all stages", (f"space={HOME / 'space_wide.yaml'}",)),
    "image": Change("images of 32 pixels", ("data.image_size=32", "data.resize=32")),
    "decay": Change("weight decay 0.0001 instead of 0.0005", ("train.weight_decay=0.0001",)),
    "smoothing": Change("label smoothing .1", smoothing=0.1),
    "closed": Change("last BatchNorm scale of each block begins at 0", closed=True),
    "long": Change("16 epochs", ("train.epochs=16", "train.warmup_epochs=2")),
}


def pairs() -> list[tuple[Arch, Arch]]:
    """Deeper and shallower subnet of each pair, drawn at random from those of equal cost; no subnet is in two pairs."""
    archs = draw(DRAWS)
    size, classes = archs[0].space.image_size, 10
    logs = np.log([[macs(arch, size, classes), params(arch, classes)] for arch in archs])
    blocks = np.array([sum(arch.depths) for arch in archs])
    equal = (np.abs(logs[:, None] - logs) < CLOSE).all(2) & (blocks[:, None] - blocks >= DEEPER)
    listed = [(int(deep), int(shallow)) for deep, shallow in zip(*np.nonzero(equal), strict=True)]
    random.Random(0).shuffle(listed)
    chosen: list[tuple[int, int]] = []
    for pair in listed:
        if len(chosen) < PAIRS and not {*pair} & {one for other in chosen for one in other}:
            chosen.append(pair)
    return [(archs[deep], archs[shallow]) for deep, shallow in chosen]


def run(root: Path, only: list[str]) -> None:
    """Train the pairs with each change and keep each pair's accuracies by change in results/CHANGE.json."""
    chosen = pairs()
    for name in only:
        change, path = CHANGES[name], HOME / "results" / f"{name}.json"
        config = load_config(SIMILAR_COST / "truth.yaml", [f"data.root={root}", "output_dir=runs/depth_pilot", *change.options])
        about = {"recipe": recipe(config) | {"smoothing": change.smoothing, "closed": change.closed}, "seeds": list(SEEDS)}
        record: dict[str, Any] = read_json(path, "results") if path.exists() else about | {"versions": versions(), "pairs": []}
        if comparable(record["recipe"]) != comparable(about["recipe"]):
            raise UserError(f"{path}: made with another recipe; remove it")
        if len(record["pairs"]) == len(chosen):
            print(f"{name}: all {PAIRS} pairs are in {path}")
            continue
        trainer, space = Trainer(config, list(SEEDS), change.smoothing, change.closed), find_space(config.space)
        for pair in chosen[len(record["pairs"]) :]:
            record["pairs"].append([_trained(trainer, space.parse(arch.code)) for arch in pair])
            write_json(path, record)
            deep, shallow = (np.mean(one["acc"]) for one in record["pairs"][-1])
            print(time.strftime("%H:%M:%S"), name, f"{100 * deep:.2f} - {100 * shallow:.2f} %", flush=True)


def _trained(trainer: Trainer, arch: Arch) -> dict[str, Any]:
    return {"arch": arch.code, "blocks": sum(arch.depths), **trainer.train(arch)}


def accuracies(name: str, home: Path = HOME) -> np.ndarray:
    """Mean top-1 in percent of the deeper and the shallower subnet [pairs, 2]."""
    trained = read_json(home / "results" / f"{name}.json", "results")["pairs"]
    return 100 * np.array([[np.mean(one["acc"]) for one in pair] for pair in trained])


def table(home: Path = HOME) -> str:
    """Of the changes of which all pairs are trained: deeper minus shallower, and that minus the same without a change."""
    listed = [name for name in CHANGES if (home / "results" / f"{name}.json").exists()]
    known = {name: found for name in listed if len(found := accuracies(name, home)) == PAIRS}
    gains, rows = {name: found[:, 0] - found[:, 1] for name, found in known.items()}, []
    for name, found in known.items():
        against = "" if name == "none" else _shown(gains[name] - gains["none"])
        rows.append([CHANGES[name].label, f"{found.mean():.1f}", _shown(gains[name]), against])
    return markdown(["change", "mean accuracy, %", "deeper minus shallower, points [95 %]", "minus that without a change"], rows)


def _shown(found: np.ndarray) -> str:
    """Mean over the pairs, with Student's interval."""
    reach = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return f"{found.mean():+.2f} [{found.mean() - reach:+.2f}, {found.mean() + reach:+.2f}]"


def report(home: Path = HOME) -> None:
    """Rebuild the README's table from the results."""
    document = home / "README.md"
    write_text(document, fill(document, document.read_text(encoding="utf-8"), "pairs", table(home)))


def main() -> None:
    """Train or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("run")
    training.add_argument("--root", type=Path, required=True, metavar="IMAGES")
    training.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="CHANGE")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.root, arguments.only)
    else:
        report()


if __name__ == "__main__":
    cli.run(main)
