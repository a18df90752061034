"""One HTML page, self-contained: table, pictures, training curves and the configuration that made them."""

from __future__ import annotations

from html import escape
from pathlib import Path

from paddle_pgonas.correlation import Estimate
from paddle_pgonas.files import read_json_lines, write_text
from paddle_pgonas.report.comparison import Comparison, Row
from paddle_pgonas.report.plots import cost_scatter, rank_scatter, training_curves

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d1d1f; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #d8d8de; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } small { color: #5c5c66; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 18rem; }
figcaption { color: #5c5c66; font-size: .9rem; } svg { width: 100%; height: auto; }
pre { background: #f5f5f7; padding: .8rem; overflow-x: auto; font-size: .85rem; }
@media print { body { margin: 0; max-width: none; } figure, table, pre { break-inside: avoid; } }
"""


def write_page(path: str | Path, comparison: Comparison, run: Path | None = None) -> None:
    """Write the report.

    Args:
        run: a training run's folder, whose curves and configuration are shown too.
    """
    sections = [_table(comparison), _pictures(comparison)]
    if run is not None:
        sections.append(_run(run))
    body = "\n".join(sections)
    write_text(
        path,
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>paddle_pgonas report</title><style>{STYLE}</style></head>
<body><h1>Agreement with {escape(comparison.reference)}</h1>
{body}
</body></html>
""",
    )


def _table(comparison: Comparison) -> str:
    rows = "\n".join(_table_row(row) for row in comparison.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
    return f"""<p>Space {escape(comparison.space.name)}. In brackets: 95 % bootstrap intervals over the architectures.
Leaderboard A of the challenge shows |Pearson| x 100, leaderboard B Kendall tau.</p>
<div class="wide"><table>
<thead><tr><th>file</th><th>count</th><th>Pearson x 100</th><th>Kendall tau</th><th>Spearman</th></tr></thead>
<tbody>{rows}</tbody></table></div><ul>{notes}</ul>"""


def _table_row(row: Row) -> str:
    cells = [
        _estimate(row.correlations["pearson"], 100, 2),
        _estimate(row.correlations["kendall"], 1, 3),
        _estimate(row.correlations["spearman"], 1, 3),
    ]
    return f"<tr><td>{escape(row.name)}</td><td>{len(row.scores):,}</td>{''.join(cells)}</tr>"


def _estimate(estimate: Estimate, factor: float, digits: int) -> str:
    value, low, high = (f"{factor * number:.{digits}f}" for number in estimate)
    return f"<td>{value} <small>[{low}, {high}]</small></td>"


def _pictures(comparison: Comparison) -> str:
    first, name = comparison.rows[0], comparison.reference
    figures = [_figure(cost_scatter(first.archs, first.reference, name), f"{name}: what its values say beside mere size")]
    for row in comparison.rows:
        tau = row.correlations["kendall"].value
        figures.append(_figure(rank_scatter(row, name), f"{row.name}: rank against rank, Kendall tau {tau:.3f}"))
    return f'<h2>Cost, and rank against rank</h2><div class="pictures">{"".join(figures)}</div>'


def _figure(svg: str, caption: str) -> str:
    labelled = svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f"<figure>{labelled}<figcaption>{escape(caption)}</figcaption></figure>"


def _run(run: Path) -> str:
    metrics = read_json_lines(run / "metrics.jsonl")
    curves = _figure(training_curves(metrics), "Losses over the steps of the training run") if metrics else "<p>No log.</p>"
    config = run / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.exists() else "no config.yaml"
    return f"<h2>Training run</h2>{curves}<h2>Configuration</h2><pre>{escape(text)}</pre>"
