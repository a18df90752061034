"""Write a candidate file of distinct random architectures of a space."""

import random

import _checkout  # noqa: F401

from paddle_pgonas import cli
from paddle_pgonas.arch import SPACES, Arch, SearchSpace
from paddle_pgonas.cost import sample_spread
from paddle_pgonas.errors import UserError
from paddle_pgonas.submission import Candidate, write_scores


def sample_distinct(space: SearchSpace, count: int, rng: random.Random) -> list[Arch]:
    archs: dict[Arch, None] = {}
    while len(archs) < count:
        archs[space.sample(rng)] = None
    return list(archs)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--count", type=int, required=True, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--space", choices=list(SPACES), default="track1")
    parser.add_argument(
        "--spread", action="store_true", help="evenly from the cheapest to the costliest; random widths average out otherwise"
    )
    arguments = parser.parse_args()
    space, rng = SPACES[arguments.space], random.Random(arguments.seed)
    if not 1 <= arguments.count <= space.size // 2:
        raise UserError(f"--count must be 1 to {space.size // 2} for space {space.name}, not {arguments.count}")
    archs = sample_spread(space, arguments.count, rng) if arguments.spread else sample_distinct(space, arguments.count, rng)
    candidates = [Candidate(f"arch{number}", arch, arch.code, None) for number, arch in enumerate(archs, start=1)]
    write_scores(arguments.output, candidates, [0.0] * len(candidates))
    print(f"{len(candidates)} candidates of space {space.name}: {arguments.output}")


cli.run(main)
