"""Measure on this machine; every speed is a ratio of two implementations timed in the same run. Needs a checkout.

prior   microseconds per prior, and how closed-form Zen-score ranks against Monte Carlo (5 minutes)
train   a PGONAS step of ResNet48 at 64 pixels, batch 4 and 32: published, this project's, and the bare passes (5 minutes)
data    images per second from the cache of decoded images and by decoding them again: digits, or --root DIR at 224 pixels
score   256 neighbouring Track 1 subnets at 64 pixels, subnet by subnet and along shared prefixes (6 minutes)
search  NSGA-II and random search with the same budget: Zen-score on Track 1, a supernet on digits (6 minutes)
"""

import sys
from pathlib import Path

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("what", choices=["prior", "score", "train", "search", "data"])
    parser.add_argument("--json", type=cli.OutputFile, metavar="FILE", help="write the figures for programs")
    parser.add_argument(
        "--root", type=cli.InputFolder, metavar="DIR", help="with data: images as DIR/train/<class>/* and DIR/val/<class>/*"
    )
    arguments = parser.parse_args()
    if arguments.root and arguments.what != "data":
        parser.error("--root goes with data")
    if not (REPOSITORY / "studies" / "speed").is_dir():
        raise UserError("the measurements are not installed; run tools/benchmark.py in a checkout of the project")
    cli.check_inputs(arguments)
    sys.path.insert(0, str(REPOSITORY))

    import json
    from functools import partial

    from paddle_pgonas.io.files import write_json
    from studies.speed import data, priors, scoring, search, training

    ways = {
        "prior": priors.measure,
        "score": scoring.measure,
        "train": training.measure,
        "search": search.measure,
        "data": partial(data.measure, arguments.root),
    }
    figures = ways[arguments.what]()
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
