"""The mini track's evidence: results of its runs, and the tables and pictures that are rebuilt from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import rankdata

from paddle_pgonas import cost
from paddle_pgonas.arch import MINI, Arch
from paddle_pgonas.correlation import Estimate, kendall, pearson
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, read_json_lines, write_json, write_text
from paddle_pgonas.priors import PRIORS
from paddle_pgonas.report.plots import ACCENT, COLORS, INK, STYLE, svg
from paddle_pgonas.submission import Candidate, read_candidates, read_scores, write_scores

METHODS = {
    "baseline": "official baseline (uniform, teacher)",
    "progressive": "progressive shrinking (teacher)",
    "sandwich_relu": "sandwich, ReLU",
    "sandwich_prelu": "sandwich, PReLU",
    "sandwich_mish": "sandwich, Mish",
    "pgonas_flops_constant": "PGONAS, FLOPs, constant weight, PReLU",
    "pgonas_flops_warmup": "PGONAS, FLOPs, rising weight, PReLU",
    "pgonas_zen": "PGONAS, Zen-score, constant weight, Mish",
}
"""Configuration name (configs/mini_track1/<name>.yaml) to what the tables call it, in their order."""

TAUGHT = ("baseline", "progressive")
"""Methods that distil from the stand-alone largest network."""

BN = ("running", "calibrated")
TRUTH_SEEDS = 2
CLASSES = 10
RESAMPLES = 1000

PAIRS = (
    ("sandwich_relu", "baseline"),
    ("progressive", "baseline"),
    ("sandwich_prelu", "sandwich_relu"),
    ("sandwich_mish", "sandwich_relu"),
    ("pgonas_flops_constant", "sandwich_prelu"),
    ("pgonas_flops_warmup", "sandwich_prelu"),
    ("pgonas_flops_warmup", "pgonas_flops_constant"),
    ("pgonas_zen", "sandwich_mish"),
    ("pgonas_flops_warmup", "baseline"),
    ("pgonas_zen", "baseline"),
)
"""Which methods are compared, each with the one that it adds something to."""


def missing_truth(home: Path, seed: int) -> list[Candidate]:
    """The candidates that a seed's truth file lacks; all of them if there is no file yet."""
    path = home / "results" / f"truth-seed{seed}.json"
    known = read_scores(path, MINI) if path.exists() else {}
    return [entry for entry in read_candidates(home / "candidates.json", MINI) if entry.arch.code not in known]


def collect_truth(home: Path, working: Path, seed: int) -> None:
    """Add what stand-alone training left in its working folder to a seed's truth file and its record."""
    path = home / "results" / f"truth-seed{seed}.json"
    record_path = path.with_suffix(".record.json")
    acc = read_scores(path, MINI) if path.exists() else {}
    record = read_json(record_path, "record") if record_path.exists() else {"seconds": {}}
    candidates = read_candidates(home / "candidates.json", MINI)
    for entry in candidates:
        for found in working.glob(f"standalone/*/{entry.arch.code}.json"):
            one = read_json(found, "result")
            if one["config"]["seed"] == seed:
                acc[entry.arch.code] = one["acc"]
                record["seconds"][entry.name] = one["seconds"]
                record |= {"config": _portable(one["config"]), "versions": one["versions"]}
    done = [entry for entry in candidates if entry.arch.code in acc]
    write_scores(path, done, [acc[entry.arch.code] for entry in done])
    write_json(record_path, record)


