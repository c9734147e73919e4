"""Operators that pick and place elements by index."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onnx_mdp.torch.registry import Call, operator


def _positive(indices: Tensor, size: int) -> Tensor:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather", fixed=(1,))
def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.attr("axis", 0) % x.dim()
    picked = x.index_select(axis, _positive(indices, x.shape[axis]).reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@operator("GatherElements", fixed=(1,))
def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.attr("axis", 0)
    cut = tuple(slice(None) if i == axis % x.dim() else slice(size) for i, size in enumerate(indices.shape))
    return torch.gather(x[cut], axis, _positive(indices, x.shape[axis]))


def _flat(indices: Tensor, shape: torch.Size) -> Tensor:
    """Tuples of indices into the leading axes as numbers into all of them in a row; shape (tuples,)."""
    rows = indices.reshape(-1, indices.shape[-1])
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    placed = (_positive(rows[:, i], size) * strides[i] for i, size in enumerate(shape))
    return torch.stack(list(placed)).sum(0)


@operator("GatherND", fixed=(1,))
def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    batch, depth = call.attr("batch_dims", 0), indices.shape[-1]
    lead = x.shape[:batch]
    if batch:
        grid = torch.cartesian_prod(*(torch.arange(size, device=x.device) for size in lead)).reshape(-1, batch)
        each = indices.reshape(math.prod(lead), -1, depth)
        grid = grid[:, None].expand(-1, each.shape[1], -1)
        flat = torch.cat([grid, each], dim=-1).reshape(-1, batch + depth)
    else:
        flat = indices
    known, rest = x.shape[: batch + depth], x.shape[batch + depth :]
    return x.reshape((-1, *rest)).index_select(0, _flat(flat, known)).reshape((*indices.shape[:-1], *rest))


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scattered(call: Call, x: Tensor, axis: int, indices: Tensor, updates: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, updates.dtype)  # they differ where autocast computed one of them
    x, updates, reduction = x.to(dtype), updates.to(dtype), call.attr("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


@operator("Scatter", "ScatterElements", fixed=(1,))
def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = call.attr("axis", 0)
    return _scattered(call, x, axis, _positive(indices, x.shape[axis]), updates)


@operator("ScatterND", fixed=(1,))
def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    rest = math.prod(x.shape[depth:])
    rows = _flat(indices, x.shape[:depth])[:, None].expand(-1, rest)
    flat = x.reshape(-1, rest)
    return _scattered(call, flat, 0, rows, updates.reshape(-1, rest)).reshape(x.shape)


@operator("TopK", host=(1,))
def _top_k(call: Call, x: Tensor, k: Any = None) -> tuple[Tensor, Tensor]:
    """Of equal elements the first comes first, which `torch.topk` does not promise."""
    count = call.ints(k, "k")
    axis = call.attr("axis", -1)
    values, indices = torch.sort(x, dim=axis, descending=bool(call.attr("largest", 1)), stable=True)
    size = count[0] if isinstance(count, list) else count
    return values.narrow(axis, 0, size), indices.narrow(axis, 0, size)


@operator("NonZero", still=True)
def _non_zero(call: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("Compress", fixed=(1,))
def _compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.attr("axis")
    kept = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[kept] if axis is None else x.index_select(axis, kept)


@operator("OneHot", host=(1,), fixed=(0,))
def _one_hot(call: Call, indices: Tensor, depth: Any, values: Tensor) -> Tensor:
    size = int(depth[0] if isinstance(depth, list) else depth)
    axis = call.attr("axis", -1)
    places = torch.arange(size, device=indices.device)
    hot = _positive(indices, size).unsqueeze(-1) == places
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


@operator("CumSum", host=(1,))
def _cum_sum(call: Call, x: Tensor, axis: Any) -> Tensor:
    axis = axis[0] if isinstance(axis, list) else axis
    turned = x.flip(axis) if call.attr("reverse", 0) else x
    found = turned.cumsum(axis, dtype=x.dtype)
    if call.attr("exclusive", 0):
        found = found - turned
    return found.flip(axis) if call.attr("reverse", 0) else found
