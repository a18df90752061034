"""The figures in README.md and docs/ are those that programs of this project printed.

Their output is in ``studies/recorded`` and ``studies/speed``. A page may word a figure as it likes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from conftest import REPOSITORY

from paddle_pgonas.gpu_check.hours import SCORING_MACS
from paddle_pgonas.priors.cost import params
from paddle_pgonas.space.arch import TRACK1

RECORDED, SPEED = REPOSITORY / "studies" / "recorded", REPOSITORY / "studies" / "speed"


def assert_shown(page: str, figures: Iterable[str]) -> None:
    """Each of the figures, numbers as text, stands somewhere in a page."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    there = {found.rstrip(".,") for found in re.findall(r"(?<![\w.])\.?\d[\d.,]*(?:e-?\d+)?", text)}
    assert sorted(set(figures) - there) == []


def counts(text: str) -> Counter[str]:
    """The numbers of lines ``name    1,234`` by name."""
    lines = re.findall(r"^(\S.*?) +([\d,]+)(?: |$)", text, re.M)
    return Counter({name: int(number.replace(",", "")) for name, number in lines})


def test_the_fuzzer() -> None:
    total = Counter[str]()
    for file in sorted(RECORDED.glob("fuzz_*.txt")):
        text = file.read_text(encoding="utf-8")
        total += counts(text)
        assert text.startswith(f"seed {file.stem.removeprefix('fuzz_')}\n")
        assert text.endswith("findings 0\n")
    seeds = total.pop("seed")
    assert seeds
    assert total["inputs"] == total.total() - total["inputs"]
    assert_shown("studies/recorded/README.md", (f"{count:,}" for count in total.values()))
    assert_shown("docs/reliability.md", [f"{total['inputs']:,}"])


def test_the_torture_test() -> None:
    text = (RECORDED / "torture.txt").read_text(encoding="utf-8")
    total = counts(text)
    disturbances = {name: count for name, count in total.items() if ": " in name}
    assert total["failures"] == 0
    others = ("seed", "kills", "full disks", "flips", "runs to the end")
    shown = [sum(disturbances.values()), *disturbances.values(), *(total[name] for name in others)]
    assert_shown("studies/recorded/README.md", map(str, shown))
    assert_shown("docs/reliability.md", [str(shown[0])])


def test_the_gpu_trainer() -> None:
    """The largest deviations of gradients and weights over the subnets."""
    text = (RECORDED / "gpu_check.txt").read_text(encoding="utf-8")
    worst = (max(re.findall(rf"{name} (\S+),", text), key=float) for name in ("gradients", "weights"))
    assert_shown("studies/truth_trainer/README.md", worst)


def test_the_replay_of_the_published_steps() -> None:
    """The largest difference of each quantity over the steps, and its tolerance."""
    text = (RECORDED / "verify_published.txt").read_text(encoding="utf-8")
    worst: dict[tuple[int, str], float] = {}
    shown = set[str]()
    for number, block in enumerate(text.split("paddle_pgonas/published/")[1:]):
        for quantity, found, limit in re.findall(r"^ +(?:step \d|after all steps) +(.*?) +(\S+) +within (\S+)", block, re.M):
            worst[number, quantity] = max(worst.get((number, quantity), 0), float(found))
            shown.add(short(float(limit)))
    # Both begin at learning rate 0, and the second file's rates are those of the first.
    shown |= {f"{value:.1e}".replace("e-0", "e-") for value in worst.values() if value}
    assert len(shown) > 15
    assert_shown("studies/recorded/README.md", shown - {short(0)})
    assert_shown("docs/reproduce.md", (short(max(worst[file, name] for file in (0, 1))) for name in ("losses", "weights")))


def short(value: float) -> str:
    """As a table writes it: 1e-6, 3.2e-7."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def test_the_work_of_scoring_the_official_candidates() -> None:
    text = (RECORDED / "dry_run.txt").read_text(encoding="utf-8")
    macs, ratio = re.findall(r"per image +(\S+) .*: (\S+) times", text)[0]
    memory = int(re.findall(r"at most ([\d,]+) MiB", text)[0].replace(",", "")) * 2**20
    assert float(macs) == SCORING_MACS
    assert_shown("docs/several_gpus.md", [f"{SCORING_MACS / 1e12:.1f}", f"{memory / 1e9:.1f}"])
    for page in ("docs/method.md", "studies/speed/README.md"):
        assert_shown(page, [f"{float(ratio):.2f}"])


def measured(name: str) -> Any:
    """A file that ``tools/benchmark.py --json`` wrote, or that holds a measurement beside its command."""
    return json.loads((SPEED / f"{name}.json").read_text(encoding="utf-8"))


def test_memory_of_training() -> None:
    resident = measured("memory")["largest_resident_gb"]
    image = (resident["24"] - resident["12"]) / 12
    weights = 4 * params(TRACK1.largest, 1000) / 1e6
    totals = [f"{resident['12']:.2f}", f"{resident['24']:.2f}"]
    shown = [f"{1000 * image:.0f}", f"{256 * image:.0f}"]
    assert_shown("studies/speed/README.md", [*totals, *shown, f"{weights:.0f}"])
    assert_shown("docs/several_gpus.md", shown)


def test_time_of_the_demo() -> None:
    assert_shown("README.md", [f"{measured('demo')['seconds']}"])


def test_ratios_of_steps_and_scoring() -> None:
    prior, score, train = measured("prior"), measured("score"), measured("train")
    steps = [f"{batch[name]:.1f}" for batch in (train, train["batch_32"]) for name in ("speedup", "overhead")]
    scoring = [f"{score['speedup']:.2f}", f"{score['speedup_over_extracted']:.1f}"]
    priors = [f"{prior['speedup_zen']:,.0f}", *(f"{prior['microseconds'][name]:.0f}" for name in ("zen", "flops", "params"))]
    assert_shown("studies/speed/README.md", [*steps, *scoring, *priors])
    seconds = [f"{of:.1f}" for of in prior["seconds_at_initialisation"].values()]
    assert_shown("docs/method.md", [f"{prior['spearman_zen']:.4f}", *seconds])
    assert_shown("README.md", [scoring[0], steps[0], steps[2]])


@pytest.mark.parametrize("name", ["data_imagenette", "data_digits"])
def test_images_per_second(name: str) -> None:
    found = measured(name)
    shown = [f"{found['speedup']['training']:.1f}"]
    if name == "data_imagenette":
        shown += [f"{rate:,.0f}" for rate in found["images_per_second"].values()]
        shown += [f"{found['speedup']['scoring']:.1f}", f"{found['build_seconds']:.2f}", f"{found['open_seconds']:.2f}"]
        assert_shown("docs/several_gpus.md", [f"{found['images_per_second']['random resized crop']:.0f}"])
    assert_shown("studies/speed/README.md", shown)


def test_search_against_random_search() -> None:
    found = measured("search")
    zen, digits = found["zen_track1"], found["digits_top1"]
    best = [f"{value:.1f}" for value in zen["mean_best"].values()]
    best += [f"{value:.3f}".lstrip("0") for value in digits["mean_best"].values()]
    assert_shown("studies/speed/README.md", [*best, *(f"{100 * value:.0f}" for value in digits["mean_area"].values())])
