"""Which work candidates share: the tree of their prefixes, and what a walk through it costs.

A subnet's path is its sequence of residual blocks. Candidates in the order of their paths have long common prefixes, so the
activations along the current path are kept and each subnet is computed from the first block in which it differs. Three more
things are shared among the children of one node, because a narrower layer is a leading slice of a wider one:

* one conv1, of the widest child; the others take its leading channels;
* one conv2 per inner width, accumulated over slices of the input channels from the narrowest child to the widest;
* one conv2 and one shortcut for all output widths; narrower children take their leading channels.

None of this changes a score: BatchNorm and ReLU work channel by channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from paddle_pgonas.arch import Arch, Block
from paddle_pgonas.cost import stem_sides


@dataclass(eq=False, slots=True)
class Node:
    """The state behind one block of a path. The root's block is None: it is the stem's input."""

    block: Block | None
    children: dict[Block, Node] = field(default_factory=dict)
    candidates: list[int] = field(default_factory=list)
    """Positions of the candidates whose last block this is."""
    statistics: dict[tuple[str, int], Any] = field(default_factory=dict)
    """BatchNorm statistics of this very prefix, by layer and the width that the layer's convolution read; for calibration."""

    def by_mid_width(self) -> list[tuple[int, list[Node]]]:
        """Children by inner width, narrowest first."""
        groups: dict[int, list[Node]] = {}
        for block, child in self.children.items():
            groups.setdefault(block.c_mid, []).append(child)
        return sorted(groups.items())


def scoring_order(archs: Sequence[Arch]) -> list[int]:
    """Positions of the architectures in the order of their paths: neighbours share the longest prefixes."""

    def path(position: int) -> str:
        # The stem, then each block: sorted like the tuples at a tenth of their memory, as all keys exist at once.
        arch = archs[position]
        steps = ((block.index, block.c_mid, block.c_out) for block in arch.blocks)
        return "".join(map(chr, (arch.stem_width, *chain.from_iterable(steps))))

    return sorted(range(len(archs)), key=path)


def build_tree(archs: Sequence[Arch], share: bool = True) -> list[Node]:
    """The prefix tree of these architectures as a list with its root; without sharing, one path and root per architecture."""
    roots = [Node(None)] if share else [Node(None) for _ in archs]
    for position, arch in enumerate(archs):
        node = roots[0] if share else roots[position]
        for block in arch.blocks:
            child = node.children.get(block)
            if child is None:
                child = node.children[block] = Node(block)
            node = child
        node.candidates.append(position)
    return roots


def stem_width(root: Node) -> int:
    """Width of the one stem that all paths share: the widest asked for."""
    return max(block.c_in for block in root.children)


@dataclass
class Cost:
    """What a walk costs."""

    macs: int = 0
    """Multiply-accumulates for one image."""
    blocks: int = 0
    """Distinct prefixes, that is nodes."""


def walk_cost(root: Node, arch: Arch, image_size: int, num_classes: int) -> Cost:
    """The cost of walking a tree. ``arch`` is any member, for the space's geometry."""
    total = Cost()
    conv_side, side = stem_sides(arch, image_size)
    total.macs += 3 * stem_width(root) * (arch.space.stem_kernel * conv_side) ** 2
    stack = [(root, side)]
    while stack:
        node, side = stack.pop()
        if node.candidates:
            assert node.block is not None
            total.macs += node.block.c_out * num_classes
        # Stages have different depths, so children of one node may belong to different blocks of the network.
        for group in sibling_groups(node):
            first = next(iter(group.children))
            out_side = -(-side // first.stride)
            mids = [mid for mid, _ in group.by_mid_width()]
            c_out = max(block.c_out for block in group.children)
            per_pixel = 9 * mids[-1] * (first.c_in + c_out)
            if first.stride > 1:
                per_pixel += first.c_in * c_out
            total.macs += per_pixel * out_side * out_side
            total.blocks += len(group.children)
            stack.extend((child, out_side) for child in group.children.values())
    return total


def sibling_groups(node: Node) -> list[Node]:
    """The node's children split by the network's block they belong to and, behind the stem, by the width they read.

    Each group comes as a node of its own that shares ``node``'s children objects.
    """
    groups: dict[tuple[int, int], Node] = {}
    for block, child in node.children.items():
        groups.setdefault((block.index, block.c_in), Node(node.block)).children[block] = child
    return list(groups.values())
