"""Codes for numbers. Rounding lets gradients through as if it were not there, within the range of the codes.

Codes that are computed are held as floating point numbers, which they equal, so that a gradient can pass; the module
gives them their type where they leave the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnx_mdp.errors import ModelError
from onnx_mdp.torch.registry import Call, operator
from onnx_mdp.torch.tensors import dtype_of


def _aligned(call: Call, x: Tensor, v: Tensor) -> Tensor:
    """A scale or zero point along its axis."""
    if call.attr("block_size", 0):
        raise ModelError(f"node {call.node.name!r}: codes in blocks have no form in PyTorch here; dequantize them")
    axis = call.attr("axis", 1)
    return v if v.numel() == 1 else v.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


@operator("QuantizeLinear", fixed=(1, 2))
def _quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    elem = call.attr("output_dtype", 0)
    dtype = zero.dtype if zero is not None else dtype_of(elem, call.node.name) if elem else torch.uint8
    if dtype.is_floating_point:
        raise ModelError(f"node {call.node.name!r}: codes of type {dtype} have no form in PyTorch here; use int8")
    limits = torch.iinfo(dtype)
    scaled = x / _aligned(call, x, scale)
    codes = scaled + (torch.round(scaled) - scaled).detach()
    codes = codes if zero is None else codes + _aligned(call, x, zero).to(codes.dtype)
    return torch.clamp(codes, limits.min, limits.max)


@operator("DequantizeLinear", fixed=(1, 2))
def _dequantize(call: Call, x: Tensor, scale: Tensor, zero: Any = None) -> Tensor:
    codes = x.to(scale.dtype)
    codes = codes if zero is None else codes - _aligned(call, x, zero).to(scale.dtype)
    return codes * _aligned(call, x, scale)
