"""Run a study, or rebuild its tables.

run     trains the largest network and every method's supernets (and the truth, where the study says how), scores the candidates
        and stores the results in the study's folder. Existing results are kept; an interrupted run continues.
report  rebuilds the tables and pictures of the study's documents from the committed results, in seconds.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddle_pgonas import cli

REPOSITORY = Path(__file__).resolve().parents[1]


@cli.command
def main() -> None:
    """Parse the command line and do what it asks for."""
    arguments = _arguments()

    from studies.study import read_study

    study = read_study(arguments.study)
    if arguments.command == "report":
        from studies.document import write_report

        for path in write_report(study):
            print(f"written: {path}")
        return

    from studies.runner import Runner

    # Absolute, so that a run that is continued from another working folder names the same files.
    runs = (arguments.runs or REPOSITORY / "runs" / study.name).resolve()
    runner = Runner(study, REPOSITORY, arguments.root, runs, arguments.weights)
    first = study.first_seed if arguments.first_seed is None else arguments.first_seed
    seeds = range(first, first + (arguments.seeds or study.seeds))
    for result in runner.run(arguments.only, seeds, arguments.processes):
        print(result, flush=True)


def _arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and score everything that has no result yet")
    report = commands.add_parser("report", help="rebuild tables and pictures from the results")
    for command in (run, report):
        command.add_argument("--study", type=Path, required=True, metavar="FILE", help="such as studies/wide/study.yaml")
    run.add_argument("--root", required=True, metavar="DIR", help="the images as DIR/train/<class>/* and DIR/val/<class>/*")
    only = "truth (if the study has a recipe for it), largest, a method, or <method>-<regime>"
    run.add_argument("--only", nargs="+", metavar="NAME", help=only)
    run.add_argument("--seeds", type=int, metavar="N", help="runs per method (default: the study's)")
    run.add_argument("--first-seed", type=int, metavar="S", help="the first of them (default: the study's)")
    run.add_argument("--runs", type=Path, metavar="DIR", help="working files (default: runs/<the study's folder>)")
    run.add_argument("--weights", action="store_true", help="also train supernets of results whose weights are gone")
    run.add_argument("--processes", type=int, default=2, metavar="N", help="trainings at a time, one core each (default: 2)")
    arguments = parser.parse_args()
    if arguments.command == "run":
        if arguments.processes < 1 or (arguments.seeds is not None and arguments.seeds < 1):
            parser.error("--processes and --seeds must be at least 1")
        if arguments.first_seed is not None and arguments.first_seed < 0:
            parser.error("--first-seed must be at least 0")
    return arguments


if __name__ == "__main__":
    main()
