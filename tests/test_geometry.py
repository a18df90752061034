"""The layers of an architecture against the published network's shapes, convolution arithmetic and networks that are run."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.priors.geometry import TRUNK, Layer, convolutions, layers
from paddle_pgonas.space.arch import MINI, SPACES, TRACK1, SearchSpace

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
RANDOM = st.randoms(use_true_random=False)


@pytest.mark.parametrize(("space", "image_size"), [(MINI, 16), (MINI, 13), (TRACK1, 40), (TRACK1, 33)])
def test_layers_are_those_that_a_network_computes(space: SearchSpace, image_size: int) -> None:
    arch = space.sample(random.Random(image_size))
    net = ResNet(arch, 10, "relu")
    computed: dict[str, tuple[int, ...]] = {}

    def note(name: str, kernel: int, stride: int) -> Any:
        def hook(layer: nn.Layer, inputs: tuple[paddle.Tensor], output: paddle.Tensor) -> None:
            [x] = inputs
            sides = (x.shape[2], output.shape[2]) if x.ndim == 4 else (1, 1)
            computed[name] = (x.shape[1], output.shape[1], kernel, stride, *sides)

        return hook

    weights = 0
    for name, layer in net.named_sublayers():
        if isinstance(layer, nn.Conv2D):
            layer.register_forward_post_hook(note(name, layer.weight.shape[2], layer._stride[0]))
        elif isinstance(layer, nn.Linear):
            layer.register_forward_post_hook(note(name, 1, 1))
        weights += sum(parameter.size for parameter in layer.parameters(include_sublayers=False) if parameter.trainable)
    net.eval()
    net(paddle.zeros([1, 3, image_size, image_size]))

    def shape(layer: Layer) -> tuple[int, ...]:
        return (layer.c_in, layer.c_out, layer.kernel, layer.stride, layer.side_in, layer.side)

    listed = layers(arch, image_size, 10)
    assert {layer.name: shape(layer) for layer in listed} == computed
    assert sum(layer.params for layer in listed) == weights


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, image_size=st.integers(8, 230))
def test_each_layer_of_the_trunk_reads_what_the_one_before_wrote(space: SearchSpace, rng: random.Random, image_size: int) -> None:
    trunk = [layer for layer in convolutions(space.sample(rng), image_size) if layer.part in TRUNK]
    stem, *blocks = trunk
    assert (stem.c_in, stem.side_in) == (3, image_size)
    assert blocks[0].c_in == stem.c_out and blocks[0].side_in == (-(-stem.side // 2) if space.stem_pool else stem.side)
    for before, layer in pairwise(blocks):
        assert (layer.c_in, layer.side_in) == (before.c_out, before.side)


def test_layer_names_and_shapes_are_those_of_the_published_network() -> None:
    path = SHARED / "golden" / "resnet48_state_dict_shapes.json"
    if not path.exists():
        pytest.skip("the shapes of the published network are not at ../shared")
    shapes = json.loads(path.read_text(encoding="utf-8"))
    *convs, linear = layers(TRACK1.largest, 224, 1000)
    listed = {f"{layer.name}.weight": [layer.c_out, layer.c_in, layer.kernel, layer.kernel] for layer in convs}
    assert listed == {name: shape for name, shape in shapes.items() if len(shape) == 4}
    assert shapes[f"{linear.name}.weight"] == [linear.c_in, linear.c_out]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@given(rng=RANDOM, image_size=st.integers(8, 230))
def test_sides_follow_the_arithmetic_of_convolutions(space: SearchSpace, rng: random.Random, image_size: int) -> None:
    def output_side(side: int, kernel: int, stride: int) -> int:
        return (side + 2 * (kernel // 2) - kernel) // stride + 1

    arch = space.sample(rng)
    sides = {layer.name: layer.side for layer in layers(arch, image_size, 10)}
    side = output_side(image_size, space.stem_kernel, space.stem_stride)
    assert sides["blocks.0.conv"] == side
    side = output_side(side, 3, 2) if space.stem_pool else side
    for block in arch.blocks:
        shortcut = output_side(side, 1, block.stride)
        side = output_side(side, 3, block.stride)
        assert sides[f"blocks.{block.index}.conv1"] == sides[f"blocks.{block.index}.conv2"] == side
        assert sides.get(f"blocks.{block.index}.downsample.0", shortcut) == shortcut == side
        assert (f"blocks.{block.index}.downsample.0" in sides) == (block.stride == 2)
