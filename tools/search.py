"""Search for the best subnet under limits on its cost, and for the Pareto front of cost and score, by NSGA-II.

The score is a metric of the supernet (--weights) on the configured validation images, or a prior (--prior), which needs neither
weights nor images. --output FILE is the Pareto front in the candidate file's format; FILE's .record.json (all costs, the best
subnet, the settings) and .svg are written beside it. Cost of the front: the first given limit of multiply-accumulates,
parameters, latency; multiply-accumulates without a limit. Latency is that of the extracted subnet in Paddle on this device: 5
runs to warm up, the median of 20 more.

An interrupted search continues when the same command is given again: measurements are stored in output_dir/search.
The seed is that of the configuration (-o seed=1). The best score is the largest of many on the same images: expect less on
other images.
"""

from paddle_pgonas import cli
from paddle_pgonas.errors import UserError


@cli.command
def main() -> None:
    cli.outlive_readers()
    parser = cli.Parser(__doc__)
    cli.add_config(parser)
    parser.add_argument("--weights", type=cli.WeightFile, metavar="FILE", help="supernet weights (.safetensors or .pdparams)")
    cli.add_prior(parser)
    parser.add_argument("--max-macs", type=float, metavar="N", help="multiply-accumulates for an image, at data.image_size")
    parser.add_argument("--max-params", type=float, metavar="N", help="parameters")
    parser.add_argument("--max-latency-ms", type=float, metavar="MS", help="milliseconds for a batch, measured here")
    parser.add_argument("--latency-batch", type=int, metavar="N", help="images in that batch (default: 1)")
    parser.add_argument("--population", type=int, default=64, metavar="N", help="subnets in a generation (default: 64)")
    parser.add_argument("--generations", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument(
        "--metric",
        choices=["top1", "top5", "probability", "likelihood"],
        help="metric of the supernet that is the score (default: top1); likelihood is exp(-loss)",
    )
    parser.add_argument("--output", type=cli.OutputFile, required=True, metavar="FILE", help="file for the front (JSON)")
    arguments = parser.parse_args()
    config = cli.config_of(arguments)
    if (arguments.weights is None) == (arguments.prior is None):
        raise UserError("give either --weights FILE or --prior NAME")
    if arguments.metric and arguments.prior:
        raise UserError("--metric is of a supernet: it needs --weights FILE")
    if arguments.latency_batch is not None and (arguments.latency_batch < 1 or arguments.max_latency_ms is None):
        raise UserError("--latency-batch must be at least 1, and needs --max-latency-ms")
    limits = {"macs": arguments.max_macs, "params": arguments.max_params, "latency_ms": arguments.max_latency_ms}
    measures = arguments.weights is not None or arguments.max_latency_ms is not None
    cli.check_inputs(arguments, config, config.score.splits if arguments.weights else (), writes=measures)

    from paddle_pgonas import processes
    from paddle_pgonas.searching.search import claim_front, search

    claim_front(arguments.output)  # what cannot be written is refused before the search
    result = search(
        config,
        weights=arguments.weights,
        prior=arguments.prior,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        metric=arguments.metric or "top1",
        population=arguments.population,
        generations=arguments.generations,
        latency_batch=arguments.latency_batch or 1,
    )
    if processes.leads():
        result.write(arguments.output)
        print(result.summary())
        cli.say(f"front: {arguments.output}")


if __name__ == "__main__":
    main()
