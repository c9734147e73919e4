"""Computes weights that are functions of other weights alone: standardized kernels, normalized tables, learned queries.

A kernel that is normalized in the graph cannot lose an input channel: its statistics would change. Computed once, it is
a weight like any other. Operators that only move elements, or decode them, are left where they are: rules see
through them, the stored weight keeps its name, and a weight used twice stays one weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_mdp.graph.fold import names_read_inside
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import array

_MOVES = {
    *("Cast", "CastLike", "Concat", "DequantizeLinear", "Expand", "Flatten", "QuantizeLinear", "Reshape", "Resize"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
_SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def precompute(graph: onnx.GraphProto, opset: int) -> None:
    """Replace nodes that compute on weights alone by their results, in place."""
    outputs = {value.name for value in graph.output}
    known = {tensor.name for tensor in graph.initializer}
    constant: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if _is_constant(node, known):
            known.update(node.output)
            constant |= dict.fromkeys(node.output, node)
    values = _Values(graph, constant, opset)
    nodes = list(graph.node)
    last = _last_uses(nodes, constant)
    for i, node in enumerate(nodes):
        names = [name for name in node.output if name]
        computes = node.op_type not in _MOVES and all(constant.get(name) is node for name in names)
        if computes and outputs.isdisjoint(names) and values.fit(node):
            graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in names)
            graph.node.remove(node)
        values.forget(last[i])


def _last_uses(nodes: Sequence[onnx.NodeProto], constant: Mapping[str, onnx.NodeProto]) -> dict[int, list[str]]:
    """By the place of the last node that may ask for them, the tensors that follow from weights.

    What is moved is computed when a later node asks for it: its inputs are needed for as long as it is.
    """
    last: dict[str, int] = {}
    for i, node in reversed(list(enumerate(nodes))):
        if all(constant.get(name) is node for name in node.output if name):
            until = max([i, *(last.get(name, i) for name in node.output if node.op_type in _MOVES)])
            last.update((name, max(last.get(name, i), until)) for name in node.input)
    places: dict[int, list[str]] = defaultdict(list)
    for name, i in last.items():
        places[i].append(name)
    return places


def _is_constant(node: onnx.NodeProto, known: set[str]) -> bool:
    inputs = [name for name in node.input if name]
    plain = node.domain in ("", "ai.onnx") and not any(a.type in _SUBGRAPHS for a in node.attribute)
    return plain and bool(inputs) and known.issuperset(inputs) and not node.op_type.startswith("Random")


class _Values:
    """Values of tensors that follow from weights, computed when asked for."""

    def __init__(self, graph: onnx.GraphProto, constant: Mapping[str, onnx.NodeProto], opset: int) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._constant = constant
        self._opset = opset
        self._found: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name in self._tensors:
            return array(self._tensors[name])
        if name not in self._found:
            node = self._constant[name]
            feeds = {given: self[given] for given in node.input if given}
            results = ReferenceEvaluator(node, opsets={"": self._opset}).run(None, feeds)
            names = [output for output in node.output if output]
            self._found |= {n: np.ascontiguousarray(r) for n, r in zip(names, results, strict=True)}
        return self._found[name]

    def forget(self, names: Iterable[str]) -> None:
        """Drop values that will not be asked for again."""
        for name in names:
            self._found.pop(name, None)

    def fit(self, node: onnx.NodeProto) -> bool:
        """Whether the node's results can be computed here, and take no more space than the weights they come from."""
        try:
            stored = sum(self[name].nbytes for name in node.output if name)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError):
            return False
        return stored <= sum(self[name].nbytes for name in self._roots(node) if self[name].dtype.kind not in "iub")

    def _roots(self, node: onnx.NodeProto) -> set[str]:
        """The stored weights that a node's results follow from."""
        roots: set[str] = set()
        pending = [name for name in node.input if name]
        while pending:
            name = pending.pop()
            if name in self._tensors:
                roots.add(name)
            else:
                pending += [given for given in self._constant[name].input if given]
        return roots


def drop_aliases(graph: onnx.GraphProto) -> None:
    """Let the readers of an `Identity` of a weight read the weight."""
    weights = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    aliases: dict[str, str] = {}
    for node in list(graph.node):
        for i, name in enumerate(node.input):
            node.input[i] = aliases.get(name, name)
        if node.op_type == "Identity" and node.input[0] in weights and node.output[0] not in outputs:
            aliases[node.output[0]] = node.input[0]
    captured = {name for node in graph.node for name in names_read_inside(node)}
    for node in [n for n in graph.node if n.output[0] in aliases and n.output[0] not in captured]:
        graph.node.remove(node)


def drop_dead(graph: onnx.GraphProto) -> None:
    """Remove what nothing reads any more."""
    used = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if not used.isdisjoint(name for name in node.output if name):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            used.update(node.input)
            used |= names_read_inside(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
