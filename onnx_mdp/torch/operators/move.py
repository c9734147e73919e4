"""Operators that give elements another place, and those that compute shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.torch.registry import Call, operator
from onnx_mdp.torch.tensors import dtype_of

Ints = Sequence[int]


@operator("Shape", still=True)
def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[slice(call.attr("start", 0), call.attr("end"))], dtype=torch.int64)


@operator("Size", still=True)
def _size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Reshape", host=(1,), since=5)
def _reshape(call: Call, x: Tensor, shape: Ints) -> Tensor:
    """Zero copies a size, unless `allowzero` takes it literally."""
    copies = not call.attr("allowzero", 0)
    return x.reshape([x.shape[i] if size == 0 and copies else size for i, size in enumerate(shape)])


@operator("Flatten")
def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.attr("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze", host=(1,))
def _squeeze(call: Call, x: Tensor, axes: Ints | None = None) -> Tensor:
    axes = call.ints(axes, "axes", [i for i, size in enumerate(x.shape) if size == 1])
    return x.squeeze(tuple(axes))


@operator("Unsqueeze", host=(1,))
def _unsqueeze(call: Call, x: Tensor, axes: Ints | None = None) -> Tensor:
    axes = call.ints(axes, "axes")
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.attr("perm", list(range(x.dim()))[::-1]))


@operator("Expand", host=(1,))
def _expand(call: Call, x: Tensor, shape: Ints) -> Tensor:
    """Broadcast both ways: a size of one in the shape leaves the tensor's."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile", host=(1,), since=6)
def _tile(call: Call, x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(*repeats)


@operator("DepthToSpace")
def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    b = call.attr("blocksize")
    if call.attr("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, -1, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)
    return x.reshape(n, -1, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * b, w * b)


@operator("SpaceToDepth")
def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.attr("blocksize")
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // b, w // b)


@operator("Slice", host=(1, 2, 3, 4))
def _slice(call: Call, x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Tensor:
    starts, ends, axes = (call.ints(v, n) for v, n in ((starts, "starts"), (ends, "ends"), (axes, "axes")))
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        places = range(x.shape[axis])[slice(start, end, step)]
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(places.start, places.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


@operator("Pad", host=(1, 2, 3), since=2)
def _pad(call: Call, x: Tensor, pads: Any = None, value: Any = None, axes: Ints | None = None) -> Tensor:
    pads = call.ints(pads, "pads")
    axes = range(x.dim()) if axes is None else axes
    sizes = {axis % x.dim(): (pads[i], pads[i + len(pads) // 2]) for i, axis in enumerate(axes)}
    mode = call.attr("mode", "constant")
    if mode == "constant":
        value = call.ints(value, "value", 0)
        flat = [size for axis in reversed(range(x.dim())) for size in sizes.get(axis, (0, 0))]
        return functional.pad(x, flat, value=value[0] if isinstance(value, list) else value)
    for axis, (before, after) in sizes.items():
        if before or after:
            places = torch.arange(-before, x.shape[axis] + after, device=x.device)
            x = x.index_select(axis, _outside(places, x.shape[axis], mode))
    return x


def _outside(places: Tensor, size: int, mode: str) -> Tensor:
    """Where the elements come from that a padding puts around an axis."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    turned = places % max(2 * size - 2, 1)
    return torch.minimum(turned, 2 * size - 2 - turned)


@operator("Constant", still=True)
def _constant(call: Call) -> Tensor:
    """Those that hold a tensor are not run: it is stored under the name of their output."""
    ((name, value),) = call.node.attributes.items()
    kinds = {"value_float": torch.float32, "value_int": torch.int64}
    return torch.tensor(value, dtype=kinds[name.removesuffix("s")])


@operator("ConstantOfShape", host=(0,), still=True)
def _constant_of_shape(call: Call, shape: Ints) -> Tensor:
    value = call.attr("value")
    filled = torch.zeros(1) if value is None else torch.from_numpy(value.copy())
    return filled.reshape(()).expand(tuple(shape)).clone()


@operator("Range", still=True)
def _range(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


@operator("EyeLike", still=True)
def _eye_like(call: Call, x: Tensor) -> Tensor:
    dtype = dtype_of(call.attr("dtype"), call.node.name) if "dtype" in call.node.attributes else x.dtype
    ones = torch.ones(x.shape, dtype=dtype, device=x.device)
    return ones.triu(call.attr("k", 0)).tril(call.attr("k", 0))


@operator("Trilu", host=(1,))
def _trilu(call: Call, x: Tensor, k: int | None = None) -> Tensor:
    return torch.triu(x, k or 0) if call.attr("upper", 1) else torch.tril(x, k or 0)


@operator("ReverseSequence", host=(1,))
def _reverse_sequence(call: Call, x: Tensor, lengths: Ints) -> Tensor:
    """Reverses the first elements along the time axis, in each sample as many as asked."""
    batch, time = call.attr("batch_axis", 1), call.attr("time_axis", 0)
    parts = []
    for one, length in zip(x.movedim((batch, time), (0, 1)), lengths, strict=True):
        parts.append(torch.cat([one[:length].flip(0), one[length:]]))
    return torch.stack(parts).movedim((0, 1), (batch, time))
