"""Puts an operator with one weight in the place of others, in a model in normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, numpy_helper

from onnx_mdp.graph.network import Network, Node, read_network
from onnx_mdp.graph.precompute import drop_dead
from onnx_mdp.graph.shapes import Array


@dataclass(frozen=True, eq=False)
class Instead:
    """An operator for a chain of nodes: it reads what the first one does, has the last one's name, and its result."""

    chain: Sequence[Node]
    op: str
    weight: Array
    attributes: Mapping[str, Any]


def put_instead(network: Network, replacements: Sequence[Instead]) -> Network:
    """The network with the chains replaced, which have no node in common; its model is rewritten in place."""
    graph = network.model.graph
    taken = {tensor.name for tensor in graph.initializer} | {*network.inputs, *network.producers}
    made: dict[int, list[onnx.NodeProto]] = {}
    for one in replacements:
        first, last = one.chain[0], one.chain[-1]
        weight = _free(f"{last.outputs[0]}/kernel", taken)
        graph.initializer.append(numpy_helper.from_array(one.weight, weight))
        node = helper.make_node(one.op, [first.inputs[0], weight], [last.outputs[0]], last.name, **one.attributes)
        made |= {node.index: [] for node in one.chain} | {last.index: [node]}
    nodes = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for i, given in enumerate(graph.node)
        for node in made.get(i, [given])
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_dead(graph)
    return read_network(network.model, network.inputs)


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken."""
    fresh, k = name, 1
    while fresh in taken:
        fresh, k = f"{name}{k}", k + 1
    taken.add(fresh)
    return fresh
