"""Shapes, types and small values of a graph's tensors at concrete input shapes, node by node.

Exporters compute shapes with long chains of small integer operators. ONNX's own whole-graph inference gives up on many
of them; done one node at a time, with every value that is known so far at hand, they all fold. Data never enters: what
depends on it stays unknown. Operators are inferred by their ONNX schemas and evaluated by the ONNX reference
implementation, so there is no second definition of them here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_mdp.graph import contrib
from onnx_mdp.graph.bodies import Typed, output_types
from onnx_mdp.graph.shapes import Array, Shape, dims
from onnx_mdp.graph.weights import FLOATS, array

_SMALL = 4096  # elements: values of larger tensors are never shapes
_FEW = 16  # elements: floats of no more may be bounds, scales or exponents that an operator's rule must know
_DEFAULT_DOMAIN = ("", "ai.onnx")
# Standard operators without inference of their own whose result is like their input.
_UNINFERRED = {"GroupNormalization", "MeanVarianceNormalization"}


@dataclass
class Facts:
    """What is known of tensors by name: shape, ONNX element type, and the value of small ones."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)


def infer(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> Facts:
    """Everything that follows from the input shapes alone."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return _Inference(model, {name: (elem, inputs[name]) for name, elem in types.items()}, Facts()).run()


class _Inference:
    """A graph with the types of its inputs, and what is known outside of it if it is the subgraph of a node."""

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Typed], outside: Facts) -> None:
        self.graph = model.graph
        self.facts = Facts(dict(outside.shapes), dict(outside.types), dict(outside.values))
        self.opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self.imports = list(model.opset_import)
        self.declared = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
        self.symbols = _symbols(model.graph, inputs)
        self.evaluators: dict[bytes, ReferenceEvaluator] = {}
        for name, (elem, shape) in inputs.items():
            self._learn(name, elem, shape)
        self.stored = {t.name for t in model.graph.initializer if t.data_type in FLOATS and math.prod(t.dims) > _FEW}
        for tensor in model.graph.initializer:
            self._learn(tensor.name, tensor.data_type, tuple(tensor.dims))
            if math.prod(tensor.dims) <= _SMALL and len(tensor.dims) <= 2:
                self.facts.values[tensor.name] = array(tensor)

    def run(self) -> Facts:
        for node in self.graph.node:
            if not self._fold_shape(node):
                self._infer(node)
                self._evaluate(node)
        return self.facts

    def _learn(self, name: str, elem: int, shape: Shape | None) -> None:
        if elem:
            self.facts.types[name] = elem
        if shape is not None:
            self.facts.shapes[name] = shape

    def _fold_shape(self, node: onnx.NodeProto) -> bool:
        """The shape of a tensor of known shape is a constant."""
        shape = self.facts.shapes.get(node.input[0]) if node.input else None
        if node.op_type != "Shape" or node.domain not in _DEFAULT_DOMAIN or shape is None:
            return False
        bounds = {a.name: a.i for a in node.attribute}
        value = np.array(shape[slice(bounds.get("start", 0), bounds.get("end"))], np.int64)
        self.facts.values[node.output[0]] = value
        self._learn(node.output[0], onnx.TensorProto.INT64, value.shape)
        return True

    def _infer(self, node: onnx.NodeProto) -> None:
        """Types of the outputs by the operator's schema; what the file declares where there is none."""
        found = self._by_bodies(node) or self._by_schema(node)
        for name in filter(None, node.output):
            value = onnx.ValueInfoProto(name=name, type=found[name]) if name in found else self.declared.get(name)
            if value is None:
                continue
            sizes = dims(value, self.symbols)
            known = sizes is not None and None not in sizes
            trusted = name in found or self._is_static(node)
            shape = tuple(d for d in sizes or () if d is not None) if known and trusted else None
            self._learn(name, value.type.tensor_type.elem_type, shape)

    def _is_static(self, node: onnx.NodeProto) -> bool:
        """Whether a declared shape can be relied on: the node's own inputs have one."""
        return all(name in self.facts.shapes for name in node.input if name)

    def _by_bodies(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """Types of what an If, Loop or Scan computes."""
        if node.domain not in _DEFAULT_DOMAIN:
            return {}
        given = [(self.facts.types.get(name, 0), self.facts.shapes.get(name)) for name in node.input]
        found = zip(node.output, output_types(node, given, self._inside), strict=False)
        return {name: onnx.helper.make_tensor_type_proto(*typed) for name, typed in found if name and typed[0]}

    def _inside(self, body: onnx.GraphProto, given: Sequence[Typed]) -> list[Typed]:
        """What a subgraph computes, which may read all that is known here."""
        model = onnx.ModelProto(graph=body, opset_import=self.imports)
        inputs = {value.name: typed for value, typed in zip(body.input, given, strict=True)}
        facts = _Inference(model, inputs, self.facts).run()
        return [(facts.types.get(value.name, 0), facts.shapes.get(value.name)) for value in body.output]

    def _by_schema(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        if contrib.is_contrib(node, self.opsets.get("", 1)):
            plain = contrib.standard_form(node)
            return self._by_formula(node) if plain is None else self._by_standard_form(node, plain)
        domain = "" if node.domain in _DEFAULT_DOMAIN else node.domain
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(domain, 1), domain)
            types = {name: self._type(name) for name in node.input if name}
            small = {n: numpy_helper.from_array(self.facts.values[n]) for n in node.input if n in self.facts.values}
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, small, opset_imports=self.imports)
            return {**found, node.output[0]: types[node.input[0]]} if node.op_type in _UNINFERRED else found
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, KeyError):
            return {}

    def _by_standard_form(self, node: onnx.NodeProto, plain: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """Shapes as if on floats, which every standard operator takes; the element type is the node's own."""
        float_type = onnx.TensorProto.FLOAT
        shapes = {name: self.facts.shapes.get(name) for name in plain.input if name}
        types = {name: onnx.helper.make_tensor_type_proto(float_type, shape) for name, shape in shapes.items()}
        schema = onnx.defs.get_schema(plain.op_type, self.opsets.get("", 1), "")
        elem = self.facts.types.get(node.input[contrib.output_type(node)], 0)
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, plain, types, opset_imports=self.imports)
        except (onnx.shape_inference.InferenceError, RuntimeError):
            return {}
        for value in found.values():
            value.tensor_type.elem_type = elem
        return found

    def _by_formula(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        shapes = contrib.output_shapes(node, [self.facts.shapes.get(name) for name in node.input])
        elem = self.facts.types.get(node.input[contrib.output_type(node)], 0)
        return {
            name: onnx.helper.make_tensor_type_proto(elem, shape)
            for name, shape in zip(node.output, shapes, strict=False)
            if name and elem
        }

    def _type(self, name: str) -> onnx.TypeProto:
        return onnx.helper.make_tensor_type_proto(self.facts.types[name], self.facts.shapes.get(name))

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """The values of small outputs whose inputs are all known."""
        facts = self.facts
        if node.domain not in _DEFAULT_DOMAIN or node.op_type.startswith(("Random", "Dequantize")):
            return  # codes stay codes
        if node.op_type in ("Cast", "CastLike") and node.input[0] in self.stored:
            return  # a weight keeps the type it is stored in
        small = all(math.prod(facts.shapes.get(name, (_SMALL + 1,))) <= _SMALL for name in node.output if name)
        if not small or not all(name in facts.values for name in node.input if name):
            return
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            return
        try:
            results = self._evaluator(node).run(None, {f"i{k}": facts.values[n] for k, n in enumerate(node.input) if n})
        except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError):
            return
        facts.values.update((n, np.asarray(r)) for n, r in zip(filter(None, node.output), results, strict=False))

    def _evaluator(self, node: onnx.NodeProto) -> ReferenceEvaluator:
        """One evaluator for all nodes of the same operator and attributes."""
        plain = onnx.NodeProto(op_type=node.op_type, attribute=node.attribute)
        plain.input.extend(f"i{k}" if name else "" for k, name in enumerate(node.input))
        plain.output.extend(f"o{k}" for k, name in enumerate(node.output) if name)
        key = plain.SerializeToString(deterministic=True)
        if key not in self.evaluators:
            self.evaluators[key] = ReferenceEvaluator(plain, opsets={"": self.opsets.get("", 1)})
        return self.evaluators[key]


def _symbols(graph: onnx.GraphProto, inputs: Mapping[str, Typed]) -> dict[str, int]:
    """The sizes of the inputs' symbolic dimensions, by their names."""
    shapes = ((value.type.tensor_type.shape.dim, inputs[value.name][1]) for value in graph.input)
    pairs = (
        (dim.dim_param, size) for declared, shape in shapes for dim, size in zip(declared, shape or (), strict=False)
    )
    return {symbol: size for symbol, size in pairs if symbol}
