"""Write a prior's value of every candidate, in the format of a submission, to compare it with trained scores.

FILE's .record.json, written beside it, holds the command and its settings, which the report of compare.py shows.

Space, image size and classes come from CONFIG or the options. Otherwise the space is the first built-in one with codes as long as
the file's, and its image size and 1,000 classes are assumed, which a line of the output says. The terms of a sum are
standardised over the candidates, FLOPs and parameters as logarithms, so the values depend on which candidates there are.

near, snip, grad_norm and naswot send a batch of CONFIG's training images through each subnet with random weights: the mean over
--seeds. An interrupted run continues; finished values are kept in output_dir/priors.

A prior alone is a reference for comparison, not a legal challenge entry.
"""

import numpy as np

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_json
from paddle_pgonas.io.outputs import claim, content_digest
from paddle_pgonas.priors.by_name import AT_INITIALISATION, combined, make_prior, prior_values, terms
from paddle_pgonas.priors.cost import setting
from paddle_pgonas.runtime import command_line, now, own_version
from paddle_pgonas.scores.files import beside, detect_space, read_candidates, write_scores

SEEDS, IMAGES = 3, 64


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    cli.add_prior(parser, required=True, images=True)
    parser.add_argument("--candidates", type=cli.InputFile, required=True, metavar="FILE")
    parser.add_argument("--output", type=cli.OutputFile, required=True, metavar="FILE")
    cli.add_setting(parser)
    parser.add_argument("--seeds", type=int, metavar="N", help=f"of {', '.join(AT_INITIALISATION)}: draws (default: {SEEDS})")
    parser.add_argument("--images", type=int, metavar="N", help=f"of the same: images in a draw's batch (default: {IMAGES})")
    parser.add_argument("--scale", action="store_true", help="shift and scale to 0..1, as --validate of compare.py demands")
    arguments = parser.parse_args()
    untrained = [term for term in terms(arguments.prior) if term in AT_INITIALISATION]
    for option, value in (("--seeds", arguments.seeds), ("--images", arguments.images)):
        if value is not None and not untrained:
            parser.error(f"{option} goes with --prior {', '.join(AT_INITIALISATION)}")
        if value is not None and value < 1:
            parser.error(f"{option} must be at least 1, not {value}")
    if untrained and not arguments.config:
        parser.error(f"--prior {untrained[0]} needs images: give -c CONFIG with data.root or another data.source")
    if untrained and (arguments.image_size or arguments.classes):
        parser.error(f"--prior {untrained[0]} takes -o data.image_size=N model.num_classes=N, not --image-size and --classes")
    record_path = beside(arguments.output, ".record.json")
    claim("score_prior --output", arguments.output, beside=[record_path], inputs=[arguments.candidates])
    space, image_size, classes, config = cli.setting_of(parser, arguments)
    cli.check_inputs(arguments, config if untrained else None, ("train",))
    space = space or detect_space(arguments.candidates)
    image_size, classes, assumed = setting(space, image_size, classes)
    if assumed:
        cli.say(f"assumed: {assumed}; -c CONFIG, or --image-size and --classes, tell others")
    candidates = read_candidates(arguments.candidates, space)
    seeds, images = arguments.seeds or SEEDS, arguments.images or IMAGES
    archs = [entry.arch for entry in candidates]

    def measured(term: str) -> np.ndarray:
        if config is None or term not in AT_INITIALISATION:
            return prior_values(term, archs, lambda name: make_prior(name, space, image_size, classes))
        from paddle_pgonas.scoring.untrained import untrained_values

        of_seeds = untrained_values(config, term, archs, seeds, images)
        print(noise(term, of_seeds))
        return of_seeds.mean(1)

    values = combined({term: measured(term) for term in terms(arguments.prior)})
    if arguments.scale:
        low, high = values.min(), values.max()
        if low == high:
            raise UserError(f"--scale: {arguments.prior} is {low:g} for every candidate, which no scale brings to 0..1")
        values = (values - low) / (high - low)
        print(f"scaled: 0 is {low:.10g}, 1 is {high:.10g}")
    write_scores(arguments.output, candidates, values.tolist())
    record = {"prior": arguments.prior, "image_size": image_size, "classes": classes, "candidate_file": arguments.candidates}
    if untrained and config is not None:
        record |= {"seeds": seeds, "images": images, "data": config.data.model_dump(mode="json"), "seed": config.seed}
    made = {"date": now(), "command": command_line(), "versions": own_version(), "file": content_digest(arguments.output)}
    write_json(record_path, record | made)
    of = f"space {space.name}, {image_size} pixels, {classes} classes"
    cli.say(f"{len(candidates)} values of {arguments.prior} ({of}): {arguments.output}")


def noise(name: str, values: np.ndarray) -> str:
    """How far seeds differ, of the values [candidates, seeds]."""
    if values.shape[1] == 1:
        return f"{name}: one seed, so nothing tells how far seeds differ"
    between, within = values.mean(1).std(), values.std(1, ddof=1).mean()
    return f"{name}: standard deviation {between:.4g} between subnets, {within:.4g} between {values.shape[1]} seeds of one"


if __name__ == "__main__":
    main()
