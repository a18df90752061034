"""Priors at initialisation: one batch of training images through each subnet with random weights, for several seeds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_pgonas.config.loading import Config
from paddle_pgonas.data.batches import labelled_images
from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.records import Store, checksum
from paddle_pgonas.nn.building import build_subnet
from paddle_pgonas.nn.resnet import BasicBlock, ResNet, Stem
from paddle_pgonas.priors.by_name import AT_INITIALISATION
from paddle_pgonas.priors.first_pass import GRADIENTS, FirstPass
from paddle_pgonas.progress import Progress, say_once
from paddle_pgonas.runtime import device_name, select_device
from paddle_pgonas.space.arch import Arch

CHUNK = 4
"""Subnets that are stored together; a kill loses at most one chunk."""
VERSION = 1
"""Of the computation; raise it when values change."""


def untrained_values(config: Config, name: str, archs: Sequence[Arch], seeds: int, images: int) -> np.ndarray:
    """A prior of :data:`AT_INITIALISATION` for every architecture and seed: float64 [len(archs), seeds].

    Seed s has the weights of ``config.seed + s`` and a batch of its own of ``images`` training images, without augmentation.
    Finished chunks are kept in ``<output_dir>/priors``, so that an interrupted call continues. Raises UserError if there are too
    few images, or a value is not finite.
    """
    select_device(config.device, config.exhaustive_search)
    folder = Path(config.output_dir) / "priors"
    say_once(
        f"{name} of {len(archs):,} subnets on {device_name()}: {seeds} seeds of {images} training images, kept in {folder}",
        error=False,
    )
    batches = _batches(config, seeds, images)
    store = Store(folder, _identity(config, name, archs, batches))
    if kept := len(store.names()):
        say_once(
            f"{kept} of {-(-len(archs) // CHUNK)} chunks of these subnets, images and weights are already there", error=False
        )
    values = np.empty((len(archs), seeds))
    with Progress(len(archs), name, "subnets") as bar:
        for start in range(0, len(archs), CHUNK):
            chunk = slice(start, start + CHUNK)
            entry = store.get(f"from-{start:05d}")
            if entry is None:
                for row, arch in enumerate(archs[chunk], start):
                    values[row] = [value_of(config, name, arch, config.seed + seed, *of) for seed, of in enumerate(batches)]
                    bar.update()
                store.put(f"from-{start:05d}", {}, {"values": values[chunk]})
            else:
                values[chunk] = entry.arrays["values"]
                bar.skip_to(min(start + CHUNK, len(archs)))
    return values


def _batches(config: Config, seeds: int, images: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [images, S, S, 3] and labels [images] of each seed; each batch is spread evenly over the training list."""
    pixels, labels = labelled_images(open_images(config).train_source, config.data, seeds * images)
    if len(labels) < seeds * images:
        raise UserError(f"--images {images} x --seeds {seeds}: there are only {len(labels)} training images; give fewer")
    return [(np.ascontiguousarray(pixels[seed::seeds]), labels[seed::seeds].copy()) for seed in range(seeds)]


def _identity(
    config: Config, name: str, archs: Sequence[Arch], batches: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, object]:
    """Everything that the values depend on."""
    named = {
        f"{what}{seed}": part for seed, of in enumerate(batches) for what, part in zip(("images", "labels"), of, strict=True)
    }
    return {
        "kept": "priors at initialisation",
        "version": VERSION,
        "prior": name,
        "archs": [arch.code for arch in archs],
        "space": config.space,
        "batches": checksum({}, named),
        "normalisation": [config.data.mean, config.data.std],
        "model": [config.model.num_classes, config.model.activation],
        "seed": config.seed,
    }


def value_of(config: Config, name: str, arch: Arch, seed: int, images: np.ndarray, labels: np.ndarray) -> float:
    """A prior of one architecture with the weights of a seed: images uint8 [N, S, S, 3], labels int64 [N]."""
    net = build_subnet(arch, config.model.num_classes, config.model.activation, seed)
    x, y = to_network(images, config.data), paddle.to_tensor(labels)
    value = AT_INITIALISATION[name](first_pass(net, x, y, name in GRADIENTS, seed))
    if not math.isfinite(value):
        raise UserError(f"prior {name}: is {value} for {arch}; are there equal images among the training images?")
    return value


def first_pass(net: ResNet, x: paddle.Tensor, y: paddle.Tensor, gradients: bool, seed: int) -> FirstPass:
    """What a network does with a batch: images [N, 3, S, S], normalised, and labels int64 [N]."""
    before: list[paddle.Tensor] = []
    after: list[paddle.Tensor] = []

    def note(inside: paddle.Tensor, outside: paddle.Tensor) -> None:
        before.append(inside.detach())
        after.append(outside.detach())

    for layer in net.sublayers():
        if isinstance(layer, Stem | BasicBlock):
            inner = layer.bn if isinstance(layer, Stem) else layer.bn1  # followed by a ReLU that is no layer
            inner.register_forward_post_hook(lambda _, inputs, output: note(output, F.relu(output)))
        if isinstance(layer, BasicBlock):
            layer.act.register_forward_post_hook(lambda _, inputs, output: note(inputs[0], output))
    net.train()
    with contextlib.nullcontext() if gradients else paddle.no_grad():
        logits = net(x)
    if not gradients:
        return FirstPass(before, after, [], [], np.random.default_rng(seed))
    F.cross_entropy(logits, y).backward()
    weights = [layer.weight for layer in net.sublayers() if isinstance(layer, nn.Conv2D | nn.Linear)]
    return FirstPass(before, after, weights, [weight.grad for weight in weights], np.random.default_rng(seed))