def collect(folder: Path, method: str, seed: int, result: Path) -> None:
    """Condense a run's folder into one result file: scores, curves per epoch, and what they were made from."""
    record = read_json(folder / f"{BN[0]}.record.json", "record")
    lines = read_json_lines(folder / "metrics.jsonl")
    write_json(
        result,
        {
            "method": method,
            "seed": seed,
            "scores": {bn: read_json(folder / f"{bn}.metrics.json", "metrics") for bn in BN},
            "epochs": _per_epoch(lines),
            "train_seconds": round(sum(line.get("seconds", 0) for line in lines)),
            "versions": record["versions"],
            "config": _portable(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))),
        },
    )


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without the places of files on the machine that ran it."""
    sections = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items() if name != "output_dir"}
    for place in ("root", "cache_dir"):
        del sections["data"][place]
    if sections["train"]["teacher"]:
        sections["train"]["teacher"] = Path(sections["train"]["teacher"]).name
    return sections


def _per_epoch(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means of every logged scalar over each epoch, and the held-out accuracies behind it."""
    epochs: dict[int, dict[str, list[float]]] = {}
    current = 0
    for line in lines:
        current = int(line.get("epoch", current))
        into = epochs.setdefault(current, {})
        for name, value in line.items():
            if name not in ("step", "seconds", "images_per_second"):
                into.setdefault(name, []).append(value)
    return [{name: float(np.mean(values)) for name, values in into.items()} for into in epochs.values()]


@dataclass(frozen=True)
class Track:
    """Everything that the document is made from, arrays in the order of ``candidates.json``."""

    candidates: list[Candidate]
    truth: np.ndarray
    """Stand-alone accuracy, [seeds, candidates]."""
    runs: dict[str, list[dict[str, Any]]]
    """Result files by method, in the order of METHODS and of the seeds."""

    @property
    def archs(self) -> list[Arch]:
        """The candidates' architectures."""
        return [entry.arch for entry in self.candidates]

    def scores(self, method: str, bn: str, metric: str = "top1") -> np.ndarray:
        """Scores of a method's runs, [seeds, candidates]; the loss with its sign turned, so that more is better."""
        sign = -1 if metric == "loss" else 1
        return np.array([[sign * row[metric] for row in run["scores"][bn].values()] for run in self.runs[method]])


def read_track(home: Path) -> Track:
    """Read candidates and results.

    Raises:
        UserError: no whole truth yet, or a result that names other candidates.
    """
    candidates = read_candidates(home / "candidates.json", MINI)
    names, truth = [entry.name for entry in candidates], []
    for path in sorted((home / "results").glob("truth-seed*.json")):
        known = read_scores(path, MINI)
        if lacking := sum(entry.arch.code not in known for entry in candidates):
            raise UserError(f"{path}: lacks {lacking} subnets; go on with: mini_track1.py run --root DIR --only truth")
        truth.append([known[entry.arch.code] for entry in candidates])
    if not truth:
        raise UserError(f"{home / 'results'}: no truth-seed*.json yet; make it with: mini_track1.py run --root DIR --only truth")
    runs: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        for path in sorted((home / "results").glob(f"{method}-seed*.json")):
            run = read_json(path, "result")
            if any(list(scores) != names for scores in run["scores"].values()):
                raise UserError(f"{path}: names other candidates than {home / 'candidates.json'}; remove it and run again")
            runs.setdefault(method, []).append(run)
    return Track(candidates, np.array(truth), runs)


