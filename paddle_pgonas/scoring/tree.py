"""The prefix tree of the candidates, which determines the shared work, and the cost of a walk through it.

A subnet's path is its sequence of residual blocks. Candidates in the order of their paths have long common prefixes, so the
activations along the current path are kept and each subnet is computed from the first block in which it differs. The children of
a node share three more computations, because a narrower layer is a leading slice of a wider one (which changes no score, because
BatchNorm and ReLU work channel by channel):

* one conv1, of the widest child; the others use its leading channels;
* one conv2 per inner width, accumulated over slices of the input channels from the narrowest child to the widest;
* one conv2 and one shortcut for all output widths; narrower children use their leading channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from paddle_pgonas.priors.geometry import block_layers, body_side, head_layer, stem_layer
from paddle_pgonas.space.arch import Arch, Block


@dataclass(eq=False, slots=True)
class Node:
    """The state after one block of a path. The root's block is None: it is the stem's input."""

    block: Block | None
    children: dict[Block, Node] = field(default_factory=dict)
    candidates: list[int] = field(default_factory=list)
    """Positions of the candidates whose last block this is."""
    statistics: dict[tuple[str, int], Any] = field(default_factory=dict)
    """Calibrated BatchNorm statistics of this prefix, by layer and the input width of the layer's convolution."""


def scoring_order(archs: Sequence[Arch]) -> list[int]:
    """Indices of the architectures in the order of their paths: neighbours share the longest prefixes."""

    def path(position: int) -> str:
        # The stem, then each block, as bytes: these sort like tuples with a tenth of the memory; all keys are in memory at once.
        arch = archs[position]
        steps = ((block.index, block.c_mid, block.c_out) for block in arch.blocks)
        return "".join(map(chr, (arch.stem_width, *chain.from_iterable(steps))))

    return sorted(range(len(archs)), key=path)


def build_tree(archs: Sequence[Arch]) -> Node:
    """The root of the prefix tree of these architectures."""
    root = Node(None)
    for position, arch in enumerate(archs):
        node = root
        for block in arch.blocks:
            node = node.children.setdefault(block, Node(block))
        node.candidates.append(position)
    return root


def stem_width(root: Node) -> int:
    """Width of the one stem that all paths share: the widest of them."""
    return max(block.c_in for block in root.children)


class Cost(NamedTuple):
    """Cost of a walk: multiply-accumulates for one image, and the number of distinct prefixes (nodes)."""

    macs: int
    blocks: int


def walk_cost(root: Node, arch: Arch, image_size: int, num_classes: int) -> Cost:
    """The cost of walking a tree. ``arch`` is any member, for the space's geometry."""
    space = arch.space
    macs, blocks = stem_layer(space, stem_width(root), image_size).macs, 0
    stack = [(root, body_side(space, image_size))]
    while stack:
        node, side = stack.pop()
        if node.candidates:
            assert node.block is not None
            macs += head_layer(space, node.block.c_out, num_classes).macs
        # Stages have different depths, so children of one node may belong to different blocks of the network.
        for group in sibling_groups(node):
            siblings = group.children
            widest = next(iter(siblings))
            if len(siblings) > 1:  # most nodes have one child
                c_mid, c_out = max(block.c_mid for block in siblings), max(block.c_out for block in siblings)
                widest = widest._replace(c_mid=c_mid, c_out=c_out)
            computed = block_layers(widest, side)
            macs += sum(layer.macs for layer in computed)
            blocks += len(siblings)
            stack.extend((child, computed[0].side) for child in siblings.values())
    return Cost(macs, blocks)


def sibling_groups(node: Node) -> list[Node]:
    """New nodes that share this one's children: those of one block in the network and, after the stem, of one input width."""
    groups: dict[tuple[int, int], Node] = {}
    for block, child in node.children.items():
        groups.setdefault((block.index, block.c_in), Node(node.block)).children[block] = child
    return list(groups.values())
