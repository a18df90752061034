"""Networks with their first weights: random from a seed, pretrained, or those of a fixed teacher.

Only the initialization of weights uses Paddle's generator. All other randomness (subnets, images, augmentation) comes from
generators made from (seed, purpose, step), so that a resumed run draws the same as an uninterrupted one.
"""

from __future__ import annotations

import paddle
from paddle import nn

from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.resnet import ACTIVATIONS, ResNet
from paddle_pgonas.nn.supernet import Supernet, extract, reorder_channels
from paddle_pgonas.nn.weights import activation_of, load_weights, put_weights, read_weights, require_weights
from paddle_pgonas.space.arch import Arch, SearchSpace


def build_supernet(
    space: SearchSpace, seed: int, *, num_classes: int, activation: str, bn: str, pretrained: str | None, reorder: bool
) -> Supernet:
    """A supernet with its initial weights: random from the seed, or pretrained and (if wanted) reordered."""
    paddle.seed(seed)
    net = Supernet(space, num_classes, activation, bn)
    if pretrained is not None:
        load_weights(net, pretrained, pretrained=True)
        if reorder:
            reorder_channels(net)
    return net


def build_untrained(space: SearchSpace, num_classes: int, activation: str, *, pretrained: str | None, reorder: bool) -> Supernet:
    """The network of a file as it is (ReLU, unless it tells), to be scored. Raises UserError for no file or other activations."""
    if pretrained is None:
        raise UserError("model.pretrained: scoring without training needs weights; pass -o model.pretrained=FILE")
    arrays, record = read_weights(pretrained)
    net = Supernet(space, num_classes, activation)
    require_weights(net, pretrained, arrays)
    theirs = activation_of(arrays, record) or "relu"
    if theirs != activation:
        raise UserError(
            f"{pretrained}: a network with {theirs!r}, but model.activation is {activation!r}; "
            f"without training it is scored as it is: pass -o model.activation={theirs}"
        )
    put_weights(net, pretrained, arrays, record)
    if reorder:
        reorder_channels(net)
    return net


def build_subnet(arch: Arch, num_classes: int, activation: str, seed: int) -> ResNet:
    """One architecture as a network of its own, with random weights from the seed."""
    paddle.seed(seed)
    return ResNet(arch, num_classes, activation)


def build_teacher(space: SearchSpace, num_classes: int, path: str) -> nn.Layer:
    """The full network of a weight file, fixed, in evaluation mode, with the activation of its record (ReLU without one)."""
    arrays, record = read_weights(path)
    told = activation_of(arrays, record)
    full = Supernet(space, num_classes, told if told in ACTIVATIONS else "relu")
    put_weights(full, path, arrays, record)
    full.eval()
    teacher = extract(full, space.largest)
    for parameter in teacher.parameters():
        parameter.stop_gradient = True
    return teacher
