"""Fills a latency table from some of its entries."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Table = NDArray[np.float64]
Index = tuple[int, ...]

_STEPS = 100  # a column; of the usual 3, rounding takes some where the fit is exact


def complete(levels: Sequence[tuple[int, ...]], known: Mapping[Index, float]) -> Table:
    """Milliseconds for every combination of levels, exact where known.

    A full grid of known entries is interpolated linearly along each axis. Scattered ones are fitted first by a sum of
    products of widths with coefficients that are not negative: a kernel's work is such a sum.
    """
    if not known:
        return np.zeros([len(axis) for axis in levels])
    picks = [sorted({index[axis] for index in known}) for axis in range(len(levels))]
    if all(index in known for index in itertools.product(*picks)):
        values = _grid(levels, picks, known)
    else:
        values = _scattered(levels, known)
    for index, ms in known.items():
        values[index] = ms
    return values


def _grid(levels: Sequence[tuple[int, ...]], picks: Sequence[list[int]], known: Mapping[Index, float]) -> Table:
    values = np.array([known[index] for index in itertools.product(*picks)], float)
    values = values.reshape([len(axis) for axis in picks])
    for axis, (chosen, widths) in enumerate(zip(picks, levels, strict=True)):
        xs = np.array(widths, float)
        moved = np.moveaxis(values, axis, -1)
        rows = [np.interp(xs, xs[chosen], row) for row in moved.reshape(-1, len(chosen))]
        values = np.moveaxis(np.array(rows).reshape(*moved.shape[:-1], len(widths)), -1, axis)
    return values


def _scattered(levels: Sequence[tuple[int, ...]], known: Mapping[Index, float]) -> Table:
    """The fit, scaled at each point by what the nearest known entries are of theirs."""
    shares = [np.array(axis, float) / max(axis[-1], 1) for axis in levels]
    indices = np.array(list(known))
    values = np.array(list(known.values()))
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*shares, indexing="ij")], axis=1)
    points = np.stack([axis[indices[:, i]] for i, axis in enumerate(shares)], axis=1)
    weights = 1 / np.maximum(values, 1e-9)
    rows = _monomials(points) * weights[:, None]
    coefficients, _ = nnls(rows, np.ones(len(values)), maxiter=_STEPS * rows.shape[1])
    fitted = np.maximum(_monomials(points) @ coefficients, 1e-12)
    table = _monomials(grid) @ coefficients * _nearby(grid, points, values / fitted)
    return np.asarray(table.reshape([len(axis) for axis in levels]))


def _monomials(points: Table) -> Table:
    """Products of every subset of the coordinates, one column each."""
    count = points.shape[1]
    subsets = [list(s) for r in range(count + 1) for s in itertools.combinations(range(count), r)]
    return np.stack([np.prod(points[:, subset], axis=1) for subset in subsets], axis=1)


def _nearby(grid: Table, points: Table, ratios: Table) -> Table:
    """Means of the ratios, weighted by the inverse square of the distance to the points they belong to."""
    distance = ((grid[:, None] - points[None]) ** 2).sum(axis=2) + 0.01
    weight = 1 / distance
    return np.asarray((weight * ratios).sum(axis=1) / weight.sum(axis=1))
