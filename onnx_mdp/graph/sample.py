"""Small reference models of one inner width, for probing a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_mdp.graph.shapes import Array

_CHANNELS = 64


def conv_chain(width: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """1x1, 3x3 and 1x1 convolutions at 14x14 with `width` channels between them."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["y"]),
    ]
    shapes = {"w1": (width, _CHANNELS, 1, 1), "w2": (width, width, 3, 3), "w3": (_CHANNELS, width, 1, 1)}
    return _model(nodes, shapes, (1, _CHANNELS, 14, 14))


def matmul_chain(width: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Two matrix products over 196 rows with `width` columns between them."""
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("MatMul", ["a", "w2"], ["y"])]
    return _model(nodes, {"w1": (_CHANNELS, width), "w2": (width, _CHANNELS)}, (196, _CHANNELS))


def _model(
    nodes: list[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(rng.normal(0, 0.05, s).astype(np.float32), n) for n, s in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {"x": rng.normal(size=shape).astype(np.float32)}
