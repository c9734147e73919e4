"""Operators that reduce axes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from onnx_mdp.torch.registry import Call, operator

Axes = tuple[int, ...]


def _prod(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Integers are rounded towards zero."""
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    summed = _sum(x, axes, keep)
    return torch.div(summed, x.numel() // max(summed.numel(), 1), rounding_mode="trunc")


_FUNCTIONS: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: _sum(x.square(), axes, keep),
    "ReduceLogSum": lambda x, axes, keep: _sum(x, axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


def _reduce(
    function: Callable[[Tensor, Axes, bool], Tensor], call: Call, x: Tensor, axes: Sequence[int] | None = None
) -> Tensor:
    axes = call.ints(axes, "axes") or []
    if not axes and call.attr("noop_with_empty_axes", 0):
        return x
    every = tuple(axis % x.dim() for axis in axes) or tuple(range(x.dim()))
    return function(x, every, bool(call.attr("keepdims", 1)))


for _op, _function in _FUNCTIONS.items():
    operator(_op, host=(1,))(functools.partial(_reduce, _function))


def _first(call: Call, x: Tensor, find: Callable[..., Tensor]) -> Tensor:
    """The first of equal elements, or the last."""
    axis, keep = call.attr("axis", 0), bool(call.attr("keepdims", 1))
    best: Any = find(x, axis, keepdim=True)
    hits = (x == best).to(torch.uint8)
    if call.attr("select_last_index", 0):
        found = x.shape[axis] - 1 - hits.flip(axis).argmax(axis, keepdim=keep)
    else:
        found = hits.argmax(axis, keepdim=keep)
    return found


@operator("ArgMax", still=True)
def _arg_max(call: Call, x: Tensor) -> Tensor:
    return _first(call, x, torch.amax)


@operator("ArgMin", still=True)
def _arg_min(call: Call, x: Tensor) -> Tensor:
    return _first(call, x, torch.amin)
