"""Repeat a published entry without training: score its first candidates with its own weights, and compare with its submission.

The default configuration is that of the published runs; BatchNorm uses the frozen statistics in any case. Exit status 0 if every
accuracy is the published one, 1 if not. Rounding on another device can move an accuracy by an image or two.
"""

import sys

from paddle_pgonas import cli
from paddle_pgonas.config.loading import CONFIGS


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    cli.add_config(parser, required=False)
    parser.set_defaults(config=cli.InputFile(CONFIGS / "track1" / "as_published_pgonas_prelu_flops.yaml"))
    parser.add_argument("--weights", type=cli.WeightFile, required=True, metavar="FILE", help="the entry's final.pdparams")
    parser.add_argument("--submission", type=cli.InputFile, required=True, metavar="FILE", help="the entry's submission file")
    parser.add_argument("--first", type=int, metavar="N", help="compare the first N candidates only")
    arguments = parser.parse_args()
    config = cli.config_of(arguments)
    cli.check_inputs(arguments, config, config.score.splits)

    from paddle_pgonas.published.entry import check_entry

    check = check_entry(config, arguments.weights, arguments.submission, arguments.first)
    print(check)
    if check.off_by.any():
        sys.exit(1)


if __name__ == "__main__":
    main()
