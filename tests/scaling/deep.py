"""Architectures at any depth: residual convolutional networks and a pre-norm transformer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class _Graph:
    """Nodes and weights of a network that is written layer by layer."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node; returns its output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Noise."""
        values = self._rng.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[1:]) or 1)
        return self._add(np.abs(values) + 0.5 if len(shape) == 1 else values)

    def ints(self, *values: int) -> str:
        """A list of integers."""
        return self._add(np.array(values, np.int64))

    def _add(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def model(self, shape: tuple[int, ...], outputs: tuple[int, ...], last: str) -> onnx.ModelProto:
        """The network from input x to its last tensor."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        results = [helper.make_tensor_value_info(last, TensorProto.FLOAT, outputs)]
        graph = helper.make_graph(self.nodes, "deep", inputs, results, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual_network(blocks: int, width: int) -> onnx.ModelProto:
    """A stem, residual blocks of two convolutions with batch norm, and a classifier."""
    g = _Graph()

    def conv(x: str, inner: int, out: int) -> str:
        y = g.op("Conv", x, g.weight(out, inner, 3, 3), pads=[1, 1, 1, 1])
        return g.op("BatchNormalization", y, *(g.weight(out) for _ in range(4)))

    x = g.op("Relu", conv("x", 3, width))
    for _ in range(blocks):
        y = conv(g.op("Relu", conv(x, width, 2 * width)), 2 * width, width)
        x = g.op("Relu", g.op("Add", x, y))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x))
    return g.model((1, 3, 8, 8), (1, 10), g.op("Gemm", pooled, g.weight(width, 10), g.weight(10)))


def long_skip_network(blocks: int, width: int) -> onnx.ModelProto:
    """A super-resolution network: one residual branch around all the others."""
    g = _Graph()

    def conv(x: str, inner: int, out: int) -> str:
        return g.op("Conv", x, g.weight(out, inner, 3, 3), g.weight(out), pads=[1, 1, 1, 1])

    stem = x = conv("x", 3, width)
    for _ in range(blocks):
        x = g.op("Add", conv(g.op("Relu", conv(x, width, width)), width, width), x)
    return g.model((1, 3, 8, 8), (1, 3, 8, 8), conv(g.op("Add", conv(x, width, width), stem), width, 3))


def transformer(blocks: int, width: int) -> onnx.ModelProto:
    """Pre-norm blocks of attention with four heads and an MLP on sixteen tokens."""
    g = _Graph()
    x = g.op("MatMul", "x", g.weight(8, width))
    for _ in range(blocks):
        x = g.op("Add", x, _attention(g, _norm(g, x, width), width))
        inner = g.op("Add", g.op("MatMul", _norm(g, x, width), g.weight(width, 4 * width)), g.weight(4 * width))
        x = g.op("Add", x, g.op("MatMul", g.op("Relu", inner), g.weight(4 * width, width)))
    return g.model((1, 16, 8), (1, 16, 10), g.op("MatMul", x, g.weight(width, 10)))


def _norm(g: _Graph, x: str, width: int) -> str:
    return g.op("LayerNormalization", x, g.weight(width), g.weight(width))


def _attention(g: _Graph, x: str, width: int) -> str:
    def heads(order: list[int]) -> str:
        y = g.op("Add", g.op("MatMul", x, g.weight(width, width)), g.weight(width))
        return g.op("Transpose", g.op("Reshape", y, g.ints(1, 16, 4, width // 4)), perm=order)

    scores = g.op("MatMul", heads([0, 2, 1, 3]), heads([0, 2, 3, 1]))
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), heads([0, 2, 1, 3]))
    merged = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(1, 16, width))
    return g.op("MatMul", merged, g.weight(width, width))
