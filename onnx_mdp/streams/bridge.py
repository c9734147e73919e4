"""Puts a matrix before outputs that show a stream, so that the stream may lose units and its output does not.

The matrix makes the units that are gone of those that stay, as far as least squares can; while nothing is cut it is the
identity, and is not there in a result.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.weights import FLOATS, array, put
from onnx_mdp.groups.couple import Coupling

_INSIDE = "/inside"


def shows(coupling: Coupling, factor: Factor, output: str) -> bool:
    """Whether an output has a factor on its last axis alone, where a matrix can bring it."""
    network = coupling.network
    axes = [i for i, term in enumerate(coupling.axes.get(output, ())) if factor in leaves(term)]
    rank = len(network.shapes.get(output, ()))
    captured = any(output in node.captured for node in network.consumers.get(output, ()))
    computed = output in network.outputs and output in network.producers and not captured
    return computed and rank > 1 and axes == [rank - 1] and network.types[output] in FLOATS


def outer_name(name: str) -> str:
    """The name that a tensor had before a matrix was put behind it."""
    return name.removesuffix(_INSIDE)


def bridge(model: onnx.ModelProto, network: Network, outputs: Collection[str]) -> None:
    """Put a matrix, now the identity, and a bias of zero before outputs, in place."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}{_INSIDE}" if name in outputs else name for name in names]
    for name in outputs:
        width, kind = network.shapes[name][-1], network.dtype(name)
        matrix, bias, bare = _added(name)
        put(model.graph.initializer.add(), np.eye(width, dtype=kind), matrix)
        put(model.graph.initializer.add(), np.zeros(width, kind), bias)
        model.graph.node.extend(
            [
                helper.make_node("MatMul", [f"{name}{_INSIDE}", matrix], [bare], bare),
                helper.make_node("Add", [bare, bias], [name], f"{name}/shown"),
            ]
        )


def unbridge(model: onnx.ModelProto, outputs: Collection[str]) -> None:
    """Take matrices away again that are the identity, in place."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    idle = {name for name in outputs if _added(name)[0] in tensors and _is_idle(tensors, name)}
    kept = [n for n in model.graph.node if n.output[0] not in idle and n.output[0] not in {_added(o)[2] for o in idle}]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [outer_name(name) if outer_name(name) in idle else name for name in names]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name in idle:
        for added in _added(name)[:2]:
            model.graph.initializer.remove(tensors[added])


def _added(name: str) -> tuple[str, str, str]:
    """The matrix, the bias, and what the matrix makes."""
    return f"{name}/matrix", f"{name}/bias", f"{name}/unbiased"


def _is_idle(tensors: dict[str, onnx.TensorProto], name: str) -> bool:
    matrix, bias = (array(tensors[added]) for added in _added(name)[:2])
    square = matrix.shape[0] == matrix.shape[1]
    return square and np.array_equal(matrix, np.eye(len(matrix))) and not np.any(bias)
