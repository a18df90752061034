"""What low precision does to a ranking, measured on one supernet.

Scores 500 random subnets of space mini_thin (bounds on widths as in the challenge) as usual, and with inputs, weights and outputs
of every convolution rounded to bfloat16. README.md beside this file has the commands.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import paddle

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.data.images import open_images
from paddle_pgonas.io.files import write_json
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights
from paddle_pgonas.runtime import versions
from paddle_pgonas.scores.correlation import kendall
from paddle_pgonas.scoring import scorer
from paddle_pgonas.scoring.session import metric_values
from paddle_pgonas.scoring.walker import Maps, Slices, Walker
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.named import find_space
from paddle_pgonas.space.subspace import Subspace

HOME = Path(__file__).resolve().parent
SPACE_FILE = HOME / "space.yaml"
SPACE = find_space(str(SPACE_FILE))
SUBNETS, CODES = 500, (3, 5, 7)
IMAGES = 1000
METRICS = ("top1", "likelihood")


def rounded(x: paddle.Tensor) -> paddle.Tensor:
    """The nearest bfloat16 values, as float32."""
    return x.astype("bfloat16").astype("float32")


class RoundedSlices(Slices):
    """Convolutions' weights as bfloat16."""

    def filters(self, name: str, start: int, stop: int, c_out: int) -> paddle.Tensor:
        """The rounded filters."""
        return rounded(super().filters(name, start, stop, c_out))


class RoundingWalker(Walker):
    """Computes in float32 what a GPU would keep in bfloat16: inputs, weights and outputs of layers are rounded."""

    def __init__(self, net: Supernet, *arguments: str) -> None:
        super().__init__(net, *arguments)
        self.weights = RoundedSlices(net.weights(), self.dtype)

    def _conv(self, name: str, maps: Maps, start: int, c_out: int, stride: int) -> Maps:
        return [rounded(x) for x in super()._conv(name, [rounded(x) for x in maps], start, c_out, stride)]

    def _batch_norm(self, *arguments: object) -> Maps:
        return [rounded(x) for x in super()._batch_norm(*arguments)]  # type: ignore[arg-type]

    def _activate(self, index: int, x: paddle.Tensor) -> paddle.Tensor:
        return rounded(super()._activate(index, rounded(x)))


def subnets() -> list[Arch]:
    """The subnets that are scored."""
    rng, archs = random.Random(0), dict[Arch, None]()
    while len(archs) < SUBNETS:
        archs[Subspace(SPACE, CODES).sample(rng)] = None
    return list(archs)


def measure(net: Supernet, archs: list[Arch], config: Config, folder: Path) -> np.ndarray:
    """The metrics; chunks that were scored before are not scored again."""
    return scorer.score(net, archs, open_images(config).for_scoring(config.score), config.data, config.score, folder)


def main() -> None:
    """Measure and write precision.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="CIFAR-10 as DIR/train/<class>/* and DIR/val/<class>/*")
    parser.add_argument("--weights", required=True, help="the supernet")
    parser.add_argument("--work", type=Path, required=True, help="working files")
    arguments = parser.parse_args()
    options = [f"space={SPACE_FILE}", f"data.root={arguments.root}", f"output_dir={arguments.work}", f"data.val_limit={IMAGES}"]
    config = load_config(HOME.parent / "wide" / "random_sandwich.yaml", options)
    net, archs = Supernet(SPACE, config.model.num_classes, config.model.activation), subnets()
    record = load_weights(net, arguments.weights)
    started = time.process_time()
    scorer.Walker = RoundingWalker  # type: ignore[misc]
    low = measure(net, archs, config, arguments.work / "bfloat16")
    scorer.Walker = Walker  # type: ignore[misc]
    same = measure(net, archs, config, arguments.work / "float32")
    results = {
        "subnets": len(archs),
        "images": IMAGES,
        "tau": {metric: kendall(metric_values(low, metric), metric_values(same, metric)) for metric in METRICS},
        "top1_change": {"mean": 100 * (low - same)[:, 0].mean(), "largest": 100 * np.abs(low - same)[:, 0].max()},
        "trained_steps": record.get("step"),
        "processor_seconds": round(time.process_time() - started),
        "versions": versions(),
    }
    write_json(HOME / "precision.json", results)
    print(results)


if __name__ == "__main__":
    main()
