"""Convert weights between .safetensors and .pdparams, under the challenge's names; the suffixes select the formats.

Reads published checkpoints and training checkpoints too: known prefixes, copies of a teacher and the optimizer's state are
removed.
"""

from paddle_pgonas import cli


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("source", type=cli.WeightFile, metavar="FROM")
    parser.add_argument("target", type=cli.OutputFile, metavar="TO")
    arguments = parser.parse_args()
    cli.check_inputs(arguments)

    from paddle_pgonas.nn.weights import convert_weights

    cli.say(f"{convert_weights(arguments.source, arguments.target)} arrays: {arguments.target}")
    if arguments.target.endswith(".pdparams"):
        cli.say("not kept: the record (classes, space, image size, ...), which this format cannot hold")


if __name__ == "__main__":
    main()
