"""Write a prior's value of every candidate, in the format of a submission, to compare it with trained scores.

Space, image size and classes come from CONFIG or the options. Otherwise the space is the first built-in one with codes as long as
the file's, with its image size and 1,000 classes. A prior alone is a reference for comparison, not a legal challenge entry.
"""

from paddle_pgonas import cli
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.progress import progress
from paddle_pgonas.scores.files import detect_space, read_candidates, write_scores


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    cli.add_prior(parser, required=True)
    parser.add_argument("--candidates", type=cli.InputFile, required=True, metavar="FILE")
    parser.add_argument("--output", type=cli.OutputFile, required=True, metavar="FILE")
    cli.add_config(parser, required=False)
    cli.add_space(parser)
    parser.add_argument("--image-size", type=int, metavar="N", help="side of the images")
    parser.add_argument("--classes", type=int, metavar="N", help="outputs of the network")
    arguments = parser.parse_args()
    if arguments.config and arguments.space:
        parser.error("give either -c or --space")
    if arguments.override and not arguments.config:
        parser.error("-o goes with -c")
    for option, value in (("--image-size", arguments.image_size), ("--classes", arguments.classes)):
        if value is not None and value < 1:
            parser.error(f"{option} must be at least 1, not {value}")
    if arguments.config:
        config = cli.config_of(arguments)
        space, image_size, classes = config.search_space, config.data.image_size, config.model.num_classes
    else:
        space = arguments.space or detect_space(arguments.candidates)
        image_size, classes = space.image_size, 1000
    image_size, classes = arguments.image_size or image_size, arguments.classes or classes
    candidates = read_candidates(arguments.candidates, space)
    prior = make_prior(arguments.prior, space, image_size, classes)
    values = [prior(entry.arch) for entry in progress(candidates, arguments.prior, "subnets")]
    write_scores(arguments.output, candidates, values)
    setting = f"space {space.name}, {image_size} pixels, {classes} classes"
    print(f"{len(candidates)} values of {arguments.prior} ({setting}): {arguments.output}")


if __name__ == "__main__":
    main()
