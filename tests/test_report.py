"""The report page and its pictures: self-contained, readable in a real browser, with correct figures and points."""

from __future__ import annotations

import html
import json
import math
import random
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import Elements
from scipy.stats import rankdata

from paddle_pgonas.report.comparison import Comparison, compare
from paddle_pgonas.report.hover import MOST, Point, millions, points
from paddle_pgonas.report.page import write_page
from paddle_pgonas.report.plots import ERRORS, by_depth, by_width, pictures, rank_errors, svg, write_plots
from paddle_pgonas.report.provenance import Provenance, read_provenance
from paddle_pgonas.report.words import verdict
from paddle_pgonas.runtime import own_version
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.space.arch import MINI

pytestmark = pytest.mark.usefixtures("few_resamples")
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
NAMES = ["a_name_" + "that_is_long_" * 8 + "<b>&awkward.json", "b.json"]
CONFIG = "output_dir: <here> & there\ntrain:\n  lr: 1.0\n" + f"data:\n  root: /{'long' * 40}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as the trainer leaves it, with keys that older logs lack."""
    folder = tmp_path_factory.mktemp("run")
    lines = [
        {"step": step, "loss/largest": 2 / step, "loss/smallest": 3 / step, "rank_lambda": 0.1 * step, "lr": 0.1, "seconds": 1}
        for step in range(1, 61)
    ]
    lines[9] |= {"heldout/largest": 0.5, "heldout/smallest": 0.4, "kendall/flops": 0.3}
    lines[-1] |= {"heldout/largest": 0.6, "heldout/smallest": 0.5, "kendall/flops": 0.4, "pairs_out_of_order": math.nan}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A truth file and two score files; the first over-rates architectures by the depth of stage 2, the second guesses."""
    folder, rng = tmp_path_factory.mktemp("scores"), np.random.default_rng(0)
    archs = list(dict.fromkeys(MINI.sample(random.Random(seed)) for seed in range(120)))
    truth = rng.random(len(archs))
    depths = np.array([arch.depths[1] for arch in archs])
    paths = [str(folder / name) for name in ("truth.json", *NAMES)]
    for path, values in zip(paths, (truth, truth + depths, rng.random(len(archs))), strict=True):
        candidates = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs)]
        write_scores(path, candidates, values.tolist())
    record = {"acc": "top1", "versions": {"paddle": "9.8.7"}, "command": "python tools/write_submission.py --weights 'a b'"}
    Path(paths[1]).with_suffix(".record.json").write_text(json.dumps(record))
    return paths


@pytest.fixture(scope="module")
def comparison(files: list[str]) -> Comparison:
    return compare(files[1:], files[0])


@pytest.fixture(scope="module")
def provenance(files: list[str], run: Path) -> Provenance:
    return read_provenance(run, files[1:], "python tools/compare.py <these>")


@pytest.fixture(scope="module")
def page_path(comparison: Comparison, provenance: Provenance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, comparison, pictures(comparison, provenance.metrics), provenance)
    return path


@pytest.fixture(scope="module")
def page(page_path: Path) -> str:
    return page_path.read_text(encoding="utf-8")


def test_the_page_fetches_nothing(page: str) -> None:
    elements = Elements(page)
    links = ("src", "href", "xlink:href")
    targets = [attributes[name] for _, attributes in elements.tags for name in links if name in attributes]
    assert targets  # the pictures' points are images inside the page
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements.tags}
    assert "@import" not in page
    assert page.count("url(") == page.count("url(#")


def test_every_picture_says_in_words_what_it_shows(page: str, comparison: Comparison) -> None:
    labels = Elements(page).pictures()
    assert len(labels) == page.count("<svg") == len(set(labels))
    for name in (comparison.reference, *(row.name for row in comparison.rows)):
        assert sum(name in label for label in labels) >= 1


def test_points_tell_their_subnet_when_the_mouse_is_over_them(page: str, comparison: Comparison) -> None:
    texts = [html.unescape(text) for text in re.findall("<title>([^<]*)</title></circle>", page)]
    assert len(texts) == len(comparison.rows[0].archs) * (
        2 * len(comparison.rows) + 1
    )  # ranks and costs of both, the truth's costs
    for row in comparison.rows:
        x, y = rankdata(row.reference), rankdata(row.scores)
        for number, arch in enumerate(row.archs):
            [text] = [text for text in texts if text.startswith(arch.code) and text.count("rank ") == 2 and row.name in text]
            _, depths, *ranks = text.splitlines()
            assert " ".join(map(str, arch.depths)) in depths
            assert ranks == [f"rank {x[number]:g} of {len(x)} in the truth", f"rank {y[number]:g} of {len(y)} in {row.name}"]


def test_the_texts_lie_over_their_points() -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    places = [(1.0, 30.0), (2.0, 10.0), (4.0, 20.0)]
    figure.subplots().plot(*zip(*places, strict=True), gid="drawn")
    text = svg(figure, [Point(x, y, f"<{x}>") for x, y in places])
    path = text[text.index('id="drawn"') :].split(' d="')[1].split('"')[0]
    drawn = [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", path)]
    circles = [tuple(map(float, pair)) for pair in re.findall(r'cx="(\S+)" cy="(\S+)"', text)]
    assert np.allclose(circles, drawn, atol=0.06)
    assert re.findall("<title>(.*)</title>", text) == ["&lt;1.0&gt;", "&lt;2.0&gt;", "&lt;4.0&gt;"]


@pytest.mark.parametrize(("macs", "text"), [(0.07412, "0.0741"), (42.42, "42.4"), (3614.2, "3,614")])
def test_costs_are_written_without_powers_of_ten(macs: float, text: str) -> None:
    assert millions(macs) == text


def test_many_points_have_no_texts() -> None:
    archs = [MINI.largest] * (MOST + 1)
    ranks = np.arange(1.0, MOST + 2)
    assert points(archs, ranks, ranks, ranks, []) == []
    assert len(points(archs[:MOST], ranks[:MOST], ranks[:MOST], ranks[:MOST], [])) == MOST


def test_the_page_opens_with_the_verdict(page: str, comparison: Comparison) -> None:
    words = Elements(page).words
    assert words.index(verdict(comparison)) < words.index("Space mini")


def test_the_page_shows_figures_and_notes_and_escapes_names(page: str, comparison: Comparison) -> None:
    elements = Elements(page)
    first, second = comparison.rows
    assert not any(tag == "b" and "&awkward" in str(attributes) for tag, attributes in elements.tags)
    assert NAMES[0] in elements.words
    assert f"{100 * first.estimates['pearson'].value:.2f}" in elements.words
    assert second.difference is not None
    assert f"{second.difference['kendall'].value:+.3f}" in elements.words


def test_the_same_comparison_makes_the_same_page(
    page: str, comparison: Comparison, provenance: Provenance, tmp_path: Path
) -> None:
    write_page(tmp_path / "again.html", comparison, pictures(comparison, provenance.metrics), provenance)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_run_adds_its_curves_configuration_versions_and_commands(page: str, run: Path) -> None:
    elements = Elements(page)
    labels = " ".join(elements.pictures())
    for what in ("Losses per kind", "lambda", "Learning rate", "held out", "Kendall tau of a sample"):
        assert what in labels
    assert "Norm of the gradient" not in labels  # which this log lacks
    assert "output_dir: <here> & there" in elements.words
    assert "paddle 9.8.7" in elements.words
    assert f"tools/train_supernet.py -c {run}/config.yaml" in elements.words
    assert "python tools/write_submission.py --weights 'a b'" in elements.words
    assert "tools/compare.py <these>" in elements.words


def test_the_page_tells_when_and_with_what_it_and_its_run_were_made(page: str, provenance: Provenance) -> None:
    words = Elements(page).words
    assert f"{datetime.now():%Y}" in provenance.made and provenance.made in words
    for version in own_version().values():
        assert version in provenance.made


def test_the_page_lists_the_best_subnets_with_their_truth(page: str, comparison: Comparison) -> None:
    words = Elements(page).words
    for best in comparison.best:
        for entry, truth in zip(best.entries, best.truths, strict=True):
            told = words[words.index(entry.arch.code) :]
            assert f"{entry.acc:.4g}" in told and truth is not None and f"{truth:.4g}" in told


def test_without_a_truth_no_file_is_shown_to_be_wrong(comparison: Comparison, files: list[str]) -> None:
    assert ERRORS in {picture.section for picture in pictures(comparison)}
    assert ERRORS not in {picture.section for picture in pictures(compare(files))}


def test_without_a_run_the_page_has_no_training_section(comparison: Comparison, tmp_path: Path) -> None:
    provenance = read_provenance(None, ["elsewhere.json"], "python tools/compare.py")
    write_page(tmp_path / "report.html", comparison, pictures(comparison, provenance.metrics), provenance)
    assert "Training run" not in Elements((tmp_path / "report.html").read_text(encoding="utf-8")).words


def test_rank_errors_show_which_depth_a_file_over_rates(comparison: Comparison) -> None:
    row = comparison.rows[0]
    error, depths = rank_errors(row), by_depth(row.archs)
    means = [[error[depths[:, stage] == depth].mean() for depth in (1, 4)] for stage in range(3)]
    assert means[1][0] < -20 and means[1][1] > 20
    assert all(abs(mean) < 15 for stage in (0, 2) for mean in means[stage])
    assert error.mean() == pytest.approx(0, abs=1e-9)
    labels = [picture.caption for picture in pictures(comparison) if picture.stem.startswith("error_depth_1")]
    assert re.search(r"furthest off: stage 2 at (1|4), [+-]\d", labels[0])


def test_widths_are_percent_of_the_stages_widest() -> None:
    assert by_width([MINI.largest, MINI.smallest]).tolist() == [[100.0] * 3, [50.0] * 3]


def test_plots_are_written_as_png_and_svg(comparison: Comparison, tmp_path: Path) -> None:
    shown = pictures(comparison)
    write_plots(tmp_path / "plots", shown)
    written = [path for path in (tmp_path / "plots").iterdir() if path.is_file()]
    assert sorted(path.name for path in written) == sorted(
        f"{picture.stem}.{kind}" for picture in shown for kind in ("png", "svg")
    )
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5], [0.1, 0.2, 0.3]], ids=["constant", "three"])
def test_tiny_and_constant_files_have_a_page_too(tmp_path: Path, values: list[float]) -> None:
    archs = [MINI.sample(random.Random(seed)) for seed in range(3)]
    candidates = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs)]
    write_scores(tmp_path / "a.json", candidates, values)
    write_scores(tmp_path / "truth.json", candidates, [0.3, 0.1, 0.2])
    found = compare([str(tmp_path / "a.json")], str(tmp_path / "truth.json"))
    write_page(tmp_path / "report.html", found, pictures(found), read_provenance(None, [], "it"))
    assert "nan" not in Elements((tmp_path / "report.html").read_text(encoding="utf-8")).words


# What the browser makes of the page, in a frame that is exactly as wide as asked for (windows have a least width).
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="page" style="border: 0; width: {width}px; height: 4000px" srcdoc="{page}"></iframe><pre id="result"></pre>
<script>
document.getElementById("page").onload = (event) => {{
  const inner = event.target.contentDocument, root = inner.documentElement;
  const outside = [...inner.querySelectorAll("body *")].filter((element) => !element.closest("svg > *")
    && !element.closest("thead") && element.getBoundingClientRect().right > {width} + 0.5).map((element) => element.tagName);
  const pictures = [...inner.querySelectorAll("svg, img")].filter((picture) => !picture.parentElement.closest("svg"));
  document.getElementById("result").textContent = JSON.stringify({{
    width: root.clientWidth, content: root.scrollWidth, outside: outside,
    pictures: pictures.length, least: Math.min(...pictures.map((picture) => picture.getBoundingClientRect().width)),
    named: pictures.filter((picture) => picture.getAttribute("aria-label") || picture.getAttribute("alt")).length,
    fetched: event.target.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
    text: getComputedStyle(inner.body).color, background: getComputedStyle(inner.body).backgroundColor,
  }});
}};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")
@pytest.mark.parametrize(
    ("width", "scheme", "colors"),
    [(375, 1, ("rgb(29, 29, 31)", "rgb(255, 255, 255)")), (1000, 0, ("rgb(232, 232, 237)", "rgb(26, 26, 26)"))],
    ids=["narrow and light", "wide and dark"],
)
def test_a_real_browser_shows_the_page_without_sideways_scrolling(
    page: str, tmp_path: Path, width: int, scheme: int, colors: tuple[str, str]
) -> None:
    (tmp_path / "probe.html").write_text(PROBE.format(width=width, page=html.escape(page)), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += f" --disable-component-update --disable-sync --hide-scrollbars --user-data-dir={tmp_path}/profile"
    options += f" --virtual-time-budget=5000 --blink-settings=preferredColorScheme={scheme}"
    command = [str(BROWSER), *options.split(), "--dump-dom", f"file://{tmp_path}/probe.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(html.unescape(dom.split('<pre id="result">')[1].split("</pre>")[0]))
    assert found["width"] == width
    assert found["content"] <= width
    assert found["outside"] == []
    assert found["pictures"] == found["named"] == page.count("<svg") > 5
    assert found["least"] >= 280
    assert found["fetched"] == []
    assert (found["text"], found["background"]) == colors
