"""Score every candidate with a supernet's weights and write the submission file.

An interrupted run continues with the missing chunks when the same command is given again; several processes
(python -m paddle.distributed.launch) share the chunks. FILE's .metrics.json (top-1, top-5, probability, loss of every
candidate) and .record.json (inputs and settings of the scores) are written beside FILE.

--sample scores a random part of the candidates only, fits a Gaussian process on structure and costs to these scores, and ranks
all candidates by it, at a fraction of the time. That is a predictor: rule 6 of the challenge forbids it for entries.
"""

import math
from argparse import Namespace

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError
from paddle_pgonas.scores.files import read_candidates, select


@cli.command
def main() -> None:
    cli.outlive_readers()
    arguments = make_parser().parse_args()
    if arguments.bn:
        arguments.override.append(f"score.bn={arguments.bn}")
    config = cli.config_of(arguments)
    check_together(arguments)
    if arguments.prior:
        config.prior(arguments.prior)  # an unknown import path is reported now
    splits = config.score.splits if config.data.given or not arguments.dry_run else ()
    reads = ["model.pretrained"] if arguments.untrained else []
    cli.check_inputs(arguments, config, splits, reads=reads, writes=not arguments.dry_run)
    candidates = read_candidates(arguments.candidates, config.search_space)
    candidates = select(arguments.candidates, candidates, arguments.first, arguments.only)

    from paddle_pgonas.scoring.smoothing import Sample

    sample = None if arguments.sample is None else Sample(arguments.sample, arguments.sample_seed or 0)
    if arguments.dry_run:
        from paddle_pgonas.scoring.plan import dry_run

        return dry_run(config, [entry.arch for entry in candidates], arguments.json, sample)
    from paddle_pgonas.scoring.submission import write_submission

    weight = 1.0 if arguments.prior_weight is None else arguments.prior_weight
    prior = (arguments.prior, weight) if arguments.prior else None
    weights = arguments.weights or []
    write_submission(config, weights, arguments.candidates, arguments.output, arguments.metric, candidates, prior, sample)


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_config(parser)
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument(
        "--weights",
        type=cli.WeightFile,
        nargs="+",
        metavar="FILE",
        help="supernet weights (.safetensors or .pdparams); of several, each scores the candidates of its train.depth_ranges",
    )
    networks.add_argument("--untrained", action="store_true", help="score the network of model.pretrained without any training")
    parser.add_argument("--candidates", type=cli.InputFile, required=True, metavar="FILE", help="the challenge's candidate file")
    parser.add_argument("--first", type=int, metavar="N", help="score the first N candidates only")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="score the candidates of these names only, e.g. arch1 arch7")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="score N random candidates, predict all (no legal entry, see above)"
    )
    parser.add_argument(
        "--sample-seed", type=int, metavar="SEED", help="seed of the choice (default: 0); a larger N keeps the first"
    )
    parser.add_argument("--output", type=cli.OutputFile, metavar="FILE", help="the submission file to write")
    parser.add_argument("--bn", choices=["running", "calibrated", "batch"], help="BatchNorm statistics; overrides score.bn")
    parser.add_argument(
        "--metric",
        choices=["top1", "top5", "probability", "likelihood"],
        default="top1",
        help="metric for 'acc' (default: top1); likelihood is exp(-loss)",
    )
    cli.add_prior(parser, use="add this prior to the metric")
    parser.add_argument("--prior-weight", type=float, metavar="W", help="weight of the prior (default: 1, as much as the metric)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of the time; needs no weights")
    parser.add_argument("--json", type=cli.OutputFile, metavar="FILE", help="with --dry-run: the plan for programs")
    return parser


def check_together(arguments: Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if not arguments.dry_run and (arguments.output is None or not (arguments.weights or arguments.untrained)):
        raise UserError("--output and --weights (or --untrained) are needed, or --dry-run")
    if arguments.json and not arguments.dry_run:
        raise UserError("--json needs --dry-run")
    if (weight := arguments.prior_weight) is not None and not (math.isfinite(weight) and weight > 0):
        raise UserError(f"--prior-weight must be a number above 0, not {weight:g}")
    if weight is not None and not arguments.prior:
        raise UserError("--prior-weight needs --prior")
    if arguments.sample_seed is not None and arguments.sample is None:
        raise UserError("--sample-seed needs --sample")
    if arguments.sample is not None and arguments.only:
        raise UserError("--only names the candidates to score, --sample draws them: give one of the two")


if __name__ == "__main__":
    main()
