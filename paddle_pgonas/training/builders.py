"""Builds the parts of a training run from the configuration: batches and optimizer."""

from __future__ import annotations

import paddle
from paddle import nn

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config, Train
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.images import open_images


def open_batches(config: Config) -> EpochBatches:
    """The configured training images in batches, of connected processes each its part.

    The first process fills the caches while the others wait.
    """
    leads, world = processes.leads(), processes.connected()
    if not leads:
        processes.barrier()
    images = open_images(config)
    rank = processes.rank() if world > 1 else 0
    batches = EpochBatches(images.train_source, config.data, images.cache, config.train.batch_size, config.seed, rank, world)
    images.train_source.fingerprint(images.cache)
    if leads:
        processes.barrier()
    return batches


def make_optimizer(settings: Train, parameters: list[paddle.Tensor]) -> paddle.optimizer.Optimizer:
    """SGD with momentum; its learning rate is set before each step."""
    clip = None if settings.clip_grad_norm is None else nn.ClipGradByGlobalNorm(settings.clip_grad_norm)
    decay = settings.weight_decay or None
    return paddle.optimizer.Momentum(0.0, settings.momentum, parameters, weight_decay=decay, grad_clip=clip)
