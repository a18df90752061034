"""Write a prior's value of every candidate, in the format of a submission, to compare it with trained scores.

Space, image size and classes come from CONFIG or the options. Otherwise the space is the first built-in one with codes as long as
the file's, and its image size and 1,000 classes are assumed, which a line of the output says. A prior alone is a reference for
comparison, not a legal challenge entry.
"""

from paddle_pgonas import cli
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.priors.cost import setting
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.files import detect_space, read_candidates, write_scores


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    cli.add_prior(parser, required=True)
    parser.add_argument("--candidates", type=cli.InputFile, required=True, metavar="FILE")
    parser.add_argument("--output", type=cli.OutputFile, required=True, metavar="FILE")
    cli.add_setting(parser)
    arguments = parser.parse_args()
    space, image_size, classes = cli.setting_of(parser, arguments)
    space = space or detect_space(arguments.candidates)
    image_size, classes, assumed = setting(space, image_size, classes)
    if assumed:
        cli.say(f"assumed: {assumed}; -c CONFIG, or --image-size and --classes, tell others")
    candidates = read_candidates(arguments.candidates, space)
    prior = make_prior(arguments.prior, space, image_size, classes)
    values = [prior(entry.arch) for entry in progress(candidates, arguments.prior, "subnets")]
    write_scores(arguments.output, candidates, values)
    of = f"space {space.name}, {image_size} pixels, {classes} classes"
    cli.say(f"{len(candidates)} values of {arguments.prior} ({of}): {arguments.output}")


if __name__ == "__main__":
    main()
