"""Correlate score files: submissions, priors (tools/score_prior.py) and a truth file, all in the submission's format.

With --truth every file is compared with the truth (which may name a part of the architectures), else with the first file.
"""

from pathlib import Path

import _checkout  # noqa: F401

from paddle_pgonas import cli


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="SUBMISSION")
    parser.add_argument("--truth", metavar="FILE", help="stand-alone accuracies")
    parser.add_argument("--output", metavar="report.html", help="write a self-contained page with pictures")
    parser.add_argument("--run", metavar="DIR", help="a training run (output_dir) whose curves the page shows")
    parser.add_argument("--json", metavar="FILE", help="write the figures for programs")
    arguments = parser.parse_args()

    from paddle_pgonas.files import write_json
    from paddle_pgonas.report.comparison import compare, table

    comparison = compare(arguments.files, arguments.truth)
    print(table(comparison))
    if arguments.json:
        write_json(arguments.json, comparison.as_json())
    if arguments.output:
        from paddle_pgonas.report.page import write_page

        write_page(arguments.output, comparison, Path(arguments.run) if arguments.run else None)
        print(f"report: {arguments.output}")


cli.run(main)
