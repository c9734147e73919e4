"""Where the elements of shapes come from.

An exporter may compute a Reshape's shape from `Shape` of a tensor, glued to literals. A pruner must know where each
element comes from: a literal has to be rewritten, the size of an axis follows by itself, and anything computed from
sizes (a division, a product) pins the axes it came from. Operators that only move elements are replayed on arrays of
`Dim`; any other operator ends the trail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.graph.network import Network, Node

_LIMIT = 256  # elements: longer integer tensors are tables, not shapes
_INTEGERS = (6, 7)


@dataclass(frozen=True, slots=True)
class Literal:
    """An element stored in an initializer."""

    initializer: str
    index: int


@dataclass(frozen=True, slots=True)
class AxisSize:
    """The run-time size of an axis."""

    tensor: str
    axis: int


@dataclass(frozen=True, slots=True)
class Computed:
    """Arithmetic on the sizes of axes, which may then not change."""

    sources: frozenset[AxisSize]


Origin = Literal | AxisSize | Computed


@dataclass(frozen=True, slots=True)
class Dim:
    """One element of an integer tensor: its value at the network's input shapes and where it comes from."""

    value: int
    origin: Origin


Dims = NDArray[np.object_]
_Replay = Callable[[Node, list[Any]], Any]


def follow_dims(network: Network) -> Mapping[str, Dims]:
    """The elements of every small integer tensor whose value is known, in the tensor's shape."""
    known: dict[str, Dims] = {}
    for name in network.weights:
        if network.types[name] in _INTEGERS and name in network.values and network.values[name].size <= _LIMIT:
            known[name] = _array(network.values[name], partial(Literal, name))
    for node in network.nodes:
        for k, name in enumerate(node.outputs):
            value = network.values.get(name)
            if value is not None and value.dtype.kind == "i" and value.size <= _LIMIT:
                known[name] = _followed(network, node, k, value, known)
    return known


def _array(value: NDArray[Any], origin: Callable[[int], Origin]) -> Dims:
    result = np.empty(value.size, object)
    result[:] = [Dim(int(v), origin(i)) for i, v in enumerate(value.ravel())]
    return result.reshape(value.shape)


def _followed(network: Network, node: Node, output: int, value: NDArray[Any], known: Mapping[str, Dims]) -> Dims:
    """Replay the node on dims if it moves elements; the replay must give the known value, else the trail ends."""
    if node.op == "Shape":
        start = node.attributes.get("start", 0) % max(len(network.shapes[node.inputs[0]]), 1)
        return _array(value, lambda i: AxisSize(node.inputs[0], start + i))
    replay = _REPLAYS.get(node.op) if node.domain == "ai.onnx" else None
    if replay is not None and node.inputs[0] in {*known, *network.values}:
        operands = [known.get(name, network.values.get(name)) if name else None for name in node.inputs]
        moved = np.asarray(replay(node, operands)[output], object)
        if moved.shape == value.shape and [_value(d) for d in moved.ravel()] == value.ravel().tolist():
            return moved
    inputs = [dim for name in node.inputs if name in known for dim in known[name].ravel()]
    computed = Computed(frozenset().union(*(sources(dim) for dim in inputs)))
    return _array(value, lambda i: computed)


def sources(dim: Dim) -> frozenset[AxisSize]:
    """The axes whose sizes an element was computed from."""
    return dim.origin.sources if isinstance(dim.origin, Computed) else _own(dim.origin)


def _own(origin: Literal | AxisSize) -> frozenset[AxisSize]:
    return frozenset({origin}) if isinstance(origin, AxisSize) else frozenset()


def _value(element: Any) -> int | None:
    return element.value if isinstance(element, Dim) else None


def _ints(operand: Any) -> list[int]:
    return [d.value if isinstance(d, Dim) else int(d) for d in np.ravel(operand)]


def _axes(node: Node, operands: list[Any], default: list[int]) -> list[int]:
    if len(operands) > 1 and operands[1] is not None:
        return _ints(operands[1])
    return list(node.attributes.get("axes", default))


def _gather(node: Node, operands: list[Any]) -> list[Any]:
    picks = np.reshape(_ints(operands[1]), operands[1].shape).astype(np.int64)
    return [np.take(operands[0], picks, node.attributes.get("axis", 0))]


def _slice(node: Node, operands: list[Any]) -> Any:
    given = [None if operand is None else _ints(operand) for operand in operands[1:]]
    starts, ends, axes, steps = [*given, None, None, None, None][:4]
    starts = starts if starts is not None else node.attributes["starts"]
    ends = ends if ends is not None else node.attributes["ends"]
    axes = axes or node.attributes.get("axes") or list(range(len(starts)))
    index = [slice(None)] * operands[0].ndim
    for k, axis in enumerate(axes):
        index[axis] = slice(starts[k], ends[k], steps[k] if steps else None)
    return operands[0][tuple(index)]


def _split(node: Node, operands: list[Any]) -> list[Any]:
    axis = node.attributes.get("axis", 0)
    sizes = _ints(operands[1]) if len(operands) > 1 else node.attributes.get("split")
    if sizes is None:
        return np.array_split(operands[0], len(node.outputs), axis)
    return np.split(operands[0], np.cumsum(sizes)[:-1], axis)


def _keeps(neutral: int, *, commutes: bool) -> _Replay:
    """Arithmetic that leaves an element alone where the other one is neutral; elsewhere the trail ends."""

    def one(a: Any, b: Any) -> Any:
        if _ints(b) == [neutral]:
            return a
        return b if commutes and _ints(a) == [neutral] else None

    return lambda node, operands: [np.frompyfunc(one, 2, 1)(operands[0], operands[1])]


def _where(node: Node, operands: list[Any]) -> list[Any]:
    return [np.where(np.asarray(operands[0], bool), operands[1], operands[2])]


_REPLAYS: dict[str, _Replay] = {
    **dict.fromkeys(("Identity", "Cast"), lambda node, operands: [operands[0]]),
    "Concat": lambda node, operands: [np.concatenate(operands, node.attributes["axis"])],
    "Gather": _gather,
    "Slice": lambda node, operands: [_slice(node, operands)],
    "Split": _split,
    "Squeeze": lambda node, operands: [np.squeeze(operands[0], tuple(_axes(node, operands, [])) or None)],
    "Unsqueeze": lambda node, operands: [np.expand_dims(operands[0], tuple(_axes(node, operands, [])))],
    "Reshape": lambda node, operands: [np.reshape(operands[0], _ints(operands[1]))],
    "Transpose": lambda node, operands: [np.transpose(operands[0], node.attributes.get("perm"))],
    "Where": _where,
    "Mul": _keeps(1, commutes=True),
    "Div": _keeps(1, commutes=False),
    "Add": _keeps(0, commutes=True),
    "Sub": _keeps(0, commutes=False),
}
