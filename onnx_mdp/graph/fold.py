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
    values = _constants(model, asked)
    while _inline_branches(graph, values):
        values = _constants(model, asked)
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


def _constants(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> dict[str, Array]:
    """The values that are the same at two sets of sizes."""
    shapes = input_shapes(model.graph, asked)
    values = infer(model, shapes).values
    other = other_shapes(model.graph, shapes)
    return values if other == shapes else _common(values, infer(model, other).values)


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
        used |= names_read_inside(node)
    return used


def names_read_inside(node: onnx.NodeProto) -> set[str]:
    """Every name that a node's subgraphs read."""
    graphs = (inner for attribute in node.attribute for inner in (attribute.g, *attribute.graphs))
    return {name for inner in graphs for name in _names_read(inner)}


def _inline_branches(graph: onnx.GraphProto, values: Mapping[str, Array]) -> bool:
    """Put the taken branch in place of every If whose condition is constant; tells whether there was one."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        taken = _taken_branch(node, values)
        if taken is None:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            nodes += _inlined(graph, node, taken)
    changed = len(nodes) != len(graph.node) or any(
        a.op_type != b.op_type for a, b in zip(nodes, graph.node, strict=True)
    )
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
    return changed


def _taken_branch(node: onnx.NodeProto, values: Mapping[str, Array]) -> onnx.GraphProto | None:
    condition = values.get(node.input[0]) if node.op_type == "If" else None
    if condition is None or condition.size != 1:
        return None
    name = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
    return next(attribute.g for attribute in node.attribute if attribute.name == name)


def _inlined(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The branch's nodes under names of their own, and its outputs under the node's."""
    owned = {name for inner in branch.node for name in inner.output if name} | {t.name for t in branch.initializer}
    names = {name: f"{node.output[0]}/{name}" for name in owned}
    for tensor in branch.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name]
    result = [_renamed(inner, names) for inner in branch.node]
    for output, value in zip(node.output, branch.output, strict=True):
        source = names.get(value.name, value.name)
        result.append(onnx.helper.make_node("Identity", [source], [output], name=f"{output}/branch"))
    return result


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        for inner in (attribute.g, *attribute.graphs):
            renamed = [_renamed(n, names) for n in inner.node]
            del inner.node[:]
            inner.node.extend(renamed)
    return copy
