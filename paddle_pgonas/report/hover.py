"""Texts of a picture's points, which the browser shows while the mouse is over a point: the subnet's description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from paddle_pgonas.space.arch import Arch

MOST = 2000
"""Largest number of subnets for which points have texts; more would make the page several times larger."""
RADIUS = 3.5
"""Radius of the sensitive circle around a point, in the SVG's units (1/72 inch of the figure)."""


class Point(NamedTuple):
    """A point in data coordinates of a figure's axes, and its text."""

    x: float
    y: float
    text: str


def millions(macs: float) -> str:
    """Millions of multiply-accumulates as readers write them, to three digits or to the million."""
    return f"{macs:,.0f}" if macs >= 100 else f"{macs:.3g}"


def points(
    archs: Sequence[Arch], macs: np.ndarray, x: np.ndarray, y: np.ndarray, ranks: Sequence[tuple[str, np.ndarray]]
) -> list[Point]:
    """A point per subnet with its code, depths, cost and ranks; none beyond ``MOST`` subnets.

    ``macs`` are in millions. ``ranks`` are a file's name and the subnets' ranks in it, of which 1 is that of the lowest value.
    """
    if len(archs) > MOST:
        return []
    texts = []
    for number, arch in enumerate(archs):
        lines = [arch.code, f"depths {' '.join(map(str, arch.depths))}, {millions(macs[number])} million multiply-accumulates"]
        lines += [f"rank {rank[number]:g} of {len(rank)} in {name}" for name, rank in ranks]
        texts.append("\n".join(lines))
    return list(map(Point, x.tolist(), y.tolist(), texts))


def circles(figure: Figure, shown: Sequence[Point]) -> str:
    """Invisible circles with titles over the points of the figure's axes, for the SVG of the figure that was saved last."""
    if not shown:
        return ""
    pixels = figure.axes[0].transData.transform([point[:2] for point in shown])  # from the lower left corner
    places = pixels * [1, -1] * 72 / figure.dpi + [0, 72 * figure.get_figheight()]
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>\n')
    drawn = (circle.format(*place, RADIUS, point.text) for place, point in zip(places, shown, strict=True))
    return '<g fill="transparent">\n' + "".join(drawn) + "</g>\n"