def mean_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall tau with the truth, averaged over the runs: scores [runs, n], truth [n]."""
    return float(np.mean([kendall(row, truth) for row in scores]))


def bootstrap(statistic: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic of candidate positions, resampling the candidates."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def tau_with_interval(scores: np.ndarray, truth: np.ndarray) -> Estimate:
    """:func:`mean_tau` with its interval over the candidates."""
    return Estimate(mean_tau(scores, truth), *bootstrap(lambda at: mean_tau(scores[:, at], truth[at]), len(truth)))


def tau_difference(ours: np.ndarray, theirs: np.ndarray, truth: np.ndarray) -> Estimate:
    """How much more :func:`mean_tau` one method has than another, on the same resampled candidates."""

    def difference(at: np.ndarray) -> float:
        return mean_tau(ours[:, at], truth[at]) - mean_tau(theirs[:, at], truth[at])

    return Estimate(difference(np.arange(len(truth))), *bootstrap(difference, len(truth)))


def write_report(home: Path, docs: Path) -> Path:
    """Rebuild the tables in ``docs/mini_track1.md``, its pictures and the truth's table from the result files.

    Returns the document's path.
    """
    track = read_track(home)
    write_truth(track, home)
    document = docs / "mini_track1.md"
    text = document.read_text(encoding="utf-8")
    for name, table in tables(track).items():
        text = _fill(document, text, name, table)
    write_text(document, text)
    write_pictures(track, docs / "mini_track1")
    return document


def write_truth(track: Track, home: Path) -> None:
    """``truth.csv``: every subnet's cost, mean accuracy, spread and seeds. ``truth.json``: the means, as a truth file."""
    mean, deviation = track.truth.mean(0), track.truth.std(0, ddof=1)
    write_scores(home / "truth.json", track.candidates, mean.tolist())
    seeds = [f"seed{seed}" for seed in range(len(track.truth))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "arch", "depths", "macs", "params", "mean", "deviation", *seeds])
    for number, entry in enumerate(track.candidates):
        arch = entry.arch
        described = [entry.name, arch, " ".join(map(str, arch.depths))]
        costs = [cost.macs(arch, num_classes=CLASSES), cost.params(arch, CLASSES)]
        accs = [mean[number], deviation[number], *track.truth[:, number]]
        table.writerow([*described, *costs, *(f"{acc:.4f}" for acc in accs)])
    write_text(home / "truth.csv", text.getvalue())


def _fill(document: Path, text: str, name: str, table: str) -> str:
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{document}: needs the lines '{begin.strip()}' and '{end}' once each, around the table {name}")
    return text[: text.index(begin) + len(begin)] + table + "\n" + text[text.index(end) :]


def tables(track: Track) -> dict[str, str]:
    """The document's tables as Markdown, by name."""
    return {"truth": _truth_table(track), "methods": _methods_table(track), "differences": _differences_table(track)}


def _truth_table(track: Track) -> str:
    mean = track.truth.mean(0)
    rows = [["stand-alone accuracy, mean over seeds", f"{100 * mean.min():.1f} % to {100 * mean.max():.1f} %"]]
    rows.append(["spread between subnets (standard deviation)", f"{100 * mean.std():.2f} points"])
    if len(track.truth) > 1:
        noise = float(np.sqrt(track.truth.var(0, ddof=1).mean()))
        rows.append(["spread between seeds of one subnet (standard deviation)", f"{100 * noise:.2f} points"])
        ceiling = tau_with_interval(track.truth[:1], track.truth[1])
        rows.append(["noise ceiling: Kendall tau between two seeds", _interval(ceiling)])
    return _markdown(["truth", f"{len(track.archs)} subnets, {len(track.truth)} seeds"], rows)


def _methods_table(track: Track) -> str:
    truth = track.truth.mean(0)
    rows = []
    for method in track.runs:
        taus = {bn: tau_with_interval(track.scores(method, bn), truth) for bn in BN}
        by_loss = mean_tau(track.scores(method, "calibrated", "loss"), truth)
        seeds = [kendall(row, truth) for row in track.scores(method, "calibrated")]
        linear = np.mean([pearson(row, truth) for row in track.scores(method, "calibrated")])
        reached = track.scores(method, "calibrated").mean(0)
        rows.append([
            METHODS[method],
            " ".join(f"{tau:.2f}" for tau in seeds),
            _interval(taus["calibrated"]),
            f"{taus['running'].value:.3f}",
            f"{by_loss:.3f}",
            f"{100 * linear:.1f}",
            f"{100 * reached[0]:.1f} / {100 * reached[-1]:.1f}",
        ])  # fmt: skip
    for name in ("flops", "params", "zen"):
        values = np.array([[PRIORS[name](arch) for arch in track.archs]], dtype=float)
        alone = [f"{name} alone", "", _interval(tau_with_interval(values, truth)), "", ""]
        rows.append([*alone, f"{100 * pearson(values[0], truth):.1f}", ""])
    head = [
        "scores from",
        "tau per seed",
        "tau, calibrated [95 %]",
        "tau, running",
        "tau by loss",
        "Pearson x 100",
        "smallest / largest, %",
    ]
    return _markdown(head, rows)


