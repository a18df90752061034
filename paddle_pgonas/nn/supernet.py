"""The supernet: the full ResNet converted by PaddleSlim; any architecture can be selected as the active subnet."""

from __future__ import annotations

import paddle
from paddle import nn

from paddle_pgonas.nn.elastic import ElasticBatchNorm2D, ElasticConv2D
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.slim import OFA, Convert, SuperConv2D, conversion
from paddle_pgonas.priors.geometry import convolutions
from paddle_pgonas.space.arch import Arch, SearchSpace


class Supernet(OFA):
    """An OFA model over a search space. A call computes the logits of the active subnet (the largest at first).

    A subnet uses the first blocks of each stage and the leading channels of every tensor. PaddleSlim's layers slice weights
    by the configured channels; :class:`ElasticBatchNorm2D` slices by the channels of its input.
    """

    active_subnet: Arch
    """The architecture that calls compute."""

    def __init__(self, space: SearchSpace, num_classes: int = 1000, activation: str = "relu", bn: str = "batch") -> None:
        network = ResNet(space.largest, num_classes, activation)
        converted = Convert(conversion(expand_ratio=list(space.ratios))).convert(network)
        _replace_layers(converted, bn)
        super().__init__(converted)
        self.space, self.num_classes, self.activation = space, num_classes, activation
        self.set_active_subnet(space.largest)

    def set_active_subnet(self, arch: Arch) -> None:
        """Select the architecture that calls compute."""
        self.active_subnet = arch
        self.set_net_config(_layer_config(arch))

    def weights(self) -> dict[str, paddle.Tensor]:
        """All parameters and buffers under the challenge's names, not copied."""
        return {plain_name(name): tensor for name, tensor in self.model.state_dict().items()}


def plain_name(name: str) -> str:
    """The challenge's name of a parameter in a converted network: PaddleSlim puts ``fn.`` before the last part."""
    return name.replace(".fn.", ".")


def _layer_config(arch: Arch) -> dict[str, object]:
    """An architecture as a configuration of PaddleSlim's OFA: output channels per converted layer, and the blocks to run."""
    head = arch.space.first_blocks[-1]
    channels = {layer.name: {"channel": layer.c_out} for layer in convolutions(arch, arch.space.image_size)}
    return {**channels, f"blocks.{head}.fc": {}, "depth": ["0", *(str(block.index) for block in arch.blocks), str(head)]}


def _replace_layers(layer: nn.Layer, bn: str) -> None:
    """Replace every BatchNorm by :class:`ElasticBatchNorm2D` and every convolution of PaddleSlim by :class:`ElasticConv2D`."""
    for name, child in list(layer.named_children()):
        if isinstance(child, nn.BatchNorm2D):
            ours = ElasticBatchNorm2D(child._mean.shape[0])
            ours.frozen, ours.synchronised = bn == "frozen", bn == "sync"
            setattr(layer, name, ours)
        elif type(child) is SuperConv2D:
            child.__class__ = ElasticConv2D  # has no state of its own, so the weights need not be copied
        else:
            _replace_layers(child, bn)


def extract(supernet: Supernet, arch: Arch) -> ResNet:
    """A stand-alone network of ``arch`` whose tensors are the leading slices of the supernet's; in the supernet's mode."""
    subnet = ResNet(arch, supernet.num_classes, supernet.activation)
    inherited = supernet.weights()
    for name, tensor in subnet.state_dict().items():
        tensor.set_value(inherited[name][tuple(slice(0, size) for size in tensor.shape)].detach().clone())
    subnet.train() if supernet.training else subnet.eval()
    return subnet


def reorder_channels(supernet: Supernet) -> None:
    """Sort each block's inner channels by decreasing sum of |conv2 weight|: a narrow conv1 keeps the most important ones.

    conv1's outputs, bn1 and conv2's inputs are permuted together, so the function of the full network does not change.
    """
    weights = supernet.weights()
    for block in supernet.space.largest.blocks:
        name = f"blocks.{block.index}"
        conv2 = weights[f"{name}.conv2.weight"]
        order = conv2.abs().sum([0, 2, 3]).argsort(descending=True)
        conv2.set_value(conv2.index_select(order, axis=1))
        for part in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1._mean", "bn1._variance"):
            tensor = weights[f"{name}.{part}"]
            tensor.set_value(tensor.index_select(order, axis=0))
