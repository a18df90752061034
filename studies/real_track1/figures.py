"""How rankings agree with published stand-alone accuracies of Track 1, and what these make of depth.

    python studies/real_track1/figures.py --truth gt_arch30.json [SCORES ...]

The truth is a file in the candidates' format; the README beside this file says where the one of Track 1 is published. Costs and
their sums are always shown, and any files of scores that name all of its subnets. Without -c or the options the space is Track 1,
with 224 pixels and 1,000 classes. --record keeps the figures, without any accuracy, as figures.json, and rebuilds the README's
tables from them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json, write_json, write_text
from paddle_pgonas.priors.by_name import COSTS, combined, make_prior, terms
from paddle_pgonas.priors.cost import setting
from paddle_pgonas.report.labels import file_names
from paddle_pgonas.scores.correlation import Estimate, correlate
from paddle_pgonas.scores.files import read_scored, read_scores
from paddle_pgonas.space.arch import TRACK1, Arch, SearchSpace
from studies.cells import interval, markdown, prior_label
from studies.depth import Depth, depth, structure
from studies.document import fill

HOME = Path(__file__).resolve().parent
REFERENCE = "flops+params"
"""The ranking that the others are compared with."""
PER_COEFFICIENT = 2
"""Subnets for each coefficient of the model of stages, at least, as its errors come from what is left."""
RANKINGS = ("flops", "params", "blocks", "zen", REFERENCE, "flops+zen", "params+zen", "flops+params+zen")


def rankings(archs: list[Arch], space: SearchSpace, image_size: int, classes: int) -> dict[str, np.ndarray]:
    """Costs, depth and their sums by label, all [subnets], larger for the better; costs as logarithms."""
    known = {"blocks": np.array([float(sum(arch.depths)) for arch in archs])}
    for name in ("flops", "params", "zen"):
        known[name] = np.array(list(map(make_prior(name, space, image_size, classes), archs)), dtype=float)
    found = {name: combined({term: known[term] for term in terms(name)}) for name in RANKINGS}
    return {prior_label(name): np.log(values) if name in COSTS else values for name, values in found.items()}


def agreement(truth: np.ndarray, ranked: dict[str, np.ndarray]) -> dict[str, Any]:
    """Kendall tau and Pearson of each ranking, and its tau minus the reference's, each ``[value, low, high]``."""
    found = {name: correlate(truth, values) for name, values in ranked.items()}
    reference = found[prior_label(REFERENCE)]
    return {
        name: {
            "kendall": list(of.estimates()["kendall"]),
            "pearson": list(of.estimates()["pearson"]),
            "minus the reference": None if of is reference else list(of.minus(reference)["kendall"]),
        }
        for name, of in found.items()
    }


def scores_of(path: str, space: SearchSpace, archs: list[Arch]) -> np.ndarray:
    """A file's scores of these architectures. Raises UserError if it lacks one, or if all are equal."""
    known = read_scores(path, space)
    if lacking := [arch for arch in archs if arch.code not in known]:
        raise UserError(f"{path}: lacks {len(lacking)} of the truth's {len(archs)} subnets, first {lacking[0]}; score them too")
    scores = np.array([known[arch.code] for arch in archs])
    if np.ptp(scores) == 0:
        raise UserError(f"{path}: every score is {scores[0]:g}, which is no ranking; is it a candidate file?")
    return scores


def labelled(paths: list[str], taken: Iterable[str]) -> dict[str, str]:
    """The files by label: the name without its ending, or as much of the path as tells it from others and from ``taken``."""
    short = [name.removesuffix(".json") for name in file_names(paths)]
    return {path if name in taken else name: path for name, path in zip(short, paths, strict=True)}


def tables(figures: dict[str, Any]) -> dict[str, str]:
    """The figures as Markdown, by name."""
    head = ["ranking by", "Kendall tau [95 %]", "Pearson [95 %]", f"tau minus that of {prior_label(REFERENCE)} [95 %]"]
    rows = [
        [name, _shown(of["kendall"]), _shown(of["pearson"]), _shown(of["minus the reference"], signed=True)]
        for name, of in figures["rankings"].items()
    ]
    found = Depth(*figures["depth"])
    lines = _coefficients(found.coefficients)
    lines.append([f"share of the {found.pairs} pairs of equal cost that the deeper subnet wins", _shown(found.wins)])
    head_of_models = [f"{figures['subnets']} subnets", "value +- standard error [95 %]"]
    models = {"depth": lines, "structure": _coefficients(figures["structure"])}
    return {"rankings": markdown(head, rows)} | {name: markdown(head_of_models, of) for name, of in models.items()}


def _coefficients(found: dict[str, Any]) -> list[list[str]]:
    shown = "{:+.3f} +- {:.3f} [{:+.3f}, {:+.3f}]"
    return [[f"coefficient of {name}", shown.format(*of)] for name, of in found.items()]


def _shown(estimate: Sequence[float] | None, signed: bool = False) -> str:
    return interval(None if estimate is None else Estimate(*estimate), signed)


def record(figures: dict[str, Any], home: Path = HOME) -> None:
    """Keep the figures, and rebuild the tables of the README in this folder."""
    write_json(home / "figures.json", figures)
    document = home / "README.md"
    text = document.read_text(encoding="utf-8")
    for name, table in tables(read_json(home / "figures.json", "figures")).items():
        text = fill(document, text, name, table)
    write_text(document, text)


@cli.command
def main() -> None:
    """Print the tables."""
    parser = cli.Parser(__doc__)
    parser.add_argument("scores", nargs="*", type=cli.InputFile, metavar="SCORES", help="submissions, or priors' files")
    parser.add_argument("--truth", type=cli.InputFile, required=True, metavar="FILE", help="stand-alone accuracies")
    parser.add_argument("--record", action="store_true", help="keep the figures")
    cli.add_setting(parser)
    arguments = parser.parse_args()
    space, image_size, classes, _ = cli.setting_of(parser, arguments)
    space = space or TRACK1
    image_size, classes, _ = setting(space, image_size, classes)
    candidates = read_scored(arguments.truth, space)
    archs, truth = [entry.arch for entry in candidates], np.array([entry.acc for entry in candidates])
    least = PER_COEFFICIENT * 2 * len(space.bases)
    if len(archs) < least or np.ptp(truth) == 0:
        raise UserError(
            f"{arguments.truth}: must hold at least {least} subnets with different accuracies; is it a candidate file?"
        )
    ranked = rankings(archs, space, image_size, classes)
    ranked |= {name: scores_of(path, space, archs) for name, path in labelled(arguments.scores, ranked).items()}
    macs, params = (np.exp(ranked[prior_label(name)]) for name in COSTS)
    figures = {
        "subnets": len(archs),
        "space": space.name,
        "image_size": image_size,
        "classes": classes,
        "rankings": agreement(truth, ranked),
        "depth": depth(truth, ranked["blocks"], macs, params),
        "structure": structure(truth, archs),
    }
    if arguments.record:
        record(figures)
    print("\n\n".join(tables(figures).values()))


if __name__ == "__main__":
    main()
