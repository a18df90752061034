"""Shows that the networks of lanes.cu are those of lanes.cpp, which check.py compares with Paddle: equal losses, gradients,
weights and running statistics in a training step, and an equal evaluation.

The two may live on two machines, so the check has two halves; the second needs numpy and a GPU only:

    python studies/truth_trainer/gpu_check.py write FILE.npz
    python studies/truth_trainer/gpu_check.py compare FILE.npz [--emulate]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gpu import GpuNet, Kept, in_order
from layout import LANES, Layout

COUNT, CLASSES, BATCH, SIDE, PAD, RATE, MOMENTUM, DECAY = 100, 100, 16, 16, 2, 0.05, 0.9, 5e-4
TOLERANCE, AGREEING = 1e-4, 12
"""So many of the 16 lanes must have no larger deviation, relative to the largest value. In the others a ReLU's input may be so
close to 0 that rounding decides its gradient. Every lane's loss must have none."""


def seeds(subnet: int) -> list[tuple[int, int]]:
    """Of each lane's first weights."""
    return [(subnet, lane) for lane in range(LANES)]


def write(path: Path) -> None:
    """The processor's half."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

    from check import subnets
    from lanes import LaneNet, normalisation

    from paddle_pgonas.config.loading import Data

    data, rng = Data(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3)), np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, SIDE + 2 * PAD, SIDE + 2 * PAD, 3), dtype=np.uint8)
    labels, chosen = rng.integers(0, CLASSES, COUNT), rng.integers(0, COUNT, (LANES, BATCH))
    moves = rng.integers(0, 2 * PAD + 1, (LANES, BATCH, 3))
    moves[..., 2] %= 2
    held_out = np.ascontiguousarray(images[:, PAD:-PAD, PAD:-PAD])
    about: dict[str, Any] = {"normalisation": [values.tolist() for values in normalisation(data)], "subnets": []}
    arrays = {"images": images, "labels": labels, "chosen": chosen, "moves": moves, "held_out": held_out}
    for number, arch in enumerate(subnets()[:2] + subnets()[3:]):  # one of the wide ones is enough of a file
        lanes = []
        for lane, seed in enumerate(seeds(number)):
            net = LaneNet(arch, SIDE, CLASSES, BATCH)
            net.draw(np.random.default_rng(seed))
            net.put(images, PAD, data, chosen[lane], moves[lane])
            loss, _ = net.step(labels[chosen[lane]], RATE, MOMENTUM, DECAY)
            found = {"loss": loss, "gradients": net.grads, "weights": net.params, "running statistics": net.statistics}
            found = {name: np.copy(value) for name, value in found.items()}
            found["top-1"], found["evaluation"] = map(np.array, net.evaluate(held_out, labels, data))
            lanes.append(found)
        about["subnets"].append({"stem": net.layout.stem, "blocks": net.layout.blocks, "arch": str(arch)})
        arrays |= {f"{number} {name}": np.stack([found[name] for found in lanes], axis=-1) for name in lanes[0]}
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)


def compare(path: Path, emulated: bool) -> None:
    """The GPU's half; stops with an error if the networks differ."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    sets = (about["normalisation"], arrays["chosen"][None], arrays["moves"][None], np.array([RATE]), emulated)
    kept = Kept(arrays["images"], arrays["labels"], *sets)
    held_out = Kept(arrays["held_out"], arrays["labels"], about["normalisation"], in_order(COUNT, BATCH), emulated=emulated)
    for number, subnet in enumerate(about["subnets"]):
        layout = Layout(SIDE, CLASSES, subnet["stem"], tuple(map(tuple, subnet["blocks"])))
        net = GpuNet(layout, BATCH, *layout.first_values(seeds(number)), emulated)
        seen = {"loss": net.train(kept, 1, MOMENTUM, DECAY) / BATCH}
        seen |= {"gradients": net.fetch(1), "weights": net.fetch(0), "running statistics": net.fetch(2)}
        top1, seen["evaluation"] = net.evaluate(held_out, COUNT)
        apart = {}
        for name, value in seen.items():
            expected = arrays[f"{number} {name}"]
            by_lane = np.abs(value - expected).reshape(-1, LANES).max(0) / np.abs(expected).max()
            apart[name] = float(np.sort(by_lane)[LANES - 1 if name == "loss" else AGREEING - 1])
        print(subnet["arch"], ", ".join(f"{name} {value:.1e}" for name, value in apart.items()), flush=True)
        other = COUNT * np.abs(top1 - arrays[f"{number} top-1"])
        if max(apart.values()) > TOLERANCE or np.sort(other)[AGREEING - 1] > 0.5:
            raise SystemExit(f"{subnet['arch']}: a deviation is larger than {TOLERANCE}")


def main() -> None:
    """Run one half of the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("half", choices=["write", "compare"])
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--emulate", action="store_true", help="on the processor, slow, to test lanes.cu without a GPU")
    arguments = parser.parse_args()
    if arguments.half == "write":
        write(arguments.file)
    else:
        compare(arguments.file, arguments.emulate)


if __name__ == "__main__":
    main()
