"""Write a candidate file of distinct architectures of a space: random ones, or evenly spread over their cost."""

from paddle_pgonas import cli
from paddle_pgonas.scores.files import sample_candidates, write_scores


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--count", type=int, required=True, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--output", type=cli.OutputFile, required=True, metavar="FILE")
    cli.add_space(parser, default="track1")
    parser.add_argument(
        "--spread", action="store_true", help="evenly over the logarithm of cost; uniform samples have similar costs"
    )
    arguments = parser.parse_args()
    space = arguments.space
    candidates = sample_candidates(space, arguments.count, arguments.seed, arguments.spread)
    write_scores(arguments.output, candidates, [0.0] * len(candidates))
    cli.say(f"{len(candidates)} candidates of space {space.name}: {arguments.output}")


if __name__ == "__main__":
    main()
