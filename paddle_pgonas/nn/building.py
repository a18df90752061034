"""Networks with their first weights: random from a seed, pretrained, or those of a fixed teacher.

Only the initialization of weights uses Paddle's generator. All other randomness (subnets, images, augmentation) comes from
generators made from (seed, purpose, step), so that a resumed run draws the same as an uninterrupted one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import paddle
from paddle import nn

from paddle_pgonas import processes
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.records import Record
from paddle_pgonas.nn.resnet import ACTIVATIONS, ResNet
from paddle_pgonas.nn.supernet import Supernet, extract, reorder_channels
from paddle_pgonas.nn.weights import (
    Check,
    activation_of,
    is_supernet,
    load_alone,
    load_weights,
    read_weights,
    unchecked,
)
from paddle_pgonas.space.arch import Arch, SearchSpace

Reorder = bool | Literal["always"]
"""Whether pretrained channels are sorted: those of a network (True), also those of a trained supernet (``always``), or none."""


def build_supernet(
    space: SearchSpace,
    seed: int,
    *,
    num_classes: int,
    activation: str,
    bn: str,
    pretrained: str | None,
    reorder: Reorder,
    check: Check = unchecked,
) -> Supernet:
    """A supernet with its initial weights: random from the seed, or pretrained and (if wanted) reordered."""
    paddle.seed(seed)
    net = Supernet(space, num_classes, activation, bn)
    if pretrained is not None:
        _reorder(net, pretrained, load_weights(net, pretrained, pretrained=True, check=check), reorder)
    return net


def _reorder(net: Supernet, path: str, record: Record, reorder: Reorder) -> None:
    """Sort the channels of loaded weights, unless they are a supernet's, whose subnets were trained in the order that they have.

    The first process says what was done.
    """
    trained = is_supernet(record)
    if wanted := reorder == "always" or (reorder and not trained):
        reorder_channels(net)
    kept = "left in the order of the trained supernet" if trained and reorder else "left in their order"
    if processes.rank() == 0:
        print(f"{path}: channels {'sorted by importance' if wanted else kept} (model.reorder={str(reorder).lower()})")


def build_untrained(
    space: SearchSpace,
    num_classes: int,
    activation: str,
    *,
    pretrained: str | None,
    reorder: Reorder,
    check: Check = unchecked,
) -> tuple[Supernet, Record]:
    """The network of a file as it is (ReLU, unless it tells), to be scored, and the file's record.

    Raises UserError for no file or another activation.
    """
    if pretrained is None:
        raise UserError("model.pretrained: scoring without training needs weights; pass -o model.pretrained=FILE")
    arrays, written = read_weights(pretrained)
    net = Supernet(space, num_classes, activation)
    theirs = activation_of(arrays, written) or "relu"
    if theirs != activation:
        raise UserError(
            f"{pretrained}: a network with {theirs!r}, but model.activation is {activation!r}; "
            f"without training it is scored as it is: pass -o model.activation={theirs}"
        )
    record = load_weights(net, pretrained, check=check)
    _reorder(net, pretrained, record, reorder)
    return net, record


def build_subnet(
    arch: Arch, num_classes: int, activation: str, seed: int, start: str | Path | None = None, check: Check = unchecked
) -> ResNet:
    """One architecture as a network of its own: random weights from the seed, or the stand-alone weights of a file."""
    paddle.seed(seed)
    net = ResNet(arch, num_classes, activation)
    if start is not None:
        arrays, record = read_weights(start)
        check(start, record)
        load_alone(net, activation, start, arrays, record)
    return net


def build_teacher(space: SearchSpace, num_classes: int, path: str, check: Check = unchecked) -> nn.Layer:
    """The full network of a weight file, fixed, in evaluation mode, with the activation of its record (ReLU without one)."""
    activation = activation_of(*read_weights(path))
    full = Supernet(space, num_classes, activation if activation in ACTIVATIONS else "relu")
    load_weights(full, path, check=check)
    full.eval()
    teacher = extract(full, space.largest)
    for parameter in teacher.parameters():
        parameter.stop_gradient = True
    return teacher
