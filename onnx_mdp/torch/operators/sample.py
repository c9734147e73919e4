"""Operators that sample an image between its elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.torch.registry import Call, operator

_REACH = {"linear": 1.0, "cubic": 2.0}  # of an interpolation's kernel, to either side


@operator("Resize", "Upsample", host=(1, 2, 3))
def _resize(call: Call, x: Tensor, second: Any = None, third: Any = None, sizes: Any = None) -> Tensor:
    """One axis after the other: each kind of interpolation is a product of those along the axes."""
    roi, scales = (second, third) if call.opset >= 11 else (None, call.ints(second, "scales"))
    axes = [axis % x.dim() for axis in call.attr("axes", range(x.dim()))]
    targets, factors = _sizes(call, [x.shape[axis] for axis in axes], scales, sizes)
    for i, axis in enumerate(axes):
        window = (roi[i], roi[i + len(axes)]) if roi else (0.0, 1.0)
        cropped = call.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        if targets[i] != x.shape[axis] or factors[i] != 1 or cropped:
            x = _along(call, x, axis, targets[i], factors[i], window)
    return x


def _sizes(call: Call, given: Sequence[int], scales: Any, sizes: Any) -> tuple[list[int], list[float]]:
    """The new size of each axis, and by what it was scaled."""
    if not sizes:
        return [int(n * s) for n, s in zip(given, scales, strict=True)], list(scales)
    policy = call.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return list(sizes), [new / old for new, old in zip(sizes, given, strict=True)]
    choose = min if policy == "not_larger" else max
    factor = choose(new / old for new, old in zip(sizes, given, strict=True))
    return [int(n * factor + 0.5) for n in given], [factor] * len(given)


def _along(call: Call, x: Tensor, axis: int, new: int, factor: float, window: tuple[float, float]) -> Tensor:
    old = x.shape[axis]
    mode = call.attr("mode", "nearest")
    default = "half_pixel" if call.opset >= 11 else "asymmetric"
    precision = torch.promote_types(x.dtype, torch.float32)  # single as in ONNX Runtime, double for doubles
    places = _COORDINATES[call.attr("coordinate_transformation_mode", default)](
        torch.arange(new, dtype=precision), old, new, factor, window
    )
    if mode == "nearest":
        rounded = _ROUNDED[call.attr("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor")](places)
        y = x.index_select(axis, rounded.long().clamp(0, old - 1).to(x.device))
    else:
        y = _interpolated(call, x, axis, places, mode.removeprefix("bi").removeprefix("tri"), factor)
    if call.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        outside = ((places < 0) | (places > old - 1)).reshape(-1, *[1] * (x.dim() - 1 - axis)).to(x.device)
        y = torch.where(outside, call.attr("extrapolation_value", 0.0), y)
    return y


_COORDINATES: dict[str, Callable[[Tensor, int, int, float, tuple[float, float]], Tensor]] = {
    "half_pixel": lambda x, old, new, s, roi: (x + 0.5) / s - 0.5,
    "half_pixel_symmetric": lambda x, old, new, s, roi: old / 2 * (1 - new / (s * old)) + (x + 0.5) / s - 0.5,
    "pytorch_half_pixel": lambda x, old, new, s, roi: (x + 0.5) / s - 0.5 if new > 1 else x * 0,
    "align_corners": lambda x, old, new, s, roi: x * (old - 1) / (new - 1) if new > 1 else x * 0,
    "asymmetric": lambda x, old, new, s, roi: x / s,
    "tf_half_pixel_for_nn": lambda x, old, new, s, roi: (x + 0.5) / s,
    "tf_crop_and_resize": lambda x, old, new, s, roi: (
        roi[0] * (old - 1) + x * (roi[1] - roi[0]) * (old - 1) / (new - 1)
        if new > 1
        else x * 0 + 0.5 * (roi[0] + roi[1]) * (old - 1)
    ),
}
_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _interpolated(call: Call, x: Tensor, axis: int, places: Tensor, kind: str, factor: float) -> Tensor:
    """A weighted sum of the elements around each place; where the image is made smaller, `antialias` widens it."""
    old, spread = x.shape[axis], min(factor, 1.0) if call.attr("antialias", 0) else 1.0
    reach = _REACH[kind] / spread
    first = torch.floor(places - reach).long() + 1
    taps = first[:, None] + torch.arange(int(2 * reach + 1) if spread < 1 else int(2 * reach))
    weights = _kernel(call, (taps - places[:, None]) * spread, kind)
    inside = (taps >= 0) & (taps < old)
    if call.attr("exclude_outside", 0):
        weights = weights * inside
    weights = weights / weights.sum(1, keepdim=True)
    shape = [-1, *[1] * (x.dim() - 1 - axis)]
    dtype = x.dtype if x.is_floating_point() else torch.float32
    columns = zip(taps.clamp(0, old - 1).T, weights.T, strict=True)
    parts = [x.index_select(axis, i.to(x.device)) * w.to(x.device, dtype).reshape(shape) for i, w in columns]
    return torch.stack(parts).sum(0).to(x.dtype)


def _kernel(call: Call, distance: Tensor, kind: str) -> Tensor:
    d = distance.abs()
    if kind == "linear":
        return (1 - d).clamp(min=0)
    a = call.attr("cubic_coeff_a", -0.75)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


@operator("GridSample")
def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode = call.attr("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, aligned = call.attr("padding_mode", "zeros"), bool(call.attr("align_corners", 0))
    return functional.grid_sample(x, grid, mode, padding, aligned)


@operator("AffineGrid", host=(1,))
def _affine_grid(call: Call, theta: Tensor, size: Sequence[int]) -> Tensor:
    return functional.affine_grid(theta, list(size), bool(call.attr("align_corners", 0)))
