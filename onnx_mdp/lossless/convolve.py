"""Shortcuts without weights become convolutions, so that runtimes keep what is around them in their own layout.

A residual network whose stages have no projection takes every second position of a stream and pads it with channels of
zeros (option A of He et al., Deep Residual Learning, 2016, section 4.2). Runtimes that convolve in blocks of channels
leave that layout for a Slice or a Pad, and a sum with its result, and those after it, then are no part of a convolution
any more. A convolution of size one with ones where a channel goes, and a stride, computes the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_mdp.graph.macs import macs_of
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.replace import Instead, put_instead
from onnx_mdp.graph.select import END, read_integers, read_slice
from onnx_mdp.graph.shapes import other_shapes

_TYPES = (np.float32, np.float16)  # that runtimes convolve


@dataclass(frozen=True)
class Convolved:
    """A shortcut that became a convolution: the name of its last node, and the multiply-accumulates that adds."""

    name: str
    macs: int


@dataclass(frozen=True)
class _Shortcut:
    """Nodes between two tensors that take positions with a stride, and put zeros before and after the channels."""

    nodes: tuple[Node, ...]
    strides: tuple[int, ...]
    before: int
    after: int


def convolve(network: Network, only: Collection[str] | None = None) -> tuple[Network, tuple[Convolved, ...]]:
    """The network with its shortcuts as convolutions, and which these are; the model is rewritten in place.

    Args:
        network: in normal form.
        only: names of the shortcuts to rewrite; by default all there are.
    """
    found = [s for s in _shortcuts(network) if only is None or s.nodes[-1].name in only]
    if not found:
        return network, ()
    network = put_instead(network, [_convolution(network, shortcut) for shortcut in found])
    ends = [shortcut.nodes[-1] for shortcut in found]
    made = (int(macs_of(network.producers[end.outputs[0]], network.shapes)) for end in ends)
    return network, tuple(Convolved(end.name, macs) for end, macs in zip(ends, made, strict=True))


def _convolution(network: Network, shortcut: _Shortcut) -> Instead:
    """The kernel has a one where a channel of the input becomes one of the output, else zeros."""
    given, rank = shortcut.nodes[0].inputs[0], len(shortcut.strides)
    channels = network.shapes[given][1]
    size = shortcut.before + channels + shortcut.after
    kernel = np.eye(size, channels, -shortcut.before, network.dtype(given)).reshape(size, channels, *[1] * rank)
    return Instead(shortcut.nodes, "Conv", kernel, {"kernel_shape": [1] * rank, "strides": shortcut.strides})


def _shortcuts(network: Network) -> Iterator[_Shortcut]:
    """Those that end in a sum with another tensor."""
    for node in network.nodes:
        if node.op != "Add" or len({name for name in node.inputs if name in network.varying}) < 2:
            continue
        for name in node.inputs:
            chain = _chain(network, name)
            read = (_read(network, chain[start:]) for start in range(len(chain)))
            longest = next((shortcut for shortcut in read if shortcut is not None), None)
            if longest is not None and (max(longest.strides) > 1 or longest.before + longest.after > 0):
                yield longest


def _chain(network: Network, name: str) -> list[Node]:
    """The Slice and Pad nodes above a tensor, of which nothing else reads a result, in graph order."""
    found: list[Node] = []
    while (node := network.producers.get(name)) is not None and node.op in ("Slice", "Pad"):
        if len(network.consumers[name]) != 1 or name in network.outputs:
            break
        found.insert(0, node)
        name = node.inputs[0]
    return found


def _read(network: Network, nodes: Sequence[Node]) -> _Shortcut | None:
    """The shortcut that some nodes are; None if they do more than strides and channels of zeros."""
    given = nodes[0].inputs[0]
    if given not in network.shapes or network.dtype(given) not in _TYPES:
        return None
    rank = len(network.shapes[given])
    if not 3 <= rank <= 5:
        return None
    strides, before, after = [1] * rank, 0, 0
    for node in nodes:
        if node.op == "Pad":
            zeros = _zeros(network, node, rank)
            if zeros is None:
                return None
            before, after = before + zeros[0], after + zeros[1]
            continue
        steps = _steps(network, node, rank)
        if steps is None:
            return None
        strides = [stride * step for stride, step in zip(strides, steps, strict=True)]
    return _Shortcut(tuple(nodes), tuple(strides[2:]), before, after)


def _steps(network: Network, node: Node, rank: int) -> list[int] | None:
    """The stride along each axis of a Slice that takes all of it; None where it does not, or may not at other sizes."""
    ranges = read_slice(network, node, rank)
    if ranges is None:
        return None
    shape, steps = network.shapes[node.inputs[0]], [1] * rank
    free = other_shapes(network.model.graph, network.inputs)
    fixed = all(sizes[1:] == network.inputs[name][1:] for name, sizes in free.items())
    for axis, (start, stop, step) in ranges.items():
        whole = stop == END or (fixed and stop >= shape[axis])
        if axis < 2 or start != 0 or step < 1 or not whole:
            return None
        steps[axis] = step
    return steps


def _zeros(network: Network, node: Node, rank: int) -> tuple[int, int] | None:
    """The channels of zeros that a Pad puts before and after; None if it does anything else."""
    if node.attributes.get("mode", "constant") != "constant" or node.attributes.get("value", 0.0) != 0:
        return None
    pads = node.attributes.get("pads") or read_integers(network, node, 1, "pads")
    for place in (2, 3):
        if len(node.inputs) > place and node.inputs[place] and node.inputs[place] not in network.weights:
            return None
    if len(node.inputs) > 2 and node.inputs[2] and np.any(network.weights[node.inputs[2]] != 0):
        return None
    axes = list(range(rank))
    if len(node.inputs) > 3 and node.inputs[3]:
        axes = [int(axis) % rank for axis in network.weights[node.inputs[3]].reshape(-1)]
    if pads is None or len(pads) != 2 * len(axes):
        return None
    found = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    channels = found.pop(1, (0, 0))
    return channels if min(channels) >= 0 and all(pair == (0, 0) for pair in found.values()) else None
