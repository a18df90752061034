"""Replay training steps of the published code on this machine and print the differences to this project's steps.

Without a file it replays the project's two reference files: the published PGONAS code and the organisers' baseline.
Exit status 0 if every difference is within rounding, 1 if not.
"""

import os
import sys

from paddle_pgonas import cli


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("references", nargs="*", type=cli.InputFile, metavar="REFERENCE.json", help="files of reference steps")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="where to compute (default: auto)")
    parser.add_argument(
        "-o", "--override", action="extend", nargs="+", default=[], metavar="key=value", help="change keys, to see their effect"
    )
    arguments = parser.parse_args()
    # CUDA reads this once. TF32, which NVIDIA GPUs use for convolutions by default, keeps 10 bits of a float32's 23.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    from paddle_pgonas.published import STEPS
    from paddle_pgonas.published.compare import print_differences
    from paddle_pgonas.published.replay import replay

    within = [
        print_differences(path, replay(path, arguments.device, arguments.override)) for path in arguments.references or STEPS
    ]
    if not all(within):
        sys.exit(1)


if __name__ == "__main__":
    main()
