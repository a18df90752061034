"""A study's documents: their tables and pictures, and the table of the truth, rebuilt from its results."""

from __future__ import annotations

import csv
import io
from collections.abc import Container
from pathlib import Path

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_text
from paddle_pgonas.priors import cost
from paddle_pgonas.scores.files import write_scores
from studies.pictures import FIGURES, write_picture
from studies.results import Results, read_results
from studies.study import HALVES, Study
from studies.tables import TABLES


def write_report(study: Study) -> list[Path]:
    """Rebuild the tables in the study's documents, its pictures and the truth's table from the result files.

    Returns the documents' paths.

    Raises:
        UserError: a table has no place in the documents, or two.
    """
    results = read_results(study)
    if study.truth is not None:
        write_truth(results)
    texts = {path: path.read_text(encoding="utf-8") for path in study.documents}
    for name, table in tables(results).items():
        path = _place(study, texts, name)
        texts[path] = fill(path, texts[path], name, table)
    written = [path for path in study.documents if "<!-- begin " in texts[path]]
    for path in written:
        write_text(path, texts[path])
    for picture in study.pictures:
        write_picture(*_shown(results, picture, FIGURES), study.path("pictures") / f"{picture.replace(' ', '-')}.svg")
    return written


def _place(study: Study, texts: dict[Path, str], name: str) -> Path:
    """The one of a study's documents that has a place for this table."""
    places = [path for path, text in texts.items() if _begin(name) in text]
    if len(places) != 1:
        found = f"has {len(places)}, in {', '.join(path.name for path in places)}" if places else "has none"
        raise UserError(f"{study.path('README.md')}: the table {name} needs one place in this folder's documents, and {found}")
    return places[0]


def write_truth(results: Results) -> None:
    """``truth.csv`` as a table (:func:`truth_csv`) and ``truth.json``, the means as a truth file for the tools."""
    write_scores(results.study.path("truth.json"), results.candidates, results.mean_truth.tolist())
    write_text(results.study.path("truth.csv"), truth_csv(results))


def truth_csv(results: Results) -> str:
    """Every subnet's cost, mean accuracy, its deviation over the seeds, and every seed's accuracy."""
    mean, deviation, classes = results.mean_truth, results.truth.std(0, ddof=1), results.config.model.num_classes
    seeds = [f"seed{seed}" for seed in range(len(results.truth))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "arch", "depths", "macs", "params", "mean", "deviation", *seeds])
    for number, entry in enumerate(results.candidates):
        arch = entry.arch
        described = [entry.name, arch, " ".join(map(str, arch.depths))]
        costs = [cost.macs(arch, results.config.data.image_size, classes), cost.params(arch, classes)]
        accs = [mean[number], deviation[number], *results.truth[:, number]]
        table.writerow([*described, *costs, *(f"{acc:.4f}" for acc in accs)])
    return text.getvalue()


def fill(document: Path, text: str, name: str, table: str) -> str:
    """The ``text`` of a document with the table of this name replaced. Raises UserError if it has no place, or two."""
    begin, end = _begin(name), f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{document}: needs the lines '{begin.strip()}' and '{end}' once each, around the table {name}")
    return text[: text.index(begin) + len(begin)] + table + "\n" + text[text.index(end) :]


def _begin(name: str) -> str:
    return f"<!-- begin {name} -->\n"


def tables(results: Results) -> dict[str, str]:
    """The documents' tables as Markdown, by name."""
    made = {}
    for listed in results.study.tables:
        part, name = _shown(results, listed, TABLES)
        made[listed] = TABLES[name](part)
    return made


def _shown(results: Results, listed: str, known: Container[str]) -> tuple[Results, str]:
    """The part of a study that a table or picture named ``<name> [<regime>] [<half>] [<further truth>]`` shows, and the name.

    Raises:
        UserError: the name is not one of ``known``, or one of the other words is none of these.
    """
    name, *words = listed.split()
    if name not in known or not {*results.study.regimes, *HALVES, *results.study.further_truths}.issuperset(words):
        raise UserError(f"the study's tables and pictures: there is no {listed}")

    def among(names: Container[str]) -> str | None:
        return next((word for word in words if word in names), None)

    return results.part(among(results.study.regimes), among(HALVES) or "", among(results.study.further_truths) or ""), name
