"""Shows that the networks of lanes.cpp are Paddle's: equal weights and images give the same
losses, gradients, weights and running statistics in a training step by both, and then the same evaluation.

    OMP_NUM_THREADS=1 python studies/truth_trainer/check.py
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle
import paddle.nn.functional as F
from lanes import LaneNet

from paddle_pgonas.config.loading import Data
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.space.arch import MINI, Arch
from paddle_pgonas.space.named import find_space

CLASSES, IMAGES, BATCH, SIDE, RATE, MOMENTUM, DECAY = 100, 93, 32, 8, 0.05, 0.9, 5e-4
SMOOTHING = 0.1
TOLERANCE = 1e-4
"""Largest deviation relative to a tensor's largest value. Both sides compute in float32."""
DRAWS = 3
"""Of weights and images. Few and small ones, because rounding decides about a ReLU whose input is close enough to 0."""


def subnets() -> list[Arch]:
    """The largest, the smallest and two random subnets: shortcuts, odd widths, one to four blocks per stage."""
    slim = find_space(str(Path(__file__).resolve().parents[1] / "similar_cost" / "space.yaml"))
    return [slim.largest, MINI.smallest, MINI.sample(random.Random(0)), slim.sample(random.Random(1))]


def tensors(net: LaneNet, source: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters, or their gradients, under Paddle's names and in its layout."""
    named = {}
    for name, (rows, columns, c_in, c_out), (place, affine, _) in net.convolutions():
        conv, norm = (f"blocks.{part}" for part in name.split("|"))
        weight = source[place:affine].reshape(rows, columns, c_in, c_out)
        named[f"{conv}.weight"] = np.ascontiguousarray(weight.transpose(3, 2, 0, 1))
        named[f"{norm}.weight"] = source[affine : affine + c_out]
        named[f"{norm}.bias"] = source[affine + c_out : affine + 2 * c_out]
    head, (weight, bias) = f"blocks.{net.arch.space.first_blocks[-1]}.fc", net.layout.fc
    named[f"{head}.weight"] = source[weight].reshape(-1, net.layout.classes)
    named[f"{head}.bias"] = source[bias]
    return {name: value.copy() for name, value in named.items()}


def running(net: LaneNet) -> dict[str, np.ndarray]:
    """Running statistics under Paddle's names."""
    named = {}
    for name, (_, _, _, c_out), (_, _, place) in net.convolutions():
        norm = f"blocks.{name.split('|')[1]}"
        named[f"{norm}._mean"] = net.statistics[place : place + c_out]
        named[f"{norm}._variance"] = net.statistics[place + c_out : place + 2 * c_out]
    return named


def deviation(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Largest difference of a value, relative to the largest value of its tensor."""
    if set(ours) != set(theirs):
        raise SystemExit(f"the networks have different tensors: {sorted(set(ours) ^ set(theirs))[:4]}")
    return max(float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max().clip(1e-3)) for name in theirs)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the images, in float64. (Paddle bounds its own by 64; one step leaves BatchNorm's statistics far off.)"""
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]).mean())


def compare(arch: Arch, seed: int) -> dict[str, float]:
    """The largest deviations with the weights and images of a seed."""
    rng, data = np.random.default_rng(seed), Data(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
    images = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    labels, batch = rng.integers(0, CLASSES, IMAGES), np.arange(BATCH)
    lanes = LaneNet(arch, SIDE, CLASSES, BATCH)
    lanes.draw(rng)
    before = tensors(lanes, lanes.params)
    lanes.put(images, 0, data, batch)
    loss, _ = lanes.step(labels[batch], RATE, MOMENTUM, DECAY, SMOOTHING)
    gradients = tensors(lanes, lanes.grads)
    _, evaluated = lanes.evaluate(images, labels, data)
    net = ResNet(arch, CLASSES, "relu")
    net.set_state_dict({**net.state_dict(), **{name: paddle.to_tensor(value) for name, value in before.items()}})
    net.train()
    normal = (images.astype(np.float32) / 255 - np.float32(data.mean)) / np.float32(data.std)
    inputs = paddle.to_tensor(normal.transpose(0, 3, 1, 2).astype(np.float32))
    optimizer = paddle.optimizer.Momentum(RATE, MOMENTUM, net.parameters(), weight_decay=DECAY)
    logits, own_labels = net(inputs[:BATCH]), paddle.to_tensor(labels[batch])
    F.cross_entropy(logits, F.label_smooth(F.one_hot(own_labels, CLASSES), epsilon=SMOOTHING), soft_label=True).backward()
    named = {name: one for name, one in net.named_parameters() if not one.stop_gradient}
    seen = {"loss": abs(float(F.cross_entropy(logits, own_labels)) - loss)}
    seen["gradients"] = deviation(gradients, {name: one.grad.numpy() for name, one in named.items()})
    optimizer.step()
    seen["weights"] = deviation(tensors(lanes, lanes.params), {name: one.numpy() for name, one in named.items()})
    buffers = {name: one.numpy() for name, one in net.state_dict().items() if name not in named}
    seen["running statistics"] = deviation(running(lanes), buffers)
    net.eval()
    expected = cross_entropy(net(inputs).numpy(), labels)
    return seen | {"evaluation": abs(expected - evaluated) / expected}


def main() -> None:
    """Compare, and stop with an error beyond the tolerance."""
    paddle.set_device("cpu")
    for arch in subnets():
        found = max((compare(arch, seed) for seed in range(DRAWS)), key=lambda one: max(one.values()))
        print(arch.space.name, arch, ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
        if max(found.values()) > TOLERANCE:
            raise SystemExit(f"{arch}: a deviation is larger than {TOLERANCE}")


if __name__ == "__main__":
    main()
