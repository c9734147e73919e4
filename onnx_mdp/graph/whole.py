"""Sees that a Gather of all positions in their order picks nothing: it is a Reshape, which passes the axis.

Exporters write a view with strides so, and what is picked by constant indices could not lose a unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.shapes import Shape, input_shapes, other_shapes
from onnx_mdp.graph.weights import array

_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def reshape_whole_picks(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Replace every Gather of all of a last axis, at every size the model admits, by a Reshape, in place."""
    graph = model.graph
    counted = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type in _INTEGERS and _counts(t)}
    pending = [node for node in graph.node if node.op_type == "Gather" and node.input[1] in counted]
    if not pending:
        return
    shapes = input_shapes(graph, asked)
    facts = [infer(model, sizes).shapes for sizes in (shapes, other_shapes(graph, shapes))]
    for node in pending:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if all(_is_last(found.get(node.input[0]), axis, counted[node.input[1]]) for found in facts):
            _reshape(graph, node, [0] * (len(facts[0][node.input[0]]) - 1) + list(counted[node.input[1]]))


def _counts(tensor: onnx.TensorProto) -> bool:
    """Whether the elements are the numbers from zero on, more than one of them."""
    values = array(tensor).ravel()
    return values.size > 1 and np.array_equal(values, np.arange(values.size))


def _is_last(shape: Shape | None, axis: int, picks: Shape) -> bool:
    """Whether the axis is the last one, and has as many positions as are picked."""
    return shape is not None and axis in (-1, len(shape) - 1) and shape[-1] == math.prod(picks)


def _reshape(graph: onnx.GraphProto, node: onnx.NodeProto, shape: list[int]) -> None:
    name = f"{node.output[0]}/shape"
    graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    node.CopyFrom(helper.make_node("Reshape", [node.input[0], name], node.output[:1], node.name))
