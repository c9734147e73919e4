"""Operators that compute each element by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.torch.registry import Call, operator
from onnx_mdp.torch.tensors import dtype_of

_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    **{op: getattr(torch, op.lower()) for op in ("Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu")},
    **{op: getattr(torch, op.lower()) for op in ("Ceil", "Floor", "Round", "Sign", "Reciprocal")},
    **{op: getattr(torch, op.lower()) for op in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan")},
    **{op: getattr(torch, op.lower()) for op in ("Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh")},
    "HardSwish": functional.hardswish,
    "Mish": functional.mish,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
}
_COMPARED: dict[str, Callable[..., Tensor]] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
_TWO: dict[str, Callable[..., Tensor]] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}
_SEVERAL: dict[str, Callable[..., Tensor]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}


def _plain(function: Callable[..., Tensor], call: Call, *inputs: Tensor) -> Tensor:
    return function(*inputs)


def _folded(function: Callable[..., Tensor], call: Call, *inputs: Tensor) -> Tensor:
    return functools.reduce(function, inputs)


for _op, _function in _ONE.items():
    operator(_op)(functools.partial(_plain, _function))
for _op, _function in _COMPARED.items():
    operator(_op, still=True, since=1 if _op in ("Not", "IsNaN") else 7)(functools.partial(_plain, _function))
for _op, _function in _TWO.items():
    operator(_op, since=7)(functools.partial(_plain, _function))  # before, operands were aligned by an attribute
for _op, _function in _SEVERAL.items():
    operator(_op, since=6)(functools.partial(_folded, _function))


@operator("Identity")
def _identity(call: Call, x: Tensor) -> Tensor:
    return x


@operator("Mean")
def _mean(call: Call, *inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs) / len(inputs)


@operator("Div", since=7)
def _div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Integers are rounded towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow", since=7)
def _pow(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


@operator("Mod")
def _mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """The sign is the dividend's as in C if `fmod` is set, else the divisor's."""
    return torch.fmod(a, b) if call.attr("fmod", 0) else torch.remainder(a, b)


@operator("Where", fixed=(0,))
def _where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Cast", "CastLike", fixed=(1,))
def _cast(call: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    return x.to(dtype_of(call.attr("to"), f"Cast {call.node.name}") if like is None else like.dtype)


@operator("IsInf", still=True)
def _is_inf(call: Call, x: Tensor) -> Tensor:
    asked = torch.isposinf(x) if call.attr("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    return asked | torch.isneginf(x) if call.attr("detect_negative", 1) else asked


@operator("Clip", host=(1, 2))
def _clip(call: Call, x: Tensor, least: Any = None, most: Any = None) -> Tensor:
    least, most = (_number(call.ints(v, name)) for v, name in ((least, "min"), (most, "max")))
    return x if least is None and most is None else torch.clamp(x, least, most)


def _number(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


@operator("LeakyRelu")
def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.attr("alpha", 0.01))


@operator("PRelu", weights=(1,))
def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def _elu(call: Call, x: Tensor) -> Tensor:
    return functional.elu(x, call.attr("alpha", 1.0))


@operator("Celu")
def _celu(call: Call, x: Tensor) -> Tensor:
    return functional.celu(x, call.attr("alpha", 1.0))


@operator("Selu")
def _selu(call: Call, x: Tensor) -> Tensor:
    return call.attr("gamma", 1.0507009873554805) * functional.elu(x, call.attr("alpha", 1.6732632423543772))


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.attr("alpha", 1.0), x, 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.attr("alpha", 0.2) * x + call.attr("beta", 0.5), 0, 1)


@operator("Gelu")
def _gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.attr("approximate", "none"))


@operator("Dropout", host=(1, 2))
def _dropout(call: Call, x: Tensor, ratio: float | None = None, training: bool | None = None) -> tuple[Tensor, Tensor]:
    """Drops while the module trains, whatever the graph says; the mask says what was kept."""
    share = call.attr("ratio", 0.5) if ratio is None else ratio
    if not call.training or share == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    kept = torch.rand_like(x) >= share
    return torch.where(kept, x / (1 - share), 0.0), kept
