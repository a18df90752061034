"""Draws README's picture from a run of the demo: ``make demo``, then ``python docs/build_picture.py``."""

import sys
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import rankdata

import paddle_pgonas as pg
from paddle_pgonas.io.files import write_text
from paddle_pgonas.report.plots import STYLE, svg
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scores.files import read_candidates, read_scores

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["#1d4e89", "#00a1a7", "#f2a541"]
PALE = ["#d3dfec", "#cfeced", "#fcead0"]
ACCENT = "#c8323c"
SHOWN = ["arch22", "arch29", "arch13"]
"""The subnets that are drawn."""


def network(axes, space, arch, base, colors=STAGES):
    """A bar for each block, as high as the block has channels; stages by colour, a place for each block that is not there."""
    x, blocks = 0.0, {block.index: block for block in arch.blocks}
    for color, first, depth in zip(colors, space.first_blocks, space.max_depths, strict=False):
        for index in range(first, first + depth):
            if index in blocks:
                axes.bar(x, blocks[index].c_mid, 0.8, bottom=base, color=color, linewidth=0)
            x += 1
        x += 0.5


def titled(axes, title, text):
    axes.set_title(f"$\\bf{{{title}}}$\n{text}", fontsize=10, loc="left", linespacing=1.4)
    axes.spines[["top", "right"]].set_visible(False)


def draw(space, archs, scores, truth):
    """The four steps side by side, from candidates to the agreement of two rankings."""
    figure = Figure(figsize=(12.6, 3.4), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(wspace=0.04)
    one, two, three, four = figure.subplots(1, 4)
    high = space.bases[-1] + 3

    titled(one, "1.\\ Candidates", "differ in depth (number of bars)\nand in width (their height)")
    for place, name in enumerate(SHOWN):
        network(one, space, archs[name], high * (2 - place))
        one.text(-2, high * (2 - place) + 3, "ABC"[place], fontsize=12, color=ACCENT)
    titled(two, "2.\\ One\\ supernet", "holds them all, trained once\n(solid: the part that is A)")
    network(two, space, space.largest, high, PALE)
    network(two, space, archs[SHOWN[0]], high)
    for axes in (one, two):
        axes.set(xlim=(-2.5, 13.5), ylim=(0, 3 * high))
        axes.set_axis_off()

    titled(three, "3.\\ Scores", "accuracy with the supernet's weights,\nwithout training the candidate")
    values = [100 * scores[name] for name in SHOWN]
    three.barh(list("ABC"), values, color=STAGES[0], height=0.5)
    for place, value in enumerate(values):
        three.text(value + 2, place, f"{value:.0f} %", va="center", fontsize=10)
    three.invert_yaxis()
    three.set_xlim(0, 100)
    three.spines["bottom"].set_visible(False)
    three.tick_params(bottom=False, labelbottom=False, left=False, labelsize=12, labelcolor=ACCENT)

    names = sorted(truth)
    ours, alone = rankdata([scores[name] for name in names]), rankdata([truth[name] for name in names])
    tau = kendall(ours, alone)
    titled(
        four, "4.\\ Agreement", f"{(1 + tau) / 2:.0%} of all pairs in the right order:\nKendall tau {tau:.2f} (1: all, 0: half)"
    )
    four.plot([1, len(names)], [1, len(names)], color="#bbbbbb", linewidth=0.8)
    four.scatter(alone, ours, s=12, color=STAGES[0], linewidths=0)
    for place, name in enumerate(SHOWN):
        at = names.index(name)
        four.scatter(alone[at], ours[at], s=30, color=ACCENT, linewidths=0)
        four.annotate("ABC"[place], (alone[at], ours[at]), textcoords="offset points", xytext=(5, 3), fontsize=12, color=ACCENT)
    four.set_xlabel("rank when trained alone (highest: best)", fontsize=9)
    four.set_ylabel("rank by score", fontsize=9)
    four.tick_params(labelsize=8)
    return figure


def main():
    run = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs/demo")
    space = pg.load_config(run / "config.yaml").search_space
    candidates = read_candidates(run / "candidates.json", space)
    archs = {candidate.name: candidate.arch for candidate in candidates}
    scores, truth = (
        {name: values[arch.code] for name, arch in archs.items()}
        for values in (read_scores(path, space) for path in (run / "submission.json", ROOT / "studies/demo/truth.json"))
    )
    with rc_context({**STYLE, "axes.grid": False, "svg.fonttype": "path", "text.parse_math": True}):
        figure = draw(space, archs, scores, truth)
        write_text(ROOT / "docs/images/overview.svg", svg(figure))
        if len(sys.argv) > 2:
            figure.savefig(sys.argv[2], dpi=110)


if __name__ == "__main__":
    main()
