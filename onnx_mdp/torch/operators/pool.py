"""Operators that pool."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.errors import ModelError
from onnx_mdp.torch.operators.window import ceiled, pads_of
from onnx_mdp.torch.registry import Call, operator

_MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGE = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _window(call: Call, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, the pads, and the pads with what `ceil_mode` adds to them."""
    kernel = call.attr("kernel_shape")
    ones = [1] * len(kernel)
    strides, dilations = call.attr("strides", ones), call.attr("dilations", ones)
    pads = pads_of(call, x.shape[2:], kernel, strides, dilations)
    more = ceiled(x.shape[2:], kernel, strides, dilations, pads) if call.attr("ceil_mode", 0) else pads
    return kernel, strides, dilations, pads, more


def _flat(pads: list[int]) -> list[int]:
    rank = len(pads) // 2
    return [size for i in reversed(range(rank)) for size in (pads[i], pads[i + rank])]


@operator("MaxPool")
def _max_pool(call: Call, x: Tensor) -> Tensor:
    if call.outputs > 1:
        raise ModelError(f"node {call.node.name!r}: the indices of a MaxPool have no form here; read its maxima only")
    kernel, strides, dilations, _, pads = _window(call, x)
    if any(pads):
        least: Any = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x = functional.pad(x, _flat(pads), value=least)
    return _MAX[len(kernel) - 1](x, kernel, strides, 0, dilations)


@operator("AveragePool")
def _average_pool(call: Call, x: Tensor) -> Tensor:
    """Zeros around the image count only if asked for; what `ceil_mode` adds beyond them never does."""
    kernel, strides, dilations, pads, more = _window(call, x)
    if any(size != 1 for size in dilations):
        raise ModelError(f"node {call.node.name!r}: an AveragePool with dilations has no form in PyTorch here")
    pool = _AVERAGE[len(kernel) - 1]
    if not any(more):
        return pool(x, kernel, strides)
    found = pool(functional.pad(x, _flat(more)), kernel, strides)
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if call.attr("count_include_pad", 0):
        counted = functional.pad(counted, _flat(pads), value=1.0)
        more = [m - p for m, p in zip(more, pads, strict=True)]
    return found / pool(functional.pad(counted, _flat(more)), kernel, strides)


@operator("LpPool", since=2)
def _lp_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, _, _, pads = _window(call, x)
    power = call.attr("p", 2)
    summed = _AVERAGE[len(kernel) - 1](functional.pad(x.abs() ** power, _flat(pads)), kernel, strides)
    return (summed * math.prod(kernel)) ** (1 / power)


def _space(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@operator("GlobalAveragePool")
def _global_average_pool(call: Call, x: Tensor) -> Tensor:
    return x.mean(_space(x), keepdim=True)


@operator("GlobalMaxPool")
def _global_max_pool(call: Call, x: Tensor) -> Tensor:
    return x.amax(_space(x), keepdim=True)


@operator("GlobalLpPool", since=2)
def _global_lp_pool(call: Call, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, call.attr("p", 2), _space(x), keepdim=True)
