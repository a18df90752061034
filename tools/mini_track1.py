"""The mini track: a small version of Track 1 on small colour images, with its own stand-alone accuracies and all methods.

run     trains the truth, the largest network and every method's supernets, scores the candidates and stores the results in
        benchmarks/mini_track1. Existing results are kept; an interrupted run continues.
report  rebuilds the tables and pictures of docs/mini_track1.md from the committed results, in seconds.
"""

from pathlib import Path

from paddle_pgonas import cli

REPOSITORY = Path(__file__).resolve().parent.parent


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and score everything that has no result yet")
    run.add_argument("--root", required=True, metavar="DIR", help="CIFAR-10 as DIR/train/<class>/* and DIR/val/<class>/*")
    run.add_argument("--only", nargs="+", metavar="NAME", help="truth, or methods: the names of configs/mini_track1/*.yaml")
    run.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds per method (default: 3)")
    run.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "mini_track1", metavar="DIR", help="working files")
    run.add_argument("--processes", type=int, default=2, metavar="N", help="trainings at a time, one core each (default: 2)")
    commands.add_parser("report", help="rebuild tables and pictures from the results")
    arguments = parser.parse_args()
    if arguments.command == "report":
        from paddle_pgonas.mini_track.document import write_report

        print(f"written: {write_report(REPOSITORY / 'benchmarks' / 'mini_track1', REPOSITORY / 'docs')}")
        return

    from paddle_pgonas.mini_track.runner import Runner

    runner = Runner(REPOSITORY, arguments.root, arguments.runs)
    for result in runner.run(arguments.only, arguments.seeds, arguments.processes):
        print(result, flush=True)


if __name__ == "__main__":
    main()
