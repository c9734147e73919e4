"""Where the numbers of a model's weights lie: in the model, or in a file that they are mapped from.

Protobuf neither reads nor writes a message of more than 2 GiB. A large model is therefore held as a small message whose
big weights name their place in a file; they are memory maps wherever they are read, and never a part of a message.
Small models hold all of their weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnx_mdp.graph.shapes import Array

FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
PROTOBUF_LIMIT = 2**31 - 1
# Bytes of weights from which a model is large: half of protobuf's limit, since a copy may hold more than its original.
LARGE = 1 << 30
# Bytes from which a weight of a large model stays in its file. Vectors never do: many are copied and merged again.
_BIG = 1 << 16
# Bytes up to which any numbers count as part of a model's structure, as sizes and indices do: they may scale a resize.
_FEW = 64
# Bits of an element of the types whose elements share bytes; the newest of them are not in every onnx.
_PACKED = {"FLOAT4E2M1": 4, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6, "INT2": 2, "INT4": 4, "UINT2": 2, "UINT4": 4}
_BITS = {elem: _PACKED[name] for name, elem in onnx.TensorProto.DataType.items() if name in _PACKED}


def array(tensor: onnx.TensorProto) -> Array:
    """The values of a weight; a read-only memory map if they lie in a file."""
    if not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return raw(tensor).view(dtype).reshape(tuple(tensor.dims))


def raw(tensor: onnx.TensorProto) -> Array:
    """The bytes of a weight, as ONNX stores them; a read-only memory map if they lie in a file."""
    if uses_external_data(tensor):
        place = ExternalDataInfo(tensor)
        file = Path(place.basepath, place.location)
        return np.asarray(np.memmap(file, np.uint8, "r", place.offset or 0, (stored_bytes(tensor),)))
    if not tensor.HasField("raw_data"):
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
    return np.frombuffer(tensor.raw_data, np.uint8)


def put(tensor: onnx.TensorProto, values: Array, name: str) -> None:
    """Make a tensor hold the values, under a name. A big one is filled in place, which saves a copy of it."""
    elem = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    if values.nbytes < _BIG or elem in _BITS:
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, order="C"), name))
    else:
        tensor.CopyFrom(onnx.TensorProto(name=name, data_type=elem, dims=values.shape))
        tensor.raw_data = values.tobytes()


def refer(tensor: onnx.TensorProto, location: str, offset: int, folder: Path | None = None) -> None:
    """Let a tensor's values lie in a file: beside the model, or for use in this process only, in a given folder."""
    length = stored_bytes(tensor)
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length, "basepath": folder}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a weight's values take by its type and dimensions."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    return math.ceil(math.prod(tensor.dims) * element_bits(tensor.data_type) / 8)


def element_bits(elem: int) -> int:
    """Bits that one element of a type takes."""
    return _BITS.get(elem) or 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem)).itemsize


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights of a model, wherever they lie."""
    return sum(stored_bytes(tensor) for tensor in model.graph.initializer)


def is_large(model: onnx.ModelProto) -> bool:
    """Whether the model must not be written as one message."""
    return weight_bytes(model) > LARGE


def is_big(tensor: onnx.TensorProto) -> bool:
    """Whether a weight of a large model stays in its file."""
    return len(tensor.dims) > 1 and stored_bytes(tensor) >= _BIG and tensor.data_type not in _BITS


def model_bytes(model: onnx.ModelProto) -> int:
    """Bytes of a model with its weights."""
    if not is_large(model):
        return model.ByteSize()
    return with_weights(model, ()).ByteSize() + weight_bytes(model)


def with_weights(model: onnx.ModelProto, weights: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of the model with other weights; the model's own are not even read."""
    copy = onnx.ModelProto(**_fields(model, "graph"))
    copy.graph.CopyFrom(onnx.GraphProto(**_fields(model.graph, "initializer")))
    copy.graph.initializer.extend(weights)
    return copy


def structure(model: onnx.ModelProto) -> str:
    """A hash of all of a model but the numbers in its weights: what its latency depends on."""
    digest = hashlib.sha256()

    def described() -> Iterator[onnx.TensorProto]:
        for tensor in model.graph.initializer:
            yield onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            if tensor.data_type == onnx.TensorProto.INT64 or 0 < stored_bytes(tensor) <= _FEW:
                digest.update(repr(array(tensor).tolist()).encode())

    digest.update(with_weights(model, described()).SerializeToString(deterministic=True))
    return digest.hexdigest()[:32]


def _fields(message: Any, but: str) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields() if field.name != but}


def without_big_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model that takes its big weights as inputs: for checks that read no weight's values."""
    big = {tensor.name: tensor for tensor in model.graph.initializer if is_big(tensor)}
    copy = with_weights(model, (tensor for tensor in model.graph.initializer if tensor.name not in big))
    for name in big.keys() - {value.name for value in copy.graph.input}:
        copy.graph.input.append(onnx.helper.make_tensor_value_info(name, big[name].data_type, big[name].dims))
    return copy
