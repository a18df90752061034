"""Train a supernet by a configuration.

Writes config.yaml, metrics.jsonl, visualdl/, checkpoints/ and supernet.safetensors to the run's folder (output_dir). With
--resume an interrupted run continues from its last checkpoint and ends with the same weights as an uninterrupted one. With
python -m paddle.distributed.launch the processes share each step's images, train.batch_size each.
"""

from paddle_pgonas import cli
from paddle_pgonas.config.loading import files_read


@cli.command
def main() -> None:
    cli.outlive_readers()
    parser = cli.Parser(__doc__)
    cli.add_config(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in output_dir")
    parser.add_argument(
        "--resume-with-other-data", action="store_true", help="the same with other training images than those of the checkpoint"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew: what an earlier run wrote in output_dir is removed")
    arguments = parser.parse_args()
    config = cli.config_of(arguments)
    if config.method is not None:  # else that is what is wrong
        cli.check_inputs(arguments, config, config.train.splits, reads=files_read(config))

    from paddle_pgonas import processes
    from paddle_pgonas.training.trainer import train

    weights = train(config, arguments.resume, arguments.resume_with_other_data, arguments.overwrite)
    if processes.rank() == 0:
        cli.say(f"weights: {weights}")


if __name__ == "__main__":
    main()
