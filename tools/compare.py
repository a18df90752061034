"""Compare score files: submissions, priors (tools/score_prior.py) and a truth file, all in the submission's format.

With --truth every file is compared with the truth (which may name a part of the architectures), else with the first file.
Further files are also compared with the first of these on the same resamples, which shows whether a difference is significant.

The costs in the report depend on image size and classes: those of the options, of -c CONFIG, of the run in the folder of --run,
or of the records beside the files. Where nobody tells them, they are the space's image size and 1,000, and the page says so.

With --validate one file is checked instead: whether it would be accepted as a submission, with all faults if not (exit status 2).
"""

from argparse import Namespace
from pathlib import Path

from paddle_pgonas import cli
from paddle_pgonas.space.arch import SearchSpace


@cli.command
def main() -> None:
    cli.outlive_readers()
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.validate:
        others = ("files", "labels", "truth", "top", "output", "plots", "run", "config", "override", "image_size", "classes")
        if any(getattr(arguments, name) for name in others):
            parser.error("--validate takes --candidates, --space and --json only")
        return validate(arguments.validate, arguments.candidates, arguments.space, arguments.json)
    if not arguments.files:
        parser.error("give score files to compare, or --validate FILE")
    if arguments.candidates:
        parser.error("--candidates goes with --validate")
    if arguments.run and not (arguments.output or arguments.plots):
        parser.error("--run goes with --output or --plots")
    cli.check_inputs(arguments)
    report(arguments, *cli.setting_of(parser, arguments)[:3])


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="*", type=cli.InputFile, metavar="SUBMISSION")
    text = "names for the files, in their order (default: the method or prior of the record beside a file, else its name)"
    parser.add_argument("--labels", nargs="+", metavar="NAME", help=text)
    parser.add_argument("--truth", type=cli.InputFile, metavar="FILE", help="stand-alone accuracies")
    parser.add_argument("--top", type=int, metavar="K", help="the k of precision at k (default: 100, or a tenth of a small file)")
    cli.add_setting(parser)
    parser.add_argument("--output", type=cli.OutputFile, metavar="report.html", help="write a self-contained page with pictures")
    parser.add_argument("--plots", type=cli.OutputFolder, metavar="DIR", help="write the pictures as PNG and SVG files")
    parser.add_argument(
        "--run",
        type=cli.InputFolder,
        metavar="DIR",
        help="a training run (output_dir) whose curves, images and classes the page and the plots show",
    )
    parser.add_argument(
        "--json", type=cli.OutputFile, metavar="FILE", help="write the figures for programs (or the verdict, with --validate)"
    )
    parser.add_argument("--validate", type=cli.InputFile, metavar="FILE", help="check this file as a submission")
    parser.add_argument(
        "--candidates", type=cli.InputFile, metavar="FILE", help="with --validate: the candidate file that it must fit"
    )
    return parser


def report(arguments: Namespace, space: SearchSpace | None, image_size: int | None, classes: int | None) -> None:
    """Print the comparison and write what was asked for."""
    from paddle_pgonas.io.files import write_json
    from paddle_pgonas.report.comparison import compare
    from paddle_pgonas.report.provenance import Provenance, read_provenance, run_config
    from paddle_pgonas.report.words import table
    from paddle_pgonas.runtime import command_line

    run, provenance = Path(arguments.run) if arguments.run else None, Provenance()
    if arguments.output or arguments.plots:
        trained = run_config(run) if run else None
        space = space or (trained and trained.search_space)
        read = [*arguments.files, *filter(None, [arguments.truth])]
        provenance = read_provenance(run, read, command_line(), trained)
        image_size, classes = image_size or provenance.image_size, classes or provenance.num_classes
    comparison = compare(arguments.files, arguments.truth, arguments.top, space, image_size, classes, arguments.labels)
    print(table(comparison))
    if arguments.json:
        write_json(arguments.json, comparison.as_json())
    if arguments.output or arguments.plots:
        from paddle_pgonas.report.page import write_page
        from paddle_pgonas.report.plots import pictures, write_plots

        shown = pictures(comparison, provenance.metrics)
        if arguments.plots:
            write_plots(arguments.plots, shown)
            cli.say(f"plots: {arguments.plots}")
        if arguments.output:
            write_page(arguments.output, comparison, shown, provenance)
            cli.say(f"report: {arguments.output}")


def validate(path: str, candidates: str | None, space: SearchSpace | None, json_path: str | None) -> None:
    """Print the result of the check; exit status 2 if the file is not accepted."""
    from paddle_pgonas.errors import UserError
    from paddle_pgonas.io.files import write_json
    from paddle_pgonas.scores.check import validate_submission

    verdict = validate_submission(path, candidates, space)
    print(verdict)
    if json_path:
        write_json(json_path, verdict.as_json())
    if not verdict.accepted:
        raise UserError(f"{path}: not accepted; rules broken: {len(verdict.faults)}, listed above")


if __name__ == "__main__":
    main()
