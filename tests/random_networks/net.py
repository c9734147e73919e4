"""A network under construction: every choice is drawn, every weight comes from one seeded generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, its shape at the batch size the network is built with, and its ONNX element type."""

    name: str
    shape: Shape
    dtype: int = TensorProto.FLOAT


class Net:
    """Grows a graph operator by operator.

    The first axis of every tensor in `seen` is the batch. A `dynamic` batch is declared symbolic, so nothing may hold
    its size as a literal.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.opset: int = draw(st.sampled_from([18, 13, 17, 21, 11, 23]))
        self.dynamic: bool = draw(st.booleans())
        self.batch = 1 if self.dynamic else self.pick(1, 2)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.known: dict[str, np.ndarray] = {}  # the values that shapes depend on
        self.inputs: list[onnx.ValueInfoProto] = []
        self.seen: list[Tensor] = []

    def pick(self, *choices: Choice) -> Choice:
        """One of the choices; failures shrink towards the first."""
        return self._draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        """An integer between both, inclusive."""
        return self._draw(st.integers(low, high))

    def rarely(self) -> bool:
        """True once in eight times."""
        return self.number(0, 7) == 7

    def input(self, shape: Shape, dtype: int = TensorProto.FLOAT) -> Tensor:
        """A graph input; the first axis is the batch."""
        name = f"input{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, self._declared(shape)))
        return Tensor(name, shape, dtype)

    def op(self, kind: str, *inputs: Tensor | None, shape: Shape | None = None, **attributes: Any) -> Tensor:
        """The single output of a new node; `shape` where it does not follow from the operands' shapes alone."""
        (found,) = self.ops(kind, *inputs, count=1, **attributes)
        return found if shape is None else replace(found, shape=tuple(shape))

    def ops(self, kind: str, *inputs: Tensor | None, count: int, **attributes: Any) -> list[Tensor]:
        """All outputs of a new node."""
        base = f"{kind.lower()}{len(self.nodes)}"
        names = [base] if count == 1 else [f"{base}.{i}" for i in range(count)]
        node = helper.make_node(kind, [i.name if i else "" for i in inputs], names, name=base, **attributes)
        self.nodes.append(node)
        return self._infer(node, [i for i in inputs if i])

    def constant(self, values: np.ndarray, label: str = "weight") -> Tensor:
        """An initializer, or rarely a Constant node."""
        owner = f"layer{len(self.weights) + len(self.nodes)}"
        name = f"{owner}.{label}"
        if (values.ndim < 2 and values.dtype != np.float32) or label == "scales":
            self.known[name] = values
        if self.rarely():
            tensor = numpy_helper.from_array(values)
            self.nodes.append(helper.make_node("Constant", [], [name], name=owner, value=tensor))
        else:
            self.weights[name] = values
        return Tensor(name, values.shape, helper.np_dtype_to_tensor_dtype(values.dtype))

    def weight(self, *shape: int, fan: int) -> Tensor:
        """Noise that keeps the scale of what it multiplies; rarely a weight of the same shape that is there already."""
        tied = [name for name, values in self.weights.items() if values.shape == shape and len(shape) > 1]
        if tied and self.rarely():
            return Tensor(self.pick(*tied), shape)
        return self.constant(self._rng.normal(0, math.sqrt(1.5 / fan), shape).astype(np.float32))

    def vector(self, size: int, low: float = -0.5, high: float = 0.5, *, trailing: int = 0) -> Tensor:
        """Uniform noise; rarely one that another layer uses too, as exporters merge equal ones."""
        shape = (size,) + (1,) * trailing
        shared = [n for n, v in self.weights.items() if v.shape == shape and v.dtype == np.float32 and v.min() >= low]
        if shared and self.rarely():
            return Tensor(self.pick(*shared), shape)
        return self.constant(self._rng.uniform(low, high, shape).astype(np.float32), "bias")

    def scalar(self, value: float) -> Tensor:
        """A constant of a formula; one initializer for all uses of the same value."""
        name = f"scalar {value:g}"
        self.weights[name] = np.array(value, np.float32)
        return Tensor(name, ())

    def noise(self, *shape: int) -> Tensor:
        """Noise of unit scale."""
        return self.constant(self._rng.normal(0, 1, shape).astype(np.float32))

    def ints(self, *values: int, scalar: bool = False) -> Tensor:
        """A list of integers, or one scalar."""
        return self.constant(np.array(values[0] if scalar else values, np.int64), "ints")

    def permutation(self, size: int) -> Tensor:
        """The integers below the size in random order."""
        return self.constant(self._rng.permutation(size).astype(np.int64), "ints")

    def random_integers(self, below: int, size: int) -> Tensor:
        """A list of random integers."""
        return self.constant(self._rng.integers(0, below, size), "ints")

    def reshape(self, x: Tensor, *sizes: int) -> Tensor:
        """Reshape to sizes whose first is the batch, spelled in one of the ways exporters do."""
        spelled = list(sizes)
        ways: list[str] = ["zero", "infer"] + (["computed"] if self.dynamic else ["literal"])
        way = self.pick(*ways) if sizes[0] == x.shape[0] else "infer"
        if way == "computed":
            return self.op("Reshape", x, self._shape_of(x, sizes), shape=sizes)
        if way != "literal":
            spelled[0] = 0 if way == "zero" else -1
        free = [i for i in range(1, len(sizes)) if way != "infer"]
        infer_one = bool(free) and self.pick(False, True)
        if infer_one:
            spelled[self.pick(*free)] = -1
        return self.op("Reshape", x, self.ints(*spelled), shape=sizes)

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        """The axes in another order."""
        return self.op("Transpose", x, perm=list(order))

    def squeeze(self, x: Tensor, axis: int) -> Tensor:
        """Drops an axis of size one, by number, or every such axis where it is the only one."""
        ones = [i for i, size in enumerate(x.shape) if size == 1]
        bare = ones == [axis] and not self.dynamic and self.pick(False, True)
        return self.op("Squeeze", x) if bare else self._by_axes("Squeeze", x, (axis,), 13)

    def unsqueeze(self, x: Tensor, *axes: int) -> Tensor:
        """New axes of size one."""
        return self._by_axes("Unsqueeze", x, axes, 13)

    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
        """Parts of an axis; equal ones may go without their sizes."""
        count = len(sizes)
        if len(set(sizes)) == 1 and self.pick(False, True):
            counted = {"num_outputs": count} if self.opset >= 18 else {}
            return self.ops("Split", x, count=count, axis=axis, **counted)
        if self.opset >= 13:
            return self.ops("Split", x, self.ints(*sizes), count=count, axis=axis)
        return self.ops("Split", x, count=count, axis=axis, split=list(sizes))

    def mean(self, x: Tensor, axes: Sequence[int], *, keepdims: bool) -> Tensor:
        """ReduceMean."""
        return self._by_axes("ReduceMean", x, axes, 18, keepdims=int(keepdims))

    def batch_shape(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The integers of a shape whose first element is the batch of x."""
        return self._shape_of(x, sizes) if self.dynamic else self.ints(*sizes)

    def model(self, outputs: Sequence[Tensor]) -> onnx.ModelProto:
        """The finished network."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            self.inputs,
            [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, self._declared(t.shape)) for t in outputs],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=max(9, helper.find_min_ir_version_for(imports))
        )

    def reduced(self, kind: str, x: Tensor, axis: int) -> Tensor:
        """A reduction over one axis, which stays with size one."""
        return self._by_axes(kind, x, [axis], 13 if kind == "ReduceSum" else 18, keepdims=1)

    def _by_axes(self, kind: str, x: Tensor, axes: Sequence[int], since: int, **attributes: Any) -> Tensor:
        """A node whose axes are an attribute before opset `since`, and an input from then on."""
        if self.opset < since:
            return self.op(kind, x, axes=list(axes), **attributes)
        return self.op(kind, x, self.ints(*axes), **attributes)

    def _declared(self, shape: Shape) -> list[int | str]:
        return ["N" if self.dynamic else shape[0], *shape[1:]]

    def _shape_of(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        read = self.op("Shape", x)
        first = self.op("Gather", read, self.ints(0), shape=(1,))
        return self.op("Concat", first, self.ints(*sizes[1:]), axis=0)

    def _infer(self, node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Tensor]:
        types = {t.name: helper.make_tensor_type_proto(t.dtype, t.shape) for t in inputs}
        known = {t.name: numpy_helper.from_array(self.known[t.name]) for t in inputs if t.name in self.known}
        schema = _schema(node.op_type, self.opset)
        imports = [helper.make_opsetid("", self.opset)]
        inferred = onnx.shape_inference.infer_node_outputs(schema, node, types, known, opset_imports=imports)
        found = [inferred[name].tensor_type for name in node.output]
        shapes = [tuple(d.dim_value for d in tensor.shape.dim) for tensor in found]
        return [Tensor(*t) for t in zip(node.output, shapes, (f.elem_type for f in found), strict=True)]


@cache
def _schema(op: str, opset: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(op, opset, "")


def described(model: onnx.ModelProto) -> str:
    """The network as text, one node a line, weights by shape."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def operand(name: str) -> str:
        if name not in values:
            return name or "_"
        found = values[name]
        return f"{name}={found.tolist()}" if found.dtype != np.float32 else f"{name}{list(found.shape)}"

    lines = [f"opset {model.opset_import[0].version}"]
    lines += [f"input {v.name}{[d.dim_param or d.dim_value for d in _dims(v)]}" for v in model.graph.input]
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if node.op_type != "Constant"}
        operands = ", ".join(map(operand, node.input))
        lines.append(f"{', '.join(node.output)} = {node.op_type}({operands}) {attributes or ''}")
    return "\n".join([*lines, f"outputs {[v.name for v in model.graph.output]}"])


def _dims(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim
