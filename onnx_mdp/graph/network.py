"""A read-only view of a normalized model: nodes, weights, shapes. Every stage but the writer reads this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.shapes import Array, Shape, input_shapes
from onnx_mdp.graph.twins import Twin, find_twins
from onnx_mdp.graph.unshare import original_name
from onnx_mdp.graph.weights import FLOATS, array


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operator.

    `inputs` holds "" where an optional one is absent; `captured` are the outer tensors that its subgraphs read.
    """

    index: int
    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    captured: tuple[str, ...]


class Weights(Mapping[str, Array]):
    """Initializers by name, converted or mapped on each access so that no second copy of the model lives in memory."""

    def __init__(self, tensors: Mapping[str, onnx.TensorProto]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Array:
        return array(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def stored(self, name: str) -> onnx.TensorProto:
        """An initializer as the model stores it."""
        return self._tensors[name]


@dataclass(frozen=True, eq=False)
class Network:
    """A normalized model at concrete input shapes.

    `shapes` and `types` (ONNX element types) lack the tensors whose shape depends on data; `values` holds the small
    tensors that follow from shapes and constants alone.
    """

    model: onnx.ModelProto
    nodes: tuple[Node, ...]
    weights: Weights
    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]
    values: Mapping[str, Array]
    opsets: Mapping[str, int]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that computes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each tensor, in order, once each."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys((*node.inputs, *node.captured)):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def varying(self) -> frozenset[str]:
        """The tensors whose elements depend on the model's inputs; reading a shape is no such dependence."""
        found = set(self.inputs)
        for node in self.nodes:
            if node.op not in ("Shape", "Size") and not found.isdisjoint((*node.inputs, *node.captured)):
                found.update(node.outputs)
        return frozenset(found)

    @cached_property
    def uses(self) -> Mapping[str, tuple[str, ...]]:
        """For every shared weight that the normal form copied, and for every copy, all of them in graph order."""
        found: dict[str, list[str]] = {}
        for name in self.weights:
            found.setdefault(original_name(name), []).append(name)
        return {name: tuple(names) for names in found.values() if len(names) > 1 for name in names}

    @cached_property
    def twins(self) -> tuple[Twin, ...]:
        """The weights that are stored more than once, with the first of their like."""
        return find_twins(self.model.graph)

    @cached_property
    def stored_as(self) -> Mapping[str, tuple[str, ...]]:
        """For every weight that is stored more than once, all names it has."""
        found: dict[str, list[str]] = {}
        for twin in self.twins:
            found.setdefault(twin.first, [twin.first]).append(twin.second)
        return {name: tuple(names) for names in found.values() for name in names}

    def dtype(self, name: str) -> np.dtype[Any]:
        """The numpy type of a tensor's elements."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.types[name]))

    def is_float_weight(self, name: str) -> bool:
        """Whether the tensor is an initializer of floating point numbers."""
        return name in self.weights and self.types[name] in FLOATS


def read_network(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> Network:
    """The view of a model in normal form, at the asked input shapes (see `input_shapes`)."""
    inputs = input_shapes(model.graph, asked)
    facts = infer(model, inputs)
    return Network(
        model=model,
        nodes=tuple(read_node(i, node) for i, node in enumerate(model.graph.node)),
        weights=Weights({tensor.name: tensor for tensor in model.graph.initializer}),
        inputs=inputs,
        outputs=tuple(value.name for value in model.graph.output),
        shapes=facts.shapes,
        types=facts.types,
        values=facts.values,
        opsets={o.domain or "ai.onnx": o.version for o in model.opset_import},
    )


def read_node(index: int, node: onnx.NodeProto) -> Node:
    """The view of a node; tensors among its attributes become arrays."""
    return Node(
        index=index,
        name=node.name or next((o for o in node.output if o), f"node {index}"),
        op=node.op_type,
        domain=node.domain or "ai.onnx",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={a.name: _attribute(a) for a in node.attribute},
        captured=tuple(dict.fromkeys(_captured(node))),
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [v.decode(errors="replace") if isinstance(v, bytes) else v for v in value]
    return value


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
            local = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            local |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                yield from (name for name in (*inner.input, *_captured(inner)) if name and name not in local)
            yield from (value.name for value in graph.output if value.name not in local)
