"""Stand-alone training of single subnets from scratch: what makes a truth file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from tqdm import tqdm

from paddle_pgonas import distributed
from paddle_pgonas.arch import Arch
from paddle_pgonas.config import Config
from paddle_pgonas.data.cache import DecodedImages, validation_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, write_json
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.runtime import seed_weights, select_device, versions
from paddle_pgonas.submission import Candidate, write_scores
from paddle_pgonas.training.losses import cross_entropy
from paddle_pgonas.training.schedules import learning_rate
from paddle_pgonas.training.trainer import make_optimizer, open_batches


def train_standalone(config: Config, arch: Arch, weights: str | Path | None = None) -> float:
    """Train one subnet from random weights with the configuration's recipe; its top-1 on the validation images.

    Recipe: cross-entropy on the labels, SGD with momentum, ``train``'s batch size, epochs, schedule and weight decay,
    ``data``'s augmentation. The seed decides weights, order of images and augmentation.

    Args:
        weights: a file for the trained weights; those of the largest subnet are a teacher (``train.teacher``).

    Raises:
        UserError: the loss is no longer a number.
    """
    select_device(config.device)
    settings = config.train
    batches = open_batches(config)
    seed_weights(config.seed)
    net = ResNet(arch, config.model.num_classes, config.model.activation)
    net.train()
    optimizer = make_optimizer(settings, net.parameters())
    total = min(settings.epochs * batches.steps_per_epoch, settings.max_steps or 2**62)
    with tqdm(total=total, desc=f"training {arch}", unit="step", delay=5, mininterval=1, dynamic_ncols=True) as bar:
        while bar.n < total:
            for images, labels in batches.epoch_from(bar.n // batches.steps_per_epoch, 0):
                loss = cross_entropy(net(to_network(images, config.data)), labels)
                loss.backward()
                optimizer.set_lr(learning_rate(settings, bar.n, batches.steps_per_epoch, settings.batch_size))
                optimizer.step()
                optimizer.clear_grad()
                bar.update()
                if bar.n == total:
                    break
            if not math.isfinite(float(loss)):
                raise UserError(f"{arch}: the loss is {float(loss)}: training diverged; lower train.lr_per_256")
    acc = accuracy(net, validation_images(config), config)
    if weights is not None:
        model = config.model
        record = {"space": config.space, "activation": model.activation, "num_classes": model.num_classes, "arch": arch.code}
        save_weights(weights, net, record | {"acc": acc, "config": dataclasses.asdict(config), "versions": versions()})
    return acc


def accuracy(net: ResNet, images: DecodedImages, config: Config) -> float:
    """Top-1 of a network in evaluation mode."""
    net.eval()
    right, size = 0, config.score.batch_size
    with paddle.no_grad():
        for start in range(0, len(images.labels), size):
            x = to_network(paddle.to_tensor(np.ascontiguousarray(images.images[start : start + size])), config.data)
            right += int((net(x).argmax(-1).numpy() == images.labels[start : start + size]).sum())
    return right / len(images.labels)


def make_truth(config: Config, candidates: Sequence[Candidate], output: str | Path) -> None:
    """Train every candidate that has no result yet and write the truth file, after each one anew.

    Results are kept one file per subnet in ``<output_dir>/standalone/``, in a folder named after everything they depend on,
    so that a killed run goes on with the rest. Processes started with ranks (python -m paddle.distributed.launch) take
    turns; each writes the results that are there, the last one all of them.
    """
    folder = Path(config.output_dir) / "standalone" / _recipe_key(config)
    for candidate in candidates[distributed.rank() :: distributed.world()]:
        path = folder / f"{candidate.arch}.json"
        if path.exists():
            continue
        started = time.time()
        acc = train_standalone(config, candidate.arch)
        record = {"acc": acc, "seconds": round(time.time() - started, 1), "versions": versions()}
        write_json(path, record | {"config": dataclasses.asdict(config)})
        _write_results(candidates, folder, output)
    _write_results(candidates, folder, output)


def _write_results(candidates: Sequence[Candidate], folder: Path, output: str | Path) -> None:
    done = [candidate for candidate in candidates if (folder / f"{candidate.arch}.json").exists()]
    accs = [read_json(folder / f"{candidate.arch}.json", "result")["acc"] for candidate in done]
    write_scores(output, done, accs)
    print(f"{len(done)} of {len(candidates)} subnets trained: {output}")


def _recipe_key(config: Config) -> str:
    """Changes with whatever changes a result."""
    plain: dict[str, Any] = dataclasses.asdict(config)
    for free in ("output_dir", "device", "score"):
        plain.pop(free)
    for free in ("cache_dir", "workers"):
        plain["data"].pop(free)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
