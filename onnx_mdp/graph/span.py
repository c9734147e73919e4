"""The nodes between two positions of a network as a model of its own, with the network's weights or others."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

import onnx
from onnx import helper

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import put


class Positions:
    """Where a network can be cut in two: position p lies before node p, and behind the last one is the end."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.end = len(network.nodes)

    @cached_property
    def _lives(self) -> Mapping[str, tuple[int, int]]:
        """First and last position at which each computed tensor must be at hand."""
        network = self.network
        born = dict.fromkeys(network.inputs, 0)
        born |= {name: node.index + 1 for node in network.nodes for name in node.outputs if name}
        last = {name: nodes[-1].index for name, nodes in network.consumers.items() if name in born}
        last |= dict.fromkeys(network.outputs, self.end)
        return {name: (start, last[name]) for name, start in born.items() if name in last}

    def live(self, position: int) -> tuple[str, ...]:
        """The tensors that are computed before a position and read behind it, or are outputs of the network."""
        return tuple(name for name, (start, stop) in self._lives.items() if start <= position <= stop)

    def live_bytes(self, position: int) -> float:
        """Bytes of the live tensors; infinite where the size or type of one depends on data."""
        return sum(map(self._bytes, self.live(position)))

    def first_reader(self, weights: Iterable[str]) -> int:
        """The first node that reads one of some initializers; the end if none does."""
        readers = (self.network.consumers.get(name, ()) for name in weights)
        return min((node.index for nodes in readers for node in nodes), default=self.end)

    def _bytes(self, name: str) -> float:
        network = self.network
        if name not in network.shapes or name not in network.types:
            return math.inf
        return math.prod(network.shapes[name]) * network.dtype(name).itemsize


def span(
    network: Network,
    start: int,
    stop: int,
    outputs: Collection[str],
    replaced: Mapping[str, Array],
) -> onnx.ModelProto:
    """The nodes from `start` up to `stop`, without those that no output needs.

    Args:
        network: where they are from.
        start: the first node; what is computed before it becomes an input.
        stop: the node after the last one.
        outputs: tensors that the nodes compute.
        replaced: values of initializers that differ from the network's.
    """
    nodes = _needed(network.nodes[start:stop], outputs)
    model = onnx.ModelProto(ir_version=network.model.ir_version, opset_import=network.model.opset_import)
    model.functions.extend(network.model.functions)
    graph = model.graph
    graph.name = "span"
    graph.node.extend(network.model.graph.node[node.index] for node in nodes)
    computed = {name for node in nodes for name in node.outputs}
    read = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.captured) if name)
    for name in read:
        if name in network.weights:
            put(graph.initializer.add(), replaced.get(name, network.weights[name]), name)
        elif name not in computed:
            graph.input.append(_typed(network, name))
    graph.output.extend(_typed(network, name) for name in outputs)
    return model


def _needed(nodes: tuple[Node, ...], outputs: Collection[str]) -> list[Node]:
    wanted, found = set(outputs), list[Node]()
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(filter(None, (*node.inputs, *node.captured)))
            found.append(node)
    return found[::-1]


def _typed(network: Network, name: str) -> onnx.ValueInfoProto:
    """An input or output with its type and shape, as far as they are known."""
    if name not in network.types:
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, network.types[name], network.shapes.get(name))
