"""Stored tensors as PyTorch's, bit by bit, and back."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from onnx_mdp.errors import ModelError
from onnx_mdp.graph.weights import raw

_T = onnx.TensorProto
DTYPES: dict[int, torch.dtype] = {
    _T.FLOAT: torch.float32,
    _T.FLOAT16: torch.float16,
    _T.BFLOAT16: torch.bfloat16,
    _T.DOUBLE: torch.float64,
    _T.FLOAT8E4M3FN: torch.float8_e4m3fn,
    _T.FLOAT8E5M2: torch.float8_e5m2,
    _T.INT8: torch.int8,
    _T.INT16: torch.int16,
    _T.INT32: torch.int32,
    _T.INT64: torch.int64,
    _T.UINT8: torch.uint8,
    _T.UINT16: torch.uint16,
    _T.UINT32: torch.uint32,
    _T.UINT64: torch.uint64,
    _T.BOOL: torch.bool,
}
# Two codes a byte, which PyTorch holds one a byte.
_NARROW: dict[int, type[np.generic]] = {
    _T.INT4: np.int8,
    _T.UINT4: np.uint8,
}


def dtype_of(elem: int, place: str) -> torch.dtype:
    """PyTorch's type for an ONNX element type.

    Raises:
        ModelError: it has none.
    """
    if elem not in DTYPES:
        name = onnx.TensorProto.DataType.Name(elem)
        raise ModelError(f"{place}: PyTorch has no {name}; convert the tensor to another type")
    return DTYPES[elem]


def to_torch(tensor: onnx.TensorProto) -> torch.Tensor:
    """A copy of a stored tensor."""
    if tensor.data_type in _NARROW:
        return torch.from_numpy(numpy_helper.to_array(tensor).astype(_NARROW[tensor.data_type]))
    dtype = dtype_of(tensor.data_type, tensor.name)
    data = bytearray(raw(tensor))
    return (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).reshape(tuple(tensor.dims))


def to_bytes(values: torch.Tensor, elem: int) -> bytes:
    """The values as ONNX stores them in a type."""
    flat = values.detach().to("cpu", DTYPES[elem]).contiguous().reshape(-1)
    data: bytes = flat.view(torch.uint8).numpy().tobytes()
    return data
