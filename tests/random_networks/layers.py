"""Layers of any rank: linear maps, activations and normalizations over a channel axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.random_networks.net import Net, Tensor

Step = Callable[[Net, Tensor], Tensor]
WIDTHS = (4, 6, 8, 3, 12, 2, 1)


def linear(net: Net, x: Tensor, out: int) -> Tensor:
    """A product over the last axis, with or without a bias, in one of the forms exporters write."""
    width = x.shape[-1]
    forms = ["matmul", "transposed"] + (["einsum"] if net.opset >= 13 else [])
    form = net.pick(*forms, *(["gemm", "gemm transB"] * 2 if len(x.shape) == 2 else []))
    bias = net.vector(out) if net.pick(True, False) else None
    if form.startswith("gemm"):
        turned = form.endswith("transB")
        w = net.weight(*((out, width) if turned else (width, out)), fan=width)
        return net.op("Gemm", x, w, *([bias] if bias else []), transB=int(turned), alpha=net.pick(1.0, 0.5))
    if form == "transposed":
        w = net.transpose(net.weight(out, width, fan=width), 1, 0)
    else:
        w = net.weight(width, out, fan=width)
    y = net.op("Einsum", x, w, equation="...i,ij->...j") if form == "einsum" else net.op("MatMul", x, w)
    if bias is None:
        return y
    return net.op("Add", *net.pick((y, bias), (bias, y)))


def _silu(net: Net, x: Tensor) -> Tensor:
    return net.op("Mul", *net.pick((x, net.op("Sigmoid", x)), (net.op("Sigmoid", x), x)))


def _gelu(net: Net, x: Tensor) -> Tensor:
    if net.opset >= 20 and net.pick(True, False):
        return net.op("Gelu", x)
    erf = net.op("Erf", net.op("Div", x, net.scalar(1.4142135)))
    return net.op("Mul", net.op("Mul", x, net.op("Add", erf, net.scalar(1.0))), net.scalar(0.5))


def _hard_swish(net: Net, x: Tensor) -> Tensor:
    if net.opset >= 14 and net.pick(True, False):
        return net.op("HardSwish", x)
    gate = net.op("Clip", net.op("Add", x, net.scalar(3.0)), net.scalar(0.0), net.scalar(6.0))
    return net.op("Div", net.op("Mul", x, gate), net.scalar(6.0))


def _clip(net: Net, x: Tensor) -> Tensor:
    low, high = net.pick((0.0, 6.0), (-1.0, 1.0), (0.1, 2.0), (None, 1.0))
    return net.op("Clip", x, None if low is None else net.scalar(low), net.scalar(high))


def _shifted_inverse(net: Net, x: Tensor) -> Tensor:
    return net.op("Reciprocal", net.op("Add", net.op("Softplus", x), net.scalar(1.0)))


def _bounded_ratio(net: Net, x: Tensor) -> Tensor:
    return net.op("Div", x, net.op("Add", net.op("Abs", x), net.scalar(1.0)))


def _leaky_where(net: Net, x: Tensor) -> Tensor:
    below = net.op("Mul", x, net.scalar(0.1))
    return net.op("Where", net.op("Greater", x, net.scalar(0.0)), x, below)


def _named(kind: str, **attributes: Any) -> Step:
    return lambda net, x: net.op(kind, x, **attributes)


ACTIVATIONS: tuple[Step, ...] = (
    _named("Relu"),
    *(_silu, _gelu, _hard_swish, _clip, _shifted_inverse, _bounded_ratio, _leaky_where),
    *(_named(kind) for kind in ("Sigmoid", "HardSigmoid", "Softplus", "Tanh", "Elu", "Softsign", "Identity", "Cos")),
    *(_named(kind) for kind in ("Abs", "Neg", "Dropout", "Sin", "Selu")),
    _named("LeakyRelu", alpha=0.2),
    lambda net, x: net.op("Exp", net.op("Tanh", x)),
    lambda net, x: net.op("Pow", net.op("Tanh", x), net.scalar(2.0)),
    lambda net, x: net.op("Max", x, net.scalar(0.1)),
    lambda net, x: net.op("Min", x, net.op("Neg", x)),
    lambda net, x: net.op("Sum", x, net.op("Relu", x)),
    lambda net, x: net.op("Sub", net.scalar(1.0), x),
)


def activation(net: Net, x: Tensor) -> Tensor:
    """An operator on each element; more than a third do not keep zero."""
    return net.pick(*ACTIVATIONS)(net, x)


def per_channel(net: Net, x: Tensor, axis: int, low: float = -0.5, high: float = 0.5) -> Tensor:
    """A vector along one axis, shaped to broadcast against x, with or without an axis for the batch."""
    vector = net.vector(x.shape[axis], low, high, trailing=len(x.shape) - 1 - axis)
    return net.unsqueeze(vector, 0) if len(vector.shape) == len(x.shape) - 1 and net.rarely() else vector


def channel_scale(net: Net, x: Tensor, axis: int) -> Tensor:
    """LayerScale, PRelu, or a constant added or divided by along the channels."""
    kind = net.pick("Mul", "Add", "Sub", "PRelu", "Div")
    low, high = (0.5, 2.0) if kind in ("Mul", "Div") else (-0.5, 0.5)
    return net.op(kind, x, per_channel(net, x, axis, low, high))


def batch_norm(net: Net, x: Tensor) -> Tensor:
    """Over axis 1, as one operator or written out."""
    c = x.shape[1]
    if net.pick(True, False):
        scale, bias, mean = (net.vector(c, low) for low in (0.4, -0.5, -0.5))
        return net.op("BatchNormalization", x, scale, bias, mean, net.vector(c, 0.5, 2.0), epsilon=1e-3)
    centered = net.op("Sub", x, per_channel(net, x, 1))
    scaled = net.op(net.pick("Mul", "Div"), centered, per_channel(net, x, 1, 0.5, 2.0))
    return net.op("Add", scaled, per_channel(net, x, 1))


def layer_norm(net: Net, x: Tensor) -> Tensor:
    """Over the last axis, as one operator, written out, or without the mean (RMSNorm)."""
    forms = ["written out", "rms"] + (["operator"] if net.opset >= 17 else [])
    form = net.pick(*forms, *(["rms operator"] if net.opset >= 23 else []))
    if form == "rms operator":
        return net.op("RMSNormalization", x, net.vector(x.shape[-1], 0.5, 1.5), epsilon=1e-2)
    if form == "operator":
        bias = [net.vector(x.shape[-1])] if net.pick(True, False) else []
        return net.op("LayerNormalization", x, net.vector(x.shape[-1], 0.5, 1.5), *bias, epsilon=1e-2)
    last = len(x.shape) - 1
    centered = net.op("Sub", x, net.mean(x, [last], keepdims=True)) if form == "written out" else x
    power = net.op("Pow", centered, net.scalar(2.0)) if net.pick(True, False) else net.op("Mul", centered, centered)
    spread = net.op("Sqrt", net.op("Add", net.mean(power, [last], keepdims=True), net.scalar(0.01)))
    normal = net.op("Mul", net.op("Div", centered, spread), net.vector(x.shape[-1], 0.5, 1.5))
    return net.op("Add", normal, net.vector(x.shape[-1])) if form == "written out" else normal


def glu(net: Net, x: Tensor, axis: int) -> Tensor:
    """Half of the axis gates the other half."""
    a, b = halves(net, x, axis)
    gate = net.op(net.pick("Sigmoid", "Relu", "Tanh", "HardSigmoid"), b)
    return net.op("Mul", *net.pick((a, gate), (gate, a)))


def halves(net: Net, x: Tensor, axis: int) -> list[Tensor]:
    """Both halves of an axis of even size, in one of the forms exporters write."""
    half = x.shape[axis] // 2
    if net.pick(True, False):
        return net.split(x, axis, (half, half))
    end = net.pick(2 * half, 2**63 - 1)
    return [part(net, x, axis, 0, half), part(net, x, axis, half, end)]


def part(net: Net, x: Tensor, axis: int, start: int, end: int, step: int = 1) -> Tensor:
    """A slice of one axis; bounds may count from its end."""
    size = x.shape[axis]
    if step > 0 and net.rarely():
        start, end = start - size, end - size if end < size else end
    return net.op("Slice", x, net.ints(start), net.ints(end), net.ints(axis), net.ints(step))


def unusual(net: Net, x: Tensor) -> Tensor:
    """An operator along a random axis that keeps the shape; a pruner may refuse it, but may not guess."""
    axis = net.number(1, len(x.shape) - 1)
    y: Tensor = net.pick(_softmax, _cumulative, _flipped, _rolled, _permuted, _normalized, _unit_length, _masked)(
        net, x, axis
    )
    return y


def _softmax(net: Net, x: Tensor, axis: int) -> Tensor:
    return net.op("Softmax", x, axis=axis)


def _cumulative(net: Net, x: Tensor, axis: int) -> Tensor:
    return net.op("CumSum", x, net.ints(axis, scalar=True))


def _flipped(net: Net, x: Tensor, axis: int) -> Tensor:
    return part(net, x, axis, -1, -(2**63), -1)


def _rolled(net: Net, x: Tensor, axis: int) -> Tensor:
    at = net.number(0, x.shape[axis] - 1)
    parts = [part(net, x, axis, at, 2**63 - 1), *([part(net, x, axis, 0, at)] if at else [])]
    return net.op("Concat", *parts, axis=axis)


def _permuted(net: Net, x: Tensor, axis: int) -> Tensor:
    return net.op("Gather", x, net.permutation(x.shape[axis]), axis=axis)


def _normalized(net: Net, x: Tensor, axis: int) -> Tensor:
    return net.op("LpNormalization", net.op("Add", net.op("Abs", x), net.scalar(0.1)), axis=axis, p=2)


def _unit_length(net: Net, x: Tensor, axis: int) -> Tensor:
    length = net.reduced(net.pick("ReduceL2", "ReduceL1", "ReduceMax"), x, axis)
    return net.op("Div", x, net.op("Max", length, net.scalar(0.1)))


def _masked(net: Net, x: Tensor, axis: int) -> Tensor:
    shape = (x.shape[axis],) + (1,) * (len(x.shape) - 1 - axis)
    mask = net.constant(np.arange(math.prod(shape)).reshape(shape) % 2 == 0, "mask")
    return net.op("Where", mask, x, net.scalar(0.1))