def _differences_table(track: Track) -> str:
    truth, rows = track.truth.mean(0), []
    for method, other in PAIRS:
        if method in track.runs and other in track.runs:
            found = tau_difference(track.scores(method, "calibrated"), track.scores(other, "calibrated"), truth)
            rows.append([METHODS[method], METHODS[other], _interval(found, signed=True)])
    return _markdown(["method", "against", "difference in tau [95 %]"], rows)


def _interval(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_pictures(track: Track, folder: Path) -> None:
    """``ranks.svg``: rank against rank per method. ``tau.svg``: tau with intervals. ``curves.svg``: weight and disorder."""
    with rc_context(STYLE):
        figures = {"ranks": _ranks_figure(track), "tau": _tau_figure(track), "curves": _curves_figure(track)}
    for name, figure in figures.items():
        write_text(folder / f"{name}.svg", svg(figure))


def _ranks_figure(track: Track) -> Figure:
    """One square per method: rank by the supernet, averaged over the seeds, against rank by stand-alone accuracy."""
    columns, truth = 4, rankdata(track.truth.mean(0))
    rows = max(1, math.ceil(len(track.runs) / columns))
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    for number, method in enumerate(track.runs):
        axes = figure.add_subplot(rows, columns, number + 1)
        ranks = np.mean([rankdata(row) for row in track.scores(method, "calibrated")], axis=0)
        axes.plot([1, len(truth)], [1, len(truth)], color="grey", linewidth=0.8)
        axes.scatter(truth, ranks, s=12, color=INK, linewidths=0)
        axes.set_title(METHODS[method].replace(", ", ",\n", 1), fontsize=8)
        axes.set_aspect("equal")
    figure.supxlabel("rank by stand-alone accuracy", fontsize=10)
    figure.supylabel("rank by supernet (mean over seeds)", fontsize=10)
    return figure


def _tau_figure(track: Track) -> Figure:
    """A line per method: its mean tau, the interval over the subnets, and every seed's tau."""
    truth = track.truth.mean(0)
    figure = Figure(figsize=(7.5, 0.8 + 0.4 * len(track.runs)), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(reversed(track.runs)):
        scores = track.scores(method, "calibrated")
        tau, seeds = tau_with_interval(scores, truth), [kendall(row, truth) for row in scores]
        axes.plot([tau.low, tau.high], [place, place], color=INK, linewidth=1.5)
        axes.scatter([tau.value], [place], s=40, color=INK, zorder=2)
        axes.scatter(seeds, [place] * len(seeds), s=14, color=ACCENT, zorder=3, linewidths=0)
    axes.set_yticks(range(len(track.runs)), [METHODS[method] for method in reversed(track.runs)])
    axes.set_xlabel("Kendall tau with stand-alone accuracy: mean, 95 % interval over subnets, and each seed")
    return figure


def _curves_figure(track: Track) -> Figure:
    """Over the epochs of each PGONAS method's first seed: the weight of the rank loss, and the share of pairs out of order."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = [method for method in track.runs if method.startswith("pgonas")]
    for method, color in zip(ranked, COLORS, strict=False):
        epochs = track.runs[method][0]["epochs"]
        left.plot([epoch.get("rank_lambda", 0) for epoch in epochs], color=color, label=METHODS[method])
        right.plot([epoch.get("pairs_out_of_order", np.nan) for epoch in epochs], color=color)
    left.set(xlabel="epoch", ylabel="weight of the rank loss")
    right.set(xlabel="epoch", ylabel="share of pairs out of order", ylim=(0, 1))
    if ranked:
        left.legend(fontsize=7)
    return figure
