"""Types and shapes of what If, Loop and Scan compute, from those of their subgraphs.

ONNX's own inference gives them up wherever a subgraph reads a tensor from outside or carries one from turn to turn; and
with their shape, that of everything after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from onnx_mdp.graph.shapes import Shape

# ONNX element type, 0 where unknown, and shape, None where unknown.
Typed = tuple[int, Shape | None]
# What a subgraph computes from its inputs.
Inside = Callable[[onnx.GraphProto, Sequence[Typed]], list[Typed]]


def output_types(node: onnx.NodeProto, given: Sequence[Typed], inside: Inside) -> list[Typed]:
    """The types of a node's outputs, in order, by those of its inputs; empty for other operators."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "If":
            return _agreed(inside(attributes["then_branch"], ()), inside(attributes["else_branch"], ()))
        case "Loop":
            return _loop(attributes["body"], given, inside)
        case "Scan" if "directions" not in attributes:
            return _scan(attributes, given, inside)
        case _:
            return []


def _agreed(first: Sequence[Typed], second: Sequence[Typed]) -> list[Typed]:
    return [(elem, shape if shape == other else None) for (elem, shape), (_, other) in zip(first, second, strict=False)]


def _loop(body: onnx.GraphProto, given: Sequence[Typed], inside: Inside) -> list[Typed]:
    """A state that no turn reshapes has the shape it began with, after any number of turns."""
    counters: list[Typed] = [(onnx.TensorProto.INT64, ()), (onnx.TensorProto.BOOL, ())]
    states = list(given[2:])
    while True:
        after = inside(body, [*counters, *states])[1:]
        kept = _agreed(states, after)
        if kept == states:
            return [*states, *((elem, None) for elem, _ in after[len(states) :])]
        states = kept


def _scan(attributes: Mapping[str, Any], given: Sequence[Typed], inside: Inside) -> list[Typed]:
    """One turn for each slice of the scanned inputs; its further outputs are stacked."""
    split = len(given) - attributes["num_scan_inputs"]
    axes = attributes.get("scan_input_axes", [0] * len(given))
    slices: list[Typed] = []
    length = 0
    for (elem, shape), axis in zip(given[split:], axes, strict=False):
        if shape is None:
            return []
        length = shape[axis]
        slices.append((elem, tuple(size for i, size in enumerate(shape) if i != axis % len(shape))))
    after = inside(attributes["body"], [*given[:split], *slices])
    stacked = zip(after[split:], attributes.get("scan_output_axes", [0] * len(after)), strict=False)
    return [*_agreed(given[:split], after), *(_stacked(typed, axis, length) for typed, axis in stacked)]


def _stacked(typed: Typed, axis: int, length: int) -> Typed:
    elem, shape = typed
    if shape is None:
        return typed
    place = axis % (len(shape) + 1)
    return elem, (*shape[:place], length, *shape[place:])
