"""Structural checks of a written model, and what its inputs and outputs are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnx_mdp.graph.contrib import DOMAIN, in_standard_domain
from onnx_mdp.graph.shapes import Shape, dims
from onnx_mdp.graph.weights import is_large, without_big_weights

Signature = tuple[tuple[str, int, tuple[str, ...]], ...]


def check(model: onnx.ModelProto) -> None:
    """Run onnx.checker with full shape inference; raises onnx's ValidationError or InferenceError as ValueError.

    Neither looks at the values of big weights, so a large model is checked without them.
    """
    if in_standard_domain(model):
        model = checkable(model)
    try:
        onnx.checker.check_model(without_big_weights(model) if is_large(model) else model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error


def checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that ONNX's checker knows all operators of the standard domain of; it holds no big weights.

    ONNX Runtime's optimizer writes some of its own into that domain, and they are all right there.
    """
    copy = without_big_weights(model)
    for node in in_standard_domain(copy):
        node.domain = DOMAIN
    if all(entry.domain != DOMAIN for entry in copy.opset_import):
        copy.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return copy


def signature(model: onnx.ModelProto) -> tuple[Signature, Signature]:
    """Name, element type and dimensions of every input and output."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return _described(inputs), _described(model.graph.output)


def _described(values: Any) -> Signature:
    return tuple(
        (v.name, v.type.tensor_type.elem_type, tuple(str(d) for d in v.type.tensor_type.shape.dim)) for v in values
    )


_T = onnx.TensorProto
_NUMBERS = {
    *(_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE, _T.INT8, _T.UINT8, _T.INT4, _T.UINT4),
    *(_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ),
}


def parameter_count(model: onnx.ModelProto) -> int:
    """Elements of all initializers of numbers, and of codes of up to 8 bits that stand for numbers."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if counts_as_parameters(tensor.data_type))


def counts_as_parameters(elem: int) -> bool:
    """Whether `parameter_count` counts initializers of an element type."""
    return elem in _NUMBERS


def has_symbolic_batch(model: onnx.ModelProto) -> bool:
    """Whether every input's first dimension is symbolic."""
    weights = {tensor.name for tensor in model.graph.initializer}
    declared = [dims(value) for value in model.graph.input if value.name not in weights]
    return all(shape and shape[0] is None for shape in declared)


def random_feeds(model: onnx.ModelProto, shapes: Mapping[str, Shape], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Seeded inputs: normal floats, integers 0 and 1 (valid as token ids and as masks)."""
    rng = np.random.default_rng(seed)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    feeds = {}
    for name, shape in shapes.items():
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(types[name]))
        feeds[name] = random_values(rng, dtype, shape)
    return feeds


def random_values(rng: np.random.Generator, dtype: np.dtype[Any], shape: Shape) -> np.ndarray[Any, Any]:
    """Normal floats, or integers 0 and 1 (valid as token ids and as masks)."""
    integral = dtype.kind in "iub"
    values = rng.integers(0, 2, shape) if integral else rng.standard_normal(shape)
    return values.astype(dtype)
