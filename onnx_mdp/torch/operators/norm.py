"""Operators that normalize, and those whose results add up to one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.torch.registry import Call, operator


@operator("BatchNormalization", weights=(1, 2), statistics=(3, 4), since=7)
def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
    """Trains as PyTorch's does: statistics of the batch, and running ones that follow it (unbiased variance).

    ONNX's momentum is the weight of the old value, PyTorch's that of the new one. A node in training mode in the graph
    itself takes statistics of the batch always, and makes the new running ones its outputs.
    """
    momentum, epsilon = call.attr("momentum", 0.9), call.attr("epsilon", 1e-5)
    if call.attr("training_mode", 0):
        y = functional.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
        axes = (0, *range(2, x.dim()))
        batch = x.mean(axes), x.var(axes, correction=0)
        return y, *(momentum * old + (1 - momentum) * new for old, new in zip((mean, var), batch, strict=True))
    return functional.batch_norm(x, mean, var, scale, bias, call.training, 1 - momentum, epsilon)


@operator("InstanceNormalization", weights=(1, 2))
def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.group_norm(x, x.shape[1], scale, bias, call.attr("epsilon", 1e-5))


@operator("GroupNormalization", weights=(1, 2))
def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Until opset 21 a group had one scale and bias."""
    groups = call.attr("num_groups")
    if call.opset < 21:
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return torch.group_norm(x, groups, scale, bias, call.attr("epsilon", 1e-5))


@operator("LayerNormalization", weights=(1, 2))
def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis, epsilon = call.attr("axis", -1) % x.dim(), call.attr("epsilon", 1e-5)
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = functional.layer_norm(x, shape, None, None, epsilon) * scale
        y = y if bias is None else y + bias
    if call.outputs == 1:
        return y
    axes = tuple(range(axis, x.dim()))
    deviation = torch.sqrt(x.var(axes, correction=0, keepdim=True) + epsilon)
    return y, x.mean(axes, keepdim=True), 1 / deviation


@operator("RMSNormalization", "SimplifiedLayerNormalization", weights=(1,))
def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(call.attr("axis", -1) % x.dim(), x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    found = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + call.attr("epsilon", 1e-5))
    return found.to(x.dtype) * scale


@operator("LRN")
def _lrn(call: Call, x: Tensor) -> Tensor:
    size = call.attr("size")
    before = (size - 1) // 2
    pads = [0, 0] * (x.dim() - 2) + [before, size - 1 - before]
    summed = functional.pad(x.square(), pads).unfold(1, size, 1).sum(-1)
    alpha, beta = call.attr("alpha", 1e-4), call.attr("beta", 0.75)
    return x / (call.attr("bias", 1.0) + alpha / size * summed) ** beta


@operator("MeanVarianceNormalization")
def _mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    axes = tuple(call.attr("axes", [0, 2, 3]))
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, correction=0, keepdim=True) + 1e-9)


@operator("LpNormalization")
def _lp_norm(call: Call, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, call.attr("p", 2), call.attr("axis", -1), keepdim=True)
    return x / torch.where(norm == 0, 1.0, norm)


def _along(call: Call, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Over one axis; before opset 13 over all from the axis on, taken together."""
    if call.opset >= 13:
        return function(x, call.attr("axis", -1))
    axis = call.attr("axis", 1) % x.dim()
    return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)


@operator("Softmax")
def _softmax(call: Call, x: Tensor) -> Tensor:
    return _along(call, x, torch.softmax)


@operator("LogSoftmax")
def _log_softmax(call: Call, x: Tensor) -> Tensor:
    return _along(call, x, torch.log_softmax)


@operator("Hardmax", still=True)
def _hardmax(call: Call, x: Tensor) -> Tensor:
    return _along(call, x, lambda v, axis: torch.zeros_like(v).scatter(axis, v.argmax(axis, keepdim=True), 1.0))
