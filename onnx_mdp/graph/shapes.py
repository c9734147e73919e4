"""What a graph declares of its inputs, and the concrete shapes the model is pruned at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_mdp.errors import DynamicShapeError, OptionError

Shape = tuple[int, ...]
Array = NDArray[Any]


def input_shapes(graph: onnx.GraphProto, asked: Mapping[str, Shape]) -> dict[str, Shape]:
    """The concrete shape of every graph input.

    A symbolic first dimension is a batch and becomes 1; any other symbolic dimension must be asked for.

    Raises:
        DynamicShapeError: an input has a symbolic dimension that is not asked for.
        OptionError: `asked` names no input, or contradicts a fixed dimension.
    """
    inputs = _inputs(graph)
    if unknown := sorted(set(asked) - set(inputs)):
        raise OptionError(f"--shape names no input: {', '.join(unknown)}; the inputs are {', '.join(inputs)}")
    return {name: _concrete(value, asked.get(name)) for name, value in inputs.items()}


def other_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same inputs with every symbolic dimension doubled, and a symbolic batch of one made three."""
    declared = {name: dims(value) for name, value in _inputs(graph).items()}
    return {
        name: tuple(
            size if (declared[name] or [None] * len(shape))[i] is not None else 3 if i == 0 and size == 1 else 2 * size
            for i, size in enumerate(shape)
        )
        for name, shape in shapes.items()
    }


def _inputs(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return {value.name: value for value in graph.input if value.name not in weights}


def declared_inputs(graph: onnx.GraphProto) -> dict[str, tuple[np.dtype[Any], list[int | None] | None]]:
    """Numpy type and declared dimensions of every graph input."""
    return {
        name: (np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)), dims(value))
        for name, value in _inputs(graph).items()
    }


def dims(value: onnx.ValueInfoProto, symbols: Mapping[str, int] | None = None) -> list[int | None] | None:
    """The declared dimensions, None where symbolic and not among `symbols`; None for a tensor of unknown rank."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") else (symbols or {}).get(dim.dim_param)
        for dim in value.type.tensor_type.shape.dim
    ]


def _concrete(value: onnx.ValueInfoProto, asked: Shape | None) -> Shape:
    declared = dims(value)
    if asked is not None:
        fits = declared is None or (
            len(declared) == len(asked) and all(d in (None, a) for d, a in zip(declared, asked, strict=True))
        )
        if not fits:
            shown = "x".join(str(d or "?") for d in declared or [])
            raise OptionError(f"--shape {value.name}:{'x'.join(map(str, asked))} contradicts the model's {shown}")
        return asked
    if declared is None:
        raise DynamicShapeError(f"input {value.name!r} has no declared rank; give it: --shape {value.name}:1x3x224x224")
    if declared and declared[0] is None:
        declared[0] = 1
    if None in declared:
        shown = "x".join("?" if d is None else str(d) for d in declared)
        raise DynamicShapeError(
            f"input {value.name!r} is {shown}; give its size: --shape {value.name}:{shown.replace('?', '224')}"
        )
    return tuple(d for d in declared if d is not None)
