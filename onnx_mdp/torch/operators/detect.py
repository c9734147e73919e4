"""Operators of detectors: boxes that are chosen, and regions that are cut out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnx_mdp.torch.registry import Call, operator


def _scalar(value: Any, default: float) -> float:
    return default if value is None else float(value[0] if isinstance(value, list) else value)


@operator("NonMaxSuppression", host=(2, 3, 4), still=True)
def _non_max_suppression(
    call: Call, boxes: Tensor, scores: Tensor, most: Any = None, overlap: Any = None, least: Any = None
) -> Tensor:
    """Rows of (batch, class, box), those of a class from the highest score down."""
    count, limit = int(_scalar(most, 0)), _scalar(overlap, 0)
    corners = _corners(call, boxes)
    rows: list[Tensor] = []
    for batch in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            of_class = scores[batch, label]
            order = torch.sort(of_class, descending=True, stable=True).indices
            if least is not None:
                order = order[of_class[order] > _scalar(least, 0)]
            kept = _suppressed(corners[batch], order, limit, count)
            head = torch.tensor([batch, label], device=kept.device).expand(len(kept), 2)
            rows.append(torch.cat([head, kept[:, None]], dim=1))
    return torch.cat(rows) if rows else torch.empty(0, 3, dtype=torch.int64)


def _corners(call: Call, boxes: Tensor) -> Tensor:
    """Lower and upper corners; a box is given by two corners in any order, or by its center and size."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if call.attr("center_point_box", 0):
        return torch.cat([first - second / 2, first + second / 2], dim=-1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)


def _suppressed(boxes: Tensor, order: Tensor, limit: float, count: int) -> Tensor:
    """The boxes that stay, of those in the order, when each one takes out those after it that it overlaps too much."""
    kept: list[Tensor] = []
    while len(order) and len(kept) < count:
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        both = _area(boxes[best]) + _area(boxes[order]) - shared
        order = order[~((shared > 0) & (shared / both > limit))]
    return torch.stack(kept) if kept else order[:0]


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


@operator("RoiAlign", fixed=(1, 2))
def _roi_align(call: Call, x: Tensor, rois: Tensor, batches: Tensor) -> Tensor:
    """Means, or maxima, over points that lie regularly in each cell of each region."""
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.attr("coordinate_transformation_mode", default) == "half_pixel"
    cells = call.attr("output_height", 1), call.attr("output_width", 1)
    found = [_region(call, x[b], roi, cells, half) for roi, b in zip(rois, batches.tolist(), strict=True)]
    return torch.stack(found) if found else x.new_zeros((0, x.shape[1], *cells))


def _region(call: Call, image: Tensor, roi: Tensor, cells: tuple[int, int], half: bool) -> Tensor:
    scaled = roi.float() * call.attr("spatial_scale", 1.0) - (0.5 if half else 0.0)
    left, top, right, bottom = scaled.tolist()
    height, width = bottom - top, right - left
    if not half:
        height, width = max(height, 1.0), max(width, 1.0)
    ys = _points(top, height / cells[0], cells[0], call.attr("sampling_ratio", 0))
    xs = _points(left, width / cells[1], cells[1], call.attr("sampling_ratio", 0))
    parts = [
        image[:, y][:, :, x] * (wy[:, None] * wx).to(image)
        for y, wy in _around(ys, image.shape[1])
        for x, wx in _around(xs, image.shape[2])
    ]
    shape = (len(image), cells[0], len(ys) // cells[0], cells[1], len(xs) // cells[1])
    if call.attr("mode", "avg") == "max":  # of the weighted neighbors, not of the points between them
        return torch.stack(parts).amax(0).reshape(shape).amax((2, 4))
    return torch.stack(parts).sum(0).reshape(shape).mean((2, 4))


def _points(start: float, cell: float, cells: int, samples: int) -> Tensor:
    """Places along an axis: as many in each cell as asked for, or one for each element that it covers."""
    count = samples or max(-int(-cell // 1), 1)
    return start + cell * (torch.arange(cells * count) + 0.5) / count


def _around(places: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The elements before and after each place, with their weights: none from an element's width outside on."""
    inside = (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)
    low = places.floor().long()
    part = places - low
    return [(low, (1 - part) * inside), ((low + 1).clamp(max=size - 1), part * inside)]
