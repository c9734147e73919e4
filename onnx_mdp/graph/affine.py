"""Writes AffineGrid as the product that it is, of positions with a transformation: so do exporters that lack it.

The grid is linear in the transformation, so the positions are what the operator makes of the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.shapes import Array, Shape, input_shapes
from onnx_mdp.graph.weights import array

_SINCE = 20  # the opset that brought the operator


def expand_grids(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Replace every AffineGrid of constant size by a product with its positions, in place."""
    graph = model.graph
    if not any(node.op_type == "AffineGrid" for node in graph.node):
        return
    types = infer(model, input_shapes(graph, asked)).types
    sizes = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "AffineGrid" and node.input[0] in types and node.input[1] in sizes:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types[node.input[0]])
            nodes += _product(graph, node, array(sizes[node.input[1]]), dtype)
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)


def _product(graph: onnx.GraphProto, node: onnx.NodeProto, size: Array, dtype: DTypeLike) -> Iterator[onnx.NodeProto]:
    """Positions times the transposed transformation, laid out as the grid."""
    name, space = node.output[0], size[2:].tolist()
    shape = np.array([size[0], *space, len(space)], np.int64)
    stored = {f"{name}/positions": _positions(node, size).astype(dtype), f"{name}/shape": shape}
    graph.initializer.extend(numpy_helper.from_array(values, key) for key, values in stored.items())
    yield helper.make_node("Transpose", node.input[:1], [f"{name}/transposed"], f"{name}/transpose", perm=[0, 2, 1])
    yield helper.make_node("MatMul", [f"{name}/positions", f"{name}/transposed"], [f"{name}/flat"], f"{name}/product")
    yield helper.make_node("Reshape", [f"{name}/flat", f"{name}/shape"], [name], node.name or name)


def _positions(node: onnx.NodeProto, size: Array) -> Array:
    """Coordinates of every position, and a one."""
    rank = len(size) - 2
    identity = np.eye(rank, rank + 1, dtype=np.float32)[None]
    alone = np.concatenate([np.ones(1, np.int64), size[1:]])
    (grid,) = ReferenceEvaluator(node, opsets={"": _SINCE}).run(None, {node.input[0]: identity, node.input[1]: alone})
    flat = np.asarray(grid, np.float32).reshape(-1, rank)
    return np.concatenate([flat, np.ones_like(flat[:, :1])], axis=1)
