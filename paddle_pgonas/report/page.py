"""One HTML page, self-contained: tables, pictures, training curves, and what made them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from paddle_pgonas.correlation import Estimate
from paddle_pgonas.files import write_text
from paddle_pgonas.report.comparison import Comparison, cells, explanation, heads
from paddle_pgonas.report.plots import ERRORS, Picture, svg
from paddle_pgonas.report.plots import pictures as draw_pictures
from paddle_pgonas.report.provenance import Provenance

# On narrow screens a table's rows become cards, each figure beside its heading.
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h1, caption, td:first-child, figcaption, li, p, dd, dt { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; } caption { text-align: left; color: #5c5c66; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid #d8d8de; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; min-width: 7rem; }
small { color: #5c5c66; } td small { display: block; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1.5rem 1rem; }
figure { margin: 0; }
figcaption { color: #5c5c66; font-size: .9rem; } svg { width: 100%; height: auto; }
pre { background: #f5f5f7; padding: .8rem; font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.columns { columns: 15rem; }
@media screen and (max-width: 42rem) {
  thead { position: absolute; left: -999rem; } table, tbody, tr, td, caption { display: block; }
  tr { border-bottom: 2px solid #d8d8de; padding: .4rem 0; }
  td, td:first-child { display: flex; gap: .5rem; border: 0; min-width: 0; padding: .1rem 0; }
  td:first-child { font-weight: bold; } td + td::before { content: attr(data-head); flex: 1; text-align: left; color: #5c5c66; }
  td small { min-width: 8rem; text-align: right; }
}
@media print {
  body { margin: 0; max-width: none; font-size: 10.5pt; } .pictures { grid-template-columns: 1fr 1fr; }
  figure, tr { break-inside: avoid; } h2, h2 + p { break-after: avoid; }
}
"""


def write_page(
    path: str | Path,
    comparison: Comparison,
    pictures: Sequence[Picture] | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write the report.

    Args:
        pictures: drawn beforehand, for instance because they are written as files too; drawn here by default.
        provenance: the training run, versions and commands to show; none by default.

    Raises:
        UserError: the file cannot be written.
    """
    if pictures is None:
        pictures = draw_pictures(comparison, provenance.metrics if provenance else ())
    sections = [_tables(comparison), *_pictures(pictures), *([_provenance(provenance)] if provenance else [])]
    body = "\n".join(sections)
    write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Agreement with {escape(comparison.reference)}</title><style>{STYLE}</style></head>
<body><h1>Agreement with {escape(comparison.reference)}</h1>
{body}
</body></html>
""",
    )


def _tables(comparison: Comparison) -> str:
    columns = heads(comparison)
    agreed = [(row.name, f"{len(row.scores):,}", *_figures(row.estimates)) for row in comparison.rows]
    notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
    text = _table("Each file against the reference", ["file", "count", *columns], agreed)
    differing = [(row.name, *_figures(row.difference, signed=True)) for row in comparison.rows if row.difference is not None]
    if differing:
        caption = f"Difference to {comparison.rows[0].name}: above 0 agrees better; bold where the interval leaves out 0"
        text += _table(caption, ["file", *columns], differing)
    if notes:
        text += f"<ul>{notes}</ul>"
    return f"<p>Space {escape(comparison.space.name)}. {escape(' '.join(explanation(comparison)))}</p>{text}"


def _figures(estimates: dict[str, Estimate], signed: bool = False) -> list[str]:
    """The statistics as HTML; a difference is bold where it is clear."""
    found = []
    for estimate, (value, interval) in zip(estimates.values(), cells(estimates, signed), strict=True):
        clear = signed and (estimate.low > 0 or estimate.high < 0)
        found.append(f"{f'<b>{value}</b>' if clear else value} <small>{interval}</small>")
    return found


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is plain text and whose other cells are HTML."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{_cells(columns, row)}</tr>\n" for row in rows)
    return f"<table><caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _cells(columns: Sequence[str], row: Sequence[str]) -> str:
    rest = "".join(f'<td data-head="{escape(head)}">{cell}</td>' for head, cell in zip(columns[1:], row[1:], strict=True))
    return f"<td>{escape(row[0])}</td>{rest}"


def _pictures(pictures: Sequence[Picture]) -> list[str]:
    sections = []
    shown = tqdm(pictures, desc="page", unit="picture", delay=2)
    for section, of_section in groupby(shown, lambda picture: picture.section):
        figures = "".join(_figure(picture) for picture in of_section)
        note = ""
        if section == ERRORS:
            note = "<p>Mean of (rank in the file - rank in the reference), with 95 % intervals: 0 where a file is fair.</p>"
        sections.append(f'<h2>{escape(section)}</h2>{note}<div class="pictures">{figures}</div>')
    return sections


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    labelled = svg(picture.figure).replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)
    return f"<figure>{labelled}<figcaption>{caption}</figcaption></figure>"


def _provenance(provenance: Provenance) -> str:
    parts = ["<h2>How to do it again</h2>", f"<pre>{escape((2 * chr(10)).join(provenance.commands))}</pre>"]
    if provenance.facts:
        facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(_listed(values))}</dd>" for name, values in provenance.facts.items())
        parts.append(f"<h2>Versions and settings</h2><dl>{facts}</dl>")
    if provenance.config:
        parts.append(f'<h2>Configuration of the run</h2><pre class="columns">{escape(provenance.config)}</pre>')
    return "\n".join(parts)


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
