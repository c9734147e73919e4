"""Operators of detectors: boxes that are chosen, and regions that are cut out."""

from __future__ import annotations

import itertools
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
    """Means, or maxima, over points that lie regularly in each cell of each region.

    Regions with equally many points are cut out together. As in torchvision, no gradient passes through their corners.
    """
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.attr("coordinate_transformation_mode", default) == "half_pixel"
    cells = call.attr("output_height", 1), call.attr("output_width", 1)
    corners = (rois.detach() * call.attr("spatial_scale", 1.0) - (0.5 if half else 0.0))[:, [1, 0, 3, 2]]
    sizes = corners[:, 2:] - corners[:, :2] if half else (corners[:, 2:] - corners[:, :2]).clamp(min=1)
    steps = sizes / torch.tensor(cells, device=x.device)
    samples = call.attr("sampling_ratio", 0)
    counts = torch.full_like(steps, samples) if samples else steps.ceil().clamp(min=1)
    result = x.new_zeros((len(rois), x.shape[1], *cells))
    for count in torch.unique(counts, dim=0):
        rows = torch.nonzero((counts == count).all(1))[:, 0]
        points = [
            _points(corners[rows, axis], steps[rows, axis], cells[axis], n)
            for axis, n in enumerate(count.long().tolist())
        ]
        found = _regions(x, points, batches[rows].long(), cells, call.attr("mode", "avg"))
        result = result.index_copy(0, rows, found)
    return result


def _points(starts: Tensor, steps: Tensor, cells: int, count: int) -> Tensor:
    """As many places as asked in each cell, for each region."""
    precision = torch.promote_types(starts.dtype, torch.float32)
    inside = (torch.arange(cells * count, dtype=precision, device=starts.device) + 0.5) / count
    return starts[:, None] + steps[:, None] * inside


def _regions(x: Tensor, points: list[Tensor], batches: Tensor, cells: tuple[int, int], mode: str) -> Tensor:
    """Each cell's mean of what lies between the elements around its points, or the largest share of one of these."""
    channels, height, width = x.shape[1:]
    flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
    parts = []
    for (y, at_y), (z, at_z) in itertools.product(_around(points[0], height), _around(points[1], width)):
        places = (batches[:, None, None] * height + y[:, :, None]) * width + z[:, None, :]
        weights = (at_y[:, :, None] * at_z[:, None, :]).unsqueeze(-1)
        parts.append(flat.index_select(0, places.reshape(-1)).reshape(*places.shape, channels) * weights.to(x.dtype))
    shape = (len(batches), cells[0], -1, cells[1], points[1].shape[1] // cells[1], channels)
    if mode == "max":
        return torch.stack(parts).amax(0).reshape(shape).amax((2, 4)).permute(0, 3, 1, 2)
    return torch.stack(parts).sum(0).reshape(shape).mean((2, 4)).permute(0, 3, 1, 2)


def _around(places: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The elements before and after each place, with their weights: none from an element's width outside on."""
    inside = (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)
    low = places.floor().long()
    part = places - low
    return [(low, (1 - part) * inside), ((low + 1).clamp(max=size - 1), part * inside)]
