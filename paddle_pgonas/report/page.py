"""One self-contained HTML page: tables, pictures, training curves, versions and commands; the template is ``page.html``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from paddle_pgonas.errors import printable
from paddle_pgonas.io.files import write_text
from paddle_pgonas.progress import progress
from paddle_pgonas.report.comparison import Comparison
from paddle_pgonas.report.hover import millions
from paddle_pgonas.report.labels import TRUTH
from paddle_pgonas.report.plots import ERRORS, TRAINING, Picture, svg
from paddle_pgonas.report.plots import pictures as draw_pictures
from paddle_pgonas.report.provenance import Provenance
from paddle_pgonas.report.words import cells, differing, explanation, heads, listed, verdict
from paddle_pgonas.scores.correlation import Estimate

Cell = tuple[str, str, bool]
"""A figure, its interval, and whether it is bold."""
Table = tuple[str, list[str], list[tuple[str, list[Cell]]]]
"""Caption, headings, and rows: a name and a cell per further heading."""


def write_page(
    path: str | Path, comparison: Comparison, pictures: Sequence[Picture] | None = None, provenance: Provenance | None = None
) -> None:
    """Write the report, with the training run, versions and commands of ``provenance`` if it is given.

    ``pictures`` are drawn pictures, for example if they are also written as files; by default they are drawn here. Raises
    UserError if the file cannot be written.
    """
    if pictures is None:
        pictures = draw_pictures(comparison, provenance.metrics if provenance else ())
    shown = groupby(progress(pictures, "page", "pictures"), lambda picture: picture.section)
    loader = PackageLoader("paddle_pgonas.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              finalize=_shown)  # fmt: skip
    page = environment.get_template("page.html").render(
        comparison=comparison,
        title=f"Ranking by {listed([row.name for row in comparison.rows])}, against {comparison.reference}",
        verdict=verdict(comparison),
        explanation=" ".join(explanation(comparison)),
        tables=_tables(comparison),
        best=_best(comparison),
        shared=_shared(comparison),
        sections=((section, map(_figure, of_section)) for section, of_section in shown),
        ERRORS=ERRORS,
        TRAINING=TRAINING,
        provenance=provenance,
    )
    write_text(path, page)


def _shown(value: object) -> object:
    """A text of the page with the control characters of foreign files escaped."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def _tables(comparison: Comparison) -> list[Table]:
    columns = heads(comparison)
    agreed = [(row.name, [(f"{len(row.scores):,}", "", False), *_figures(row.estimates)]) for row in comparison.rows]
    tables: list[Table] = [(f"Agreement with {comparison.reference}", ["scores", "subnets", *columns], agreed)]
    if shown := [(name, _figures(difference, signed=True)) for name, difference in differing(comparison)]:
        caption = f"Difference to {comparison.rows[0].name}: above 0 ranks better; bold if the interval excludes 0"
        tables.append((caption, ["scores", *columns], shown))
    return tables


def _best(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """A table of the best subnets of each file: what it is, headings, rows."""
    tables = []
    for best in comparison.best:
        with_truth = best.name != comparison.reference and any(truth is not None for truth in best.truths)
        columns = ["code", "depths", "million MACs", "score", *([TRUTH] if with_truth else [])]
        macs = comparison.macs([entry.arch for entry in best.entries])
        rows = []
        for entry, cost, truth in zip(best.entries, macs, best.truths, strict=True):
            accuracy = ["-" if truth is None else f"{truth:.4g}"] if with_truth else []
            rows.append([entry.arch.code, " ".join(map(str, entry.arch.depths)), millions(cost), f"{entry.acc:.4g}", *accuracy])
        tied = f"; {best.tied:,} more have the last one's score" if best.tied else ""
        tables.append((f"{best.name}: the best {len(rows)}{tied}", columns, rows))
    return tables


def _shared(comparison: Comparison) -> list[list[str]]:
    """How many of the best each file shares with each other one: a row of names, then one of numbers for each file."""
    names = [best.name for best in comparison.best]
    numbers = {pair: f"{shared.same} of {shared.of}" for pair, shared in comparison.shared.items()}
    return [names, *([numbers.get((row, column)) or numbers.get((column, row), "") for column in names] for row in names)]


def _figures(estimates: dict[str, Estimate], signed: bool = False) -> list[Cell]:
    """The statistics; a difference is bold if its interval excludes 0."""
    shown = zip(estimates.values(), cells(estimates, signed), strict=True)
    return [(value, interval, signed and (estimate.low > 0 or estimate.high < 0)) for estimate, (value, interval) in shown]


def _figure(picture: Picture) -> tuple[str, Markup]:
    """A picture's caption, and the picture with it as text alternative."""
    label = Markup('<svg role="img" aria-label="{}"').format(picture.caption)
    return picture.caption, Markup(svg(picture.figure, picture.points).replace("<svg", label, 1))
