"""Small transformers, written by hand in the ways that exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_mdp.runtime.base import Array

D, TOKENS, HEADS = 16, 5, 2


class Net:
    """A network under construction; every method returns the name of what it computes."""

    def __init__(self, seed: int = 0, dtype: Any = np.float32) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, *shape: int | str, elem: int | None = None) -> str:
        name = f"x{len(self.inputs)}"
        kind = elem or helper.np_dtype_to_tensor_dtype(self.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def op(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0]

    def constant(self, values: Any, name: str = "") -> str:
        array = np.asarray(values)
        name = name or f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int, scale: float = 0.3, mean: float = 0.0) -> str:
        return self.constant((self.rng.normal(mean, scale, shape)).astype(self.dtype))

    def model(self, *outputs: str, opset: int = 17) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, values, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        inferred = onnx.shape_inference.infer_shapes(model)
        for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
            value.CopyFrom(found)
        return model

    # Layers.

    def linear(self, x: str, wide: int, out: int, *, bias: bool = True) -> str:
        y = self.op("MatMul", x, self.weight(wide, out))
        return self.op("Add", y, self.weight(out)) if bias else y

    def layer_norm(self, x: str, size: int = D) -> str:
        return self.op("LayerNormalization", x, self.weight(size, mean=1), self.weight(size), axis=-1)

    def spelled_layer_norm(self, x: str, size: int = D) -> str:
        centered = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        y = self.op("Div", centered, self._root(centered))
        return self.op("Add", self.op("Mul", y, self.weight(size, mean=1)), self.weight(size))

    def spelled_rms_norm(self, x: str, size: int = D) -> str:
        return self.op("Mul", self.op("Div", x, self._root(x)), self.weight(size, mean=1))

    def _root(self, x: str) -> str:
        mean = self.op("ReduceMean", self.op("Pow", x, self.constant(self.dtype.type(2))), axes=[-1])
        return self.op("Sqrt", self.op("Add", mean, self.constant(self.dtype.type(1e-5))))

    def rms_norm(self, x: str, size: int = D) -> str:
        return self.op("RMSNormalization", x, self.weight(size, mean=1), axis=-1)

    def attention(self, x: str, size: int = D, tokens: int = TOKENS) -> str:
        def heads(order: list[int]) -> str:
            y = self.op("Reshape", self.linear(x, size, size), self.ints(0, tokens, HEADS, size // HEADS))
            return self.op("Transpose", y, perm=order)

        q, k, v = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
        y = self.op("MatMul", self.op("Softmax", self.op("MatMul", q, k), axis=-1), v)
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, tokens, size))
        return self.linear(y, size, size)

    def mlp(self, x: str, size: int = D) -> str:
        return self.linear(self.op("Relu", self.linear(x, size, 24)), 24, size)

    def block(self, x: str, norm: Any = None, size: int = D, tokens: int = TOKENS) -> str:
        norm = norm or self.layer_norm
        x = self.op("Add", x, self.attention(norm(x, size), size, tokens))
        return self.op("Add", x, self.mlp(norm(x, size), size))

    def head(self, x: str, size: int = D) -> str:
        return self.linear(self.layer_norm(x, size), size, 7)


def feeds_of(model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """Seeded noise, or numbers of tokens; one for every symbolic dimension."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        values = rng.integers(0, 9, shape) if kind.kind == "i" else rng.normal(0, 1, shape)
        feeds[value.name] = values.astype(kind)
    return feeds
