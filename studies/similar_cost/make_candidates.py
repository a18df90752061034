"""Writes candidates.json: subnets of mini_slim by the challenge's own rule, of similar cost.

Every depth is drawn uniformly and every free width code uniformly from the first codes of its stage, as the challenge's 45,000
are (there codes 1-3, 1-3, 1-5 and 1-7 in its four stages). Of the draws, those within a window of cost are kept.

    python studies/similar_cost/make_candidates.py [--count N --output FILE]

More candidates than the study's begin with these.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddle_pgonas.priors.cost import macs
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.named import find_space

SPACE = find_space(str(Path(__file__).with_name("space.yaml")))
HIGHEST_CODES = (3, 5, 7)
COUNT, SEED, CLASSES = 96, 0, 10
COST_RATIO = 3.5
"""Of the most expensive candidate to the cheapest, at most. The window's middle is the geometric mean of MIDDLE draws."""
MIDDLE = 1000


def draw(count: int = COUNT) -> list[Arch]:
    """The candidates in the order in which they are drawn, all distinct."""
    rng = random.Random(SEED)
    logs = [math.log(_cost(SPACE.sample(rng, HIGHEST_CODES))) for _ in range(MIDDLE)]
    middle, rng = sum(logs) / MIDDLE, random.Random(SEED)
    chosen: dict[Arch, None] = {}
    while len(chosen) < count:
        arch = SPACE.sample(rng, HIGHEST_CODES)
        if abs(math.log(_cost(arch)) - middle) <= math.log(COST_RATIO) / 2:
            chosen[arch] = None
    return list(chosen)


def _cost(arch: Arch) -> int:
    return macs(arch, SPACE.image_size, CLASSES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write subnets of similar cost.")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("candidates.json"), metavar="FILE")
    arguments = parser.parse_args()
    archs = draw(arguments.count)
    candidates = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs, start=1)]
    write_scores(arguments.output, candidates, [0.0] * len(archs))
