"""Computes weights that are functions of other weights alone: standardized kernels, normalized tables, learned queries.

A kernel that is normalized in the graph cannot lose an input channel: its statistics would change. Computed once, it is
a weight like any other. Operators that only move elements of a stored weight, or decode them, are left where they are:
rules see through them, the stored weight keeps its name, and a weight used twice stays one weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_mdp.graph.fold import names_read_inside
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import FLOATS, array, stored_bytes

_MOVES = {
    *("Cast", "CastLike", "Concat", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten", "QuantizeLinear"),
    *("Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
# Operators whose result has at least as many elements as each input.
_SPREADS = {"Add", "And", "Cast", "Div", "Equal", "Greater", "Less", "Mul", "Not", "Or", "Relu", "Sub", "Where"}
_TABLE = 2**20  # bytes: the most that a table may take which formulas make
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
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type not in FLOATS}
    computed: set[str] = set()
    for i, node in enumerate(nodes):
        names = [name for name in node.output if name]
        stored = computed.isdisjoint(node.input) or not set(filter(None, node.input)) <= computed | integers
        follows = all(constant.get(name) is node for name in names) and not (node.op_type in _MOVES and stored)
        if follows and outputs.isdisjoint(names) and values.fit(node):
            graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in names)
            graph.node.remove(node)
            computed.update(names)
        values.forget(last, i)


def _last_uses(nodes: Sequence[onnx.NodeProto], constant: Mapping[str, onnx.NodeProto]) -> dict[str, int]:
    """For the tensors that follow from weights, the place of the last node that may ask for them.

    What is moved is computed when a later node asks for it: its inputs are needed for as long as it is.
    """
    last: dict[str, int] = {}
    for i, node in reversed(list(enumerate(nodes))):
        if all(constant.get(name) is node for name in node.output if name):
            until = max([i, *(last.get(name, i) for name in node.output if node.op_type in _MOVES)])
            last.update((name, max(last.get(name, i), until)) for name in node.input)
    return last


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
        self._large: dict[str, int] = {}  # elements, at least, of tensors that do not fit

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

    def forget(self, last: Mapping[str, int], place: int) -> None:
        """Drop values that will not be asked for after this place."""
        for name in [name for name in self._found if last.get(name, place) <= place]:
            del self._found[name]

    def fit(self, node: onnx.NodeProto) -> bool:
        """Whether the node's results can be computed here, and take no more space than the weights they come from.

        A table that is made of numbers and vectors alone (sines of positions) may be larger than they are. What only
        spreads over more elements something that is too large already is not even computed.
        """
        own, made = self._room(node)
        elements = max((self._large.get(name, 0) for name in node.input if node.op_type in _SPREADS), default=0)
        fits = False
        if elements <= max(own, made):
            try:
                results = [self[name] for name in node.output if name]
            except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError):
                return False
            elements = sum(result.size for result in results)
            floats = all(result.dtype.kind not in "iub" for result in results)
            fits = sum(result.nbytes for result in results) <= (max(own, made) if floats else own)
        self._large |= dict.fromkeys(() if fits else node.output, elements)
        return fits

    def _room(self, node: onnx.NodeProto) -> tuple[int, int]:
        """The bytes of the weights that the node's results follow from, and those that a made table may take."""
        roots = [self._tensors[name] for name in self._roots(node)]
        floats = [tensor for tensor in roots if tensor.data_type in FLOATS]
        made = all(max(tensor.dims, default=1) == math.prod(tensor.dims) for tensor in floats)
        return sum(map(stored_bytes, floats)), _TABLE if made else 0

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
