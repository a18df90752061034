"""Write a prior's value of every candidate, in the format of a submission, to compare it with trained scores.

A prior alone is a yardstick, not a legal challenge entry.
"""

from tqdm import tqdm

from paddle_pgonas import cli
from paddle_pgonas.priors import PRIORS
from paddle_pgonas.submission import detect_space, read_candidates, write_scores


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--prior", required=True, choices=list(PRIORS), help="zen_mc samples and takes about a second a subnet")
    parser.add_argument("--candidates", type=cli.InputFile, required=True, metavar="FILE")
    parser.add_argument("--output", type=cli.OutputFile, required=True, metavar="FILE")
    arguments = parser.parse_args()
    candidates = read_candidates(arguments.candidates, detect_space(arguments.candidates))
    prior = PRIORS[arguments.prior]
    values = [prior(entry.arch) for entry in tqdm(candidates, desc=arguments.prior, unit="subnet", delay=2)]
    write_scores(arguments.output, candidates, values)
    print(f"{len(candidates)} values of {arguments.prior}: {arguments.output}")


if __name__ == "__main__":
    main()
