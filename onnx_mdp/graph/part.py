"""A part of a model: from tensors that are known to tensors that are wanted."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx

from onnx_mdp.graph.fold import names_read_inside
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import with_weights


def part(model: onnx.ModelProto, known: Mapping[str, Array], wanted: Iterable[str]) -> onnx.ModelProto:
    """The nodes that compute the wanted tensors from the known ones, whose types and ranks the examples tell."""
    wanted = list(wanted)
    needed, nodes = set(wanted) - set(known), []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            continue
        nodes.append(node)
        needed -= set(node.output)
        needed |= {name for name in _read(node) if name not in known}
    read = needed.union(wanted, *map(_read, nodes))
    result = with_weights(model, (tensor for tensor in model.graph.initializer if tensor.name in read))
    for field in (result.graph.node, result.graph.input, result.graph.output, result.graph.value_info):
        del field[:]
    result.graph.node.extend(reversed(nodes))
    result.graph.input.extend(_value(name, known[name]) for name in known if name in read)
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return result


def live(model: onnx.ModelProto, position: int, feeds: Collection[str]) -> list[str]:
    """The tensors that nodes from `position` on read, but do not compute, and no weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    later = model.graph.node[position:]
    made = {name for node in later for name in node.output}
    read = dict.fromkeys(name for node in later for name in _read(node))
    before = {name for node in model.graph.node[:position] for name in node.output} | set(feeds)
    return [n for n in dict.fromkeys([*read, *outputs]) if n in before and n not in made and n not in weights]


def sort_nodes(model: onnx.ModelProto, rank: Mapping[str, int]) -> None:
    """Sort the nodes topologically, in place, those whose first output has the lowest rank first."""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [{makers[name] for name in _read(node) if name in makers} for node in nodes]
    readers: dict[int, list[int]] = {}
    for i, before in enumerate(waits):
        for maker in before:
            readers.setdefault(maker, []).append(i)
    ready = [(_rank(nodes[i], rank), i) for i, before in enumerate(waits) if not before]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, i = heapq.heappop(ready)
        ordered.append(nodes[i])
        for reader in readers.get(i, ()):
            waits[reader].discard(i)
            if not waits[reader]:
                heapq.heappush(ready, (_rank(nodes[reader], rank), reader))
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _rank(node: onnx.NodeProto, rank: Mapping[str, int]) -> int:
    return min((rank[name] for name in node.output if name in rank), default=-1)


def _read(node: onnx.NodeProto) -> set[str]:
    return {name for name in (*node.input, *names_read_inside(node)) if name}


def _value(name: str, example: Array) -> onnx.ValueInfoProto:
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(example.dtype))
    return onnx.helper.make_tensor_value_info(name, elem, [f"{name}.{i}" for i in range(example.ndim)])
