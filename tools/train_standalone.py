"""Train subnets from scratch, stand-alone, and print or write their validation accuracy.

With --arch one subnet; with --candidates a whole file, whose accuracies become a truth file for tools/compare.py. An interrupted
run continues with the missing subnets; several processes (python -m paddle.distributed.launch) share them.
"""

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError
from paddle_pgonas.scores.files import read_candidates


@cli.command
def main() -> None:
    cli.outlive_readers()
    parser = cli.Parser(__doc__)
    cli.add_config(parser)
    parser.add_argument("--arch", metavar="CODE", help="one subnet")
    parser.add_argument(
        "--weights",
        type=cli.OutputFile,
        metavar="FILE",
        help="with --arch: keep the trained weights (those of the largest subnet can be a teacher)",
    )
    parser.add_argument(
        "--start",
        type=cli.WeightFile,
        metavar="FILE",
        help="with --arch: continue from kept weights of the same subnet, or an export's",
    )
    parser.add_argument(
        "--bn",
        choices=["running", "calibrated"],
        default="running",
        help="BatchNorm statistics of the accuracy: running ones (default), or measured anew over score.calibration_images",
    )
    parser.add_argument("--candidates", type=cli.InputFile, metavar="FILE", help="many subnets; needs --output")
    parser.add_argument("--output", type=cli.OutputFile, metavar="FILE", help="the truth file to write")
    arguments = parser.parse_args()
    config = cli.config_of(arguments)
    if (arguments.arch is None) == (arguments.candidates is None):
        raise UserError("give either --arch CODE or --candidates FILE")
    if arguments.candidates and not arguments.output:
        raise UserError("--candidates needs --output FILE")
    if arguments.output and not arguments.candidates:
        raise UserError("--output needs --candidates FILE")
    if arguments.weights and not arguments.arch:
        raise UserError("--weights needs --arch CODE")
    if arguments.start and not arguments.arch:
        raise UserError("--start needs --arch CODE")
    arch = config.search_space.parse(arguments.arch) if arguments.arch else None
    cli.check_inputs(arguments, config, ("train", "val"))
    candidates = read_candidates(arguments.candidates, config.search_space) if arguments.candidates else []

    from paddle_pgonas.training.standalone import make_truth, train_standalone

    if arch is not None:
        acc = train_standalone(config, arch, arguments.weights, start=arguments.start, bn=arguments.bn)
        print(f"{arch} top-1 {acc:.4f}")
    else:
        make_truth(config, candidates, arguments.output, arguments.bn)


if __name__ == "__main__":
    main()
