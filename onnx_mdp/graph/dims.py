"""Shape arithmetic, followed element by element.

An exporter may compute a Reshape's shape from `Shape` of a tensor, glued to literals. A pruner must know where
each element comes from: a literal has to be rewritten, the size of an axis follows by itself, and anything
computed from sizes (a division, a product) pins the axes it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_mdp.graph.network import Network, Node

_LIMIT = 64  # elements: longer integer tensors are tables, not shapes


@dataclass(frozen=True)
class Literal:
    """An element stored in an initializer."""

    initializer: str
    index: int


@dataclass(frozen=True)
class AxisSize:
    """The run-time size of an axis."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class Dim:
    """One element of an integer tensor: its value at the network's input shapes and where it comes from."""

    value: int
    origin: Literal | AxisSize | None


Dims = tuple[Dim, ...]
_Rule = Callable[[Network, Node, list[Dims]], Sequence[Dim]]
_RULES: dict[str, _Rule] = {}


def follow_dims(network: Network) -> Mapping[str, Dims]:
    """The elements of every integer scalar and short integer vector whose value is known."""
    known: dict[str, Dims] = {}
    for name in network.weights:
        if len(network.shapes[name]) <= 1 and network.types[name] in (6, 7):
            values = network.weights[name].reshape(-1)
            if len(values) <= _LIMIT:
                known[name] = tuple(Dim(int(v), Literal(name, i)) for i, v in enumerate(values))
    for node in network.nodes:
        dims = _follow(network, node, known)
        if dims is not None and node.outputs[0] not in known:
            known[node.outputs[0]] = tuple(dims)
    return known


def _follow(network: Network, node: Node, known: Mapping[str, Dims]) -> Sequence[Dim] | None:
    if node.domain != "ai.onnx":
        return None
    if node.op == "Shape":
        return _shape(network, node)
    rule = _RULES.get(node.op)
    if rule is None or not all(name in known for name in node.inputs if name):
        return None
    return rule(network, node, [known[name] for name in node.inputs if name])


def _shape(network: Network, node: Node) -> Sequence[Dim] | None:
    shape = network.shapes.get(node.inputs[0])
    if shape is None:
        return None
    dims = [Dim(size, AxisSize(node.inputs[0], axis)) for axis, size in enumerate(shape)]
    return dims[slice(node.attributes.get("start", 0), node.attributes.get("end"))]


def _rule(*ops: str) -> Callable[[_Rule], _Rule]:
    def register(function: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(ops, function))
        return function

    return register


@_rule("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape")
def _same(network: Network, node: Node, inputs: list[Dims]) -> Sequence[Dim]:
    return inputs[0]


@_rule("Concat")
def _concat(network: Network, node: Node, inputs: list[Dims]) -> Sequence[Dim]:
    return [dim for dims in inputs for dim in dims]


@_rule("Gather")
def _gather(network: Network, node: Node, inputs: list[Dims]) -> Sequence[Dim]:
    return [inputs[0][index.value] for index in inputs[1]]


@_rule("Slice")
def _slice(network: Network, node: Node, inputs: list[Dims]) -> Sequence[Dim]:
    if len(inputs) < 3:  # opset < 10: bounds are attributes
        return inputs[0][slice(node.attributes["starts"][0], node.attributes["ends"][0])]
    step = inputs[4][0].value if len(inputs) > 4 else 1
    return inputs[0][slice(inputs[1][0].value, inputs[2][0].value, step)]


@_rule("Add", "Sub", "Mul", "Div")
def _arithmetic(network: Network, node: Node, inputs: list[Dims]) -> Sequence[Dim]:
    a, b = (np.array([dim.value for dim in dims]) for dims in inputs)
    operators = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide}
    return [Dim(int(v), None) for v in operators[node.op](a, b)]
