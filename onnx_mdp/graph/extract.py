"""Small models made of a few nodes of a network at other widths: what the latency table times.

Weights hold seeded noise: values do not matter to a dense kernel, as long as they are no denormals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Array, Shape
from onnx_mdp.graph.weights import FLOATS, put

_SMALL = 16  # elements
_NOISE = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)


@dataclass(frozen=True)
class Piece:
    """Some nodes of a network with concrete shapes.

    Attributes:
        nodes: in graph order.
        inputs: computed tensors that enter.
        outputs: tensors that leave.
        shapes: of every tensor of the piece that has one.
        integers: values of integer tensors, replacing the network's.
        attributes: node index -> changed attributes.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]
    integers: Mapping[str, tuple[int, ...]]
    attributes: Mapping[int, Mapping[str, Any]]


def describe(network: Network, piece: Piece) -> str:
    """A canonical text of the piece: equal texts run the same kernels on the same sizes, whatever the names."""
    names: dict[str, str] = {}

    def refer(name: str) -> str:
        if not name:
            return "-"
        if name in piece.integers:
            return str(list(piece.integers[name]))
        if name in names:
            return names[name]
        names[name] = f"%{len(names)}"
        kind = "w" if name in network.weights else "x"
        if kind == "w" and not network.shapes[name]:
            return f"{network.weights[name].item():.6g}"
        dtype = onnx.TensorProto.DataType.Name(network.types.get(name, 1)).lower()
        return f"{names[name]}:{kind}{list(piece.shapes.get(name, ()))}{dtype}"

    lines = []
    for node in piece.nodes:
        attributes = {**node.attributes, **piece.attributes.get(node.index, {})}
        shown = ",".join(f"{key}={_shown(attributes[key])}" for key in sorted(attributes))
        inputs = " ".join(refer(name) for name in node.inputs)
        outputs = " ".join(refer(name) for name in node.outputs)
        lines.append(f"{node.domain}.{node.op}({shown}) {inputs} -> {outputs}")
    lines.append("out " + " ".join(refer(name) for name in piece.outputs))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"array{value.shape}" if isinstance(value, np.ndarray) else str(value)


def extract(network: Network, piece: Piece) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The piece as a model of its own, and inputs to run it on."""
    model = onnx.ModelProto(ir_version=network.model.ir_version, opset_import=network.model.opset_import)
    graph = model.graph
    graph.name = "piece"
    for node in piece.nodes:
        proto = onnx.NodeProto()
        proto.CopyFrom(network.model.graph.node[node.index])
        for key, value in piece.attributes.get(node.index, {}).items():
            kept = [attribute for attribute in proto.attribute if attribute.name != key]
            del proto.attribute[:]
            proto.attribute.extend([*kept, helper.make_attribute(key, value)])
        graph.node.append(proto)
    used = dict.fromkeys(name for node in piece.nodes for name in (*node.inputs, *node.captured) if name)
    for name in used:
        if name in piece.integers:
            kind = np.int32 if network.types.get(name) == onnx.TensorProto.INT32 else np.int64
            values = np.array(piece.integers[name], kind).reshape(piece.shapes.get(name, (len(piece.integers[name]),)))
            graph.initializer.append(numpy_helper.from_array(values, name))
        elif name in network.weights:
            put(graph.initializer.add(), _weight(network, name, piece.shapes[name]), name)
    feeds = {name: _noise(piece.shapes[name], network.types[name]) for name in piece.inputs}
    graph.input.extend(helper.make_tensor_value_info(n, network.types[n], piece.shapes[n]) for n in piece.inputs)
    graph.output.extend(helper.make_tensor_value_info(n, network.types[n], piece.shapes[n]) for n in piece.outputs)
    model.functions.extend(network.model.functions)
    return model, feeds


def _weight(network: Network, name: str, shape: Shape) -> Array:
    """Noise of the given shape; small tensors that keep their shape keep their values (scales, bounds, indices)."""
    elem = network.types[name]
    if shape == network.shapes[name] and (elem not in FLOATS or math.prod(shape) <= _SMALL):
        return network.weights[name]
    return _noise(shape, elem, 0.05 if elem == onnx.TensorProto.FLOAT and len(shape) > 1 else 1.0)


def _noise(shape: Sequence[int], elem: int, scale: float = 1.0) -> Array:
    """Repeated noise; all there is to compute is computed before it is repeated, for the sake of large shapes."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elem))
    positive = dtype.kind in "iub" or len(shape) == 1
    values = np.abs(_NOISE) if positive else _NOISE
    if positive and dtype.kind not in "iub":
        values = values + np.float32(0.1)
    return np.resize((values * np.float32(scale)).astype(dtype), shape)
