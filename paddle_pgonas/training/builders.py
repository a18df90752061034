"""Builds the parts of a training run from the configuration: network, teacher, batches, optimizer."""

from __future__ import annotations

import paddle
from paddle import nn

from paddle_pgonas import distributed
from paddle_pgonas.arch import Arch
from paddle_pgonas.config import Config, Train
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.cache import cache_folder
from paddle_pgonas.data.sources import open_source
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.resnet import ACTIVATIONS, ResNet
from paddle_pgonas.nn.supernet import Supernet, extract, reorder_channels
from paddle_pgonas.nn.weights import activation_of, load_weights, put_weights, read_weights
from paddle_pgonas.runtime import seed_weights


def build_supernet(config: Config) -> Supernet:
    """The configured supernet with its initial weights: random from the seed, or pretrained and (if configured) reordered."""
    seed_weights(config.seed)
    model = config.model
    net = Supernet(config.search_space, model.num_classes, model.activation, model.bn)
    if model.pretrained is not None:
        load_weights(net, model.pretrained, pretrained=True)
        if model.reorder:
            reorder_channels(net)
    return net


def untrained_supernet(config: Config) -> Supernet:
    """The network of ``model.pretrained`` as it is, to be scored without training; reordered if configured.

    Raises:
        UserError: there is none, or it has another activation. A file that does not tell is taken for a ReLU network.
    """
    model = config.model
    if model.pretrained is None:
        raise UserError("model.pretrained: scoring without training needs weights; pass -o model.pretrained=FILE")
    arrays, record = read_weights(model.pretrained)
    activation = activation_of(arrays, record) or "relu"
    if activation != model.activation:
        raise UserError(
            f"{model.pretrained}: a network with {activation!r}, but model.activation is {model.activation!r}; "
            f"without training it is scored as it is: pass -o model.activation={activation}"
        )
    net = Supernet(config.search_space, model.num_classes, model.activation)
    put_weights(net, model.pretrained, arrays, record)
    if model.reorder:
        reorder_channels(net)
    return net


def build_subnet(config: Config, arch: Arch) -> ResNet:
    """One architecture as a network of its own, with random weights from the seed."""
    seed_weights(config.seed)
    return ResNet(arch, config.model.num_classes, config.model.activation)


def build_teacher(config: Config) -> nn.Layer | None:
    """The fixed full network as teacher (``train.teacher``), in evaluation mode; None if there is none."""
    if config.train.teacher is None:
        return None
    arrays, record = read_weights(config.train.teacher)
    told = activation_of(arrays, record)
    full = Supernet(config.search_space, config.model.num_classes, told if told in ACTIVATIONS else "relu")
    put_weights(full, config.train.teacher, arrays, record)
    full.eval()
    return extract(full, config.search_space.largest)


def open_batches(config: Config) -> EpochBatches:
    """The configured training images in batches, of connected processes each its part.

    The first process fills the caches while the others wait.
    """
    leads, world = distributed.leads(), distributed.connected()
    if not leads:
        distributed.barrier()
    source, cache = open_source(config.data, "train", config.model.num_classes), cache_folder(config)
    rank = distributed.rank() if world > 1 else 0
    batches = EpochBatches(source, config.data, cache, config.train.batch_size, config.seed, rank, world)
    source.fingerprint(cache)
    if leads:
        distributed.barrier()
    return batches


def make_optimizer(settings: Train, parameters: list[paddle.Tensor]) -> paddle.optimizer.Optimizer:
    """SGD with momentum; its learning rate is set before each step."""
    clip = None if settings.clip_grad_norm is None else nn.ClipGradByGlobalNorm(settings.clip_grad_norm)
    decay = settings.weight_decay or None
    return paddle.optimizer.Momentum(0.0, settings.momentum, parameters, weight_decay=decay, grad_clip=clip)
