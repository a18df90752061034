"""Export one subnet of a supernet, or a stand-alone one: weights, code, configuration, record, and an inference model.

The model takes any number of images. BatchNorm statistics are those of score.bn: the subnet's own over the calibration images, or
those in the weights. The inference model's logits are compared with the scorer's; nothing is written if they differ by more than
rounding.
"""

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    cli.add_config(parser)
    parser.add_argument(
        "--weights", type=cli.WeightFile, required=True, metavar="FILE", help="weights (.safetensors or .pdparams)"
    )
    parser.add_argument("--arch", metavar="CODE", help="the subnet; stand-alone weights know theirs")
    parser.add_argument("--output", type=cli.OutputFolder, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="validation images to compare on (default: 256)")
    parser.add_argument("--onnx", action="store_true", help="write inference.onnx too; needs paddle2onnx and onnxruntime")
    arguments = parser.parse_args()
    config = cli.config_of(arguments)
    arch = None if arguments.arch is None else config.search_space.parse(arguments.arch)
    if arguments.images < 1:
        raise UserError(f"--images must be at least 1, not {arguments.images}")
    noise = config.score.bn == "running" and not config.data.given
    cli.check_inputs(arguments, config, () if noise else config.score.splits)

    from paddle_pgonas.exporting import export as job

    record = job.export(config, arguments.weights, arch, arguments.output, onnx=arguments.onnx, images=arguments.images)
    print(job.summary(record))
    cli.say(f"exported: {arguments.output}")


if __name__ == "__main__":
    main()
