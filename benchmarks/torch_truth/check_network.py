"""Shows that the PyTorch network is Paddle's: equal logits from equal weights, and equal running statistics after training steps.

The two frameworks live in two environments, so the check has two halves, the first in the project's, the second in PyTorch's::

    python benchmarks/torch_truth/check_network.py write DIR
    python benchmarks/torch_truth/check_network.py compare DIR
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from paddle_pgonas.arch import SPACES, Arch
from paddle_pgonas.files import read_json, write_json

CLASSES, BATCH, STEPS, RATE, MOMENTUM, DECAY = 10, 32, 3, 1e-4, 0.9, 5e-4
TOLERANCE = 1e-5
"""Largest deviation allowed in evaluation, relative to the largest logit."""
TRAINED_TOLERANCE = 1e-3
"""The same behind training steps, in which rounding grows."""


def subnets() -> list[Arch]:
    """The largest, the smallest and a random subnet of each space for small images."""
    small = [space for space in SPACES.values() if space.stem_kernel == 3]
    return [arch for space in small for arch in (space.largest, space.smallest, space.sample(random.Random(0)))]


def write(folder: Path) -> None:
    """Paddle's half: weights of random networks, images and logits; logits again behind training steps."""
    import paddle

    from paddle_pgonas.nn.resnet import ResNet
    from paddle_pgonas.nn.weights import save_weights

    folder.mkdir(parents=True, exist_ok=True)
    paddle.set_device("cpu")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, 3, 16, 16)).astype(np.float32)
    labels = rng.integers(0, CLASSES, BATCH)
    arrays = {"images": images, "labels": labels}
    for number, arch in enumerate(subnets()):
        paddle.seed(number)
        net = ResNet(arch, CLASSES, "relu")
        net.train()
        net(paddle.to_tensor(images * 2 + 1))  # running statistics that differ from their first values
        save_weights(folder / f"{number}.safetensors", net, {"arch": arch.code, "space": arch.space.name})
        net.eval()
        arrays[f"{number}/before"] = net(paddle.to_tensor(images)).numpy()
        net.train()
        optimizer = paddle.optimizer.Momentum(RATE, MOMENTUM, net.parameters(), weight_decay=DECAY)
        for _ in range(STEPS):
            paddle.nn.functional.cross_entropy(net(paddle.to_tensor(images)), paddle.to_tensor(labels)).backward()
            optimizer.step()
            optimizer.clear_grad()
        net.eval()
        arrays[f"{number}/after"] = net(paddle.to_tensor(images)).numpy()
    np.savez(folder / "logits.npz", **arrays)
    write_json(folder / "subnets.json", [{"space": arch.space.name, "code": arch.code} for arch in subnets()])


def compare(folder: Path) -> None:
    """PyTorch's half: the same from the same weights."""
    import torch
    import torch.nn.functional as F
    from network import ResNet
    from safetensors.numpy import load_file

    torch.manual_seed(0)
    arrays, worst = np.load(folder / "logits.npz"), [0.0, 0.0]
    images = torch.from_numpy(arrays["images"]).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(arrays["labels"])
    for number, found in enumerate(read_json(folder / "subnets.json", "list of subnets")):
        arch = SPACES[found["space"]].parse(found["code"])
        net = ResNet(arch, CLASSES).to(memory_format=torch.channels_last)
        net.load(load_file(folder / f"{number}.safetensors"))
        with torch.no_grad():
            before = net.eval()(images).numpy()
        optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
        variances = {name: value.clone() for name, value in net.named_buffers() if name.endswith("running_var")}
        net.train()
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
        net.correct_variances(variances)
        with torch.no_grad():
            after = net.eval()(images).numpy()
        apart = [
            float(np.abs(logits - arrays[f"{number}/{half}"]).max() / np.abs(arrays[f"{number}/{half}"]).max())
            for half, logits in (("before", before), ("after", after))
        ]
        worst = list(map(max, worst, apart))
        print(f"{arch.space.name:12} {arch} {apart[0]:.1e} {apart[1]:.1e}", flush=True)
    print(f"largest deviation: {worst[0]:.1e} as loaded, {worst[1]:.1e} behind {STEPS} training steps")
    if worst[0] > TOLERANCE or worst[1] > TRAINED_TOLERANCE:
        sys.exit(f"more than {TOLERANCE:.0e} or {TRAINED_TOLERANCE:.0e}: the two networks are not the same")


def main() -> None:
    """Run one half of the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("half", choices=["write", "compare"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    {"write": write, "compare": compare}[arguments.half](arguments.folder)


if __name__ == "__main__":
    main()
