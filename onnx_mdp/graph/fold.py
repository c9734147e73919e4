"""Folds what does not depend on data or on a symbolic size into constants.

Shape arithmetic on fixed axes becomes literals, which a cut can rewrite; a scale computed from a head's width becomes
the number it is, which a cut must not change. Whether a value depends on a symbolic size is found by inferring the
graph at two sets of sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.shapes import Array, Shape, input_shapes, other_shapes


def fold(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Replace nodes whose outputs are constant at every size the model admits, in place."""
    graph = model.graph
    shapes = input_shapes(graph, asked)
    values = infer(model, shapes).values
    other = other_shapes(graph, shapes)
    if other != shapes:
        values = _common(values, infer(model, other).values)
    outputs = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    folded: dict[str, Array] = {}
    for node in graph.node:
        names = [name for name in node.output if name]
        if all(name in values and name not in outputs for name in names):
            folded.update((name, values[name]) for name in names)
        else:
            kept.append(node)
    if folded:
        _replace(graph, kept, folded)


def _common(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Array]:
    def same(name: str) -> bool:
        a, b = first[name], second.get(name)
        return b is not None and a.shape == b.shape and bool(np.array_equal(a, b))

    return {name: value for name, value in first.items() if same(name)}


def _replace(graph: onnx.GraphProto, kept: list[onnx.NodeProto], folded: Mapping[str, Array]) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)
    used = _names_read(graph)
    present = {tensor.name for tensor in graph.initializer}
    for name, value in folded.items():
        if name in used and name not in present:
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _names_read(graph: onnx.GraphProto) -> set[str]:
    """Every name a node, a subgraph or an output of the graph reads."""
    used = {value.name for value in graph.output}
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                used |= _names_read(inner)
    return used
