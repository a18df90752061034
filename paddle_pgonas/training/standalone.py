"""Stand-alone training of single subnets from scratch: what makes a truth file."""

from __future__ import annotations

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
from paddle_pgonas.data.cache import DecodedImages, training_fingerprint, validation_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.locks import exclusive
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.runtime import seed_weights, select_device, versions
from paddle_pgonas.store import Store
from paddle_pgonas.submission import Candidate, write_scores
from paddle_pgonas.training.builders import make_optimizer, open_batches
from paddle_pgonas.training.losses import cross_entropy
from paddle_pgonas.training.schedules import learning_rate


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
        save_weights(weights, net, record | {"acc": acc, "config": config.model_dump(mode="json"), "versions": versions()})
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

    Results are kept one file per subnet in a store in ``<output_dir>/standalone/``, so that a killed run goes on with the rest.
    Processes started with ranks (python -m paddle.distributed.launch) take turns; each writes the results that are there, the
    last one all of them.
    """
    store = Store(Path(config.output_dir) / "standalone", identity(config))
    with exclusive(store.folder, "standalone"):
        for candidate in candidates[distributed.rank() :: distributed.world()]:
            if store.get(candidate.arch.code) is not None:
                continue
            started = time.time()
            acc = train_standalone(config, candidate.arch)
            record = {"acc": acc, "seconds": round(time.time() - started, 1), "versions": versions()}
            store.put(candidate.arch.code, record | {"config": config.model_dump(mode="json")})
            _write_results(candidates, store, output)
        _write_results(candidates, store, output)


def _write_results(candidates: Sequence[Candidate], store: Store, output: str | Path) -> None:
    results = [(candidate, entry) for candidate in candidates if (entry := store.get(candidate.arch.code)) is not None]
    write_scores(output, [candidate for candidate, _ in results], [entry.record["acc"] for _, entry in results])
    print(f"{len(results)} of {len(candidates)} subnets trained: {output}")


RECIPE = (
    "epochs",
    "max_steps",
    "batch_size",
    "clip_grad_norm",
    "lr_per_256",
    "momentum",
    "weight_decay",
    "schedule",
    "warmup_epochs",
    "warmup_images",
)
"""The keys of ``train`` that can change a stand-alone result; the others belong to the supernet or change nothing."""


def identity(config: Config) -> dict[str, Any]:
    """Everything that a stand-alone result depends on beside the architecture; images by their contents."""
    data, model = config.data, config.model
    return {
        "kept": "stand-alone results",
        "space": config.space,
        "seed": config.seed,
        "training_images": training_fingerprint(config),
        "validation_images": validation_images(config).fingerprint,
        "data": {name: getattr(data, name) for name in ("image_size", "resize", "augment", "mean", "std")},
        "model": {"num_classes": model.num_classes, "activation": model.activation},
        "train": {name: getattr(config.train, name) for name in RECIPE},
    }
