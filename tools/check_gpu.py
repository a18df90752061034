"""Prove in about ten minutes that this machine's GPU trains and scores as it should; needs no data.

Every part runs in a process of its own and is reported as passed, failed or not applicable, and then how many hours the real
run would take at the measured rates. Exit status 0 if no part failed, 1 if one did. Attach the report to a bug report.
On a CPU a smaller form takes about two minutes.
"""

import sys

from paddle_pgonas import cli
from paddle_pgonas.gpu_check.parts import PARTS


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    default = "runs/check_gpu.json"
    parser.add_argument("--json", type=cli.OutputFile, default=default, metavar="FILE", help=f"the report (default: {default})")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="where to compute (default: auto)")
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=f"of {', '.join(names)}")
    arguments = parser.parse_args()
    from paddle_pgonas.gpu_check.runner import check

    if not check(arguments.device, arguments.json, [part for part in PARTS if part.name in arguments.only]):
        sys.exit(1)


if __name__ == "__main__":
    main()
