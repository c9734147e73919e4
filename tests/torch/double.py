"""What a model is without rounding: its module in double precision.

On random weights some networks magnify rounding a thousandfold, and detectors that choose among nearly equal scores
choose otherwise after any rounding. Two computations of such a model in single precision differ by that, ONNX Runtime's
with and without its fusions as well. Neither says anything of the other; how far each is from the double one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from onnx_mdp.torch import to_module

Feeds = dict[str, np.ndarray]


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that has doubles wherever the model has floats."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _double(copy.graph)
    for function in copy.functions:
        for node in function.node:
            _double_node(node)
    return copy


def _double(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for node in graph.node:
        _double_node(node)


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _double_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _double_tensor(attribute.t)
        elif attribute.HasField("g"):
            _double(attribute.g)
        elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        elif attribute.name in ("value_float", "value_floats"):
            values = np.asarray(helper.get_attribute_value(attribute), np.float64)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def in_double(feeds: Feeds) -> Feeds:
    """Inputs for a doubled model."""
    return {name: v.astype(np.float64) if v.dtype == np.float32 else v for name, v in feeds.items()}


def computed(model: onnx.ModelProto, draws: Sequence[Feeds]) -> Iterator[list[np.ndarray]]:
    """What the model's module makes of inputs."""
    module = to_module(model)
    for feeds in draws:
        with torch.no_grad():
            found = module({name: torch.from_numpy(value) for name, value in feeds.items()})
        yield [value.detach().numpy() for value in found.values()]


def by_onnxruntime(model: onnx.ModelProto, draws: Sequence[Feeds], *, fused: bool = True) -> Iterator[list[np.ndarray]]:
    """What ONNX Runtime makes of inputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feeds in draws:
        yield session.run(None, feeds)


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference relative to the largest number; infinite where shapes differ, or whole numbers do."""
    if found.shape != truth.shape:
        return np.inf
    if truth.dtype.kind != "f":
        return 0.0 if np.array_equal(found, truth) else np.inf
    difference = np.abs(found.astype(np.float64) - truth).max(initial=0)
    return float(difference / max(np.abs(truth).max(initial=0), 1e-30))
