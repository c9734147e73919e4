"""Which whole models to measure: few, and yet every pair of levels of two groups that meet in a region occurs in one.

An orthogonal array of strength 2 with q levels has q² rows and q + 1 columns; in any two columns every pair of levels
occurs once (Bose and Bush, 1952: linear functions over the field with q elements). Groups are given columns so that
groups which meet in a region have different ones, as colors are given to the nodes of a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.latency.regions import Region

LEVELS = 4
SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)

# Addition in the field of four elements is exclusive or; multiplication follows from x² = x + 1.
_PRODUCT = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2]])


def orthogonal_array() -> NDArray[np.int64]:
    """The array of 16 rows and 5 columns over 4 levels; the last row is level 3 in every column but the last."""
    a, b = np.divmod(np.arange(LEVELS**2), LEVELS)
    return np.stack([a, b, *(b ^ _PRODUCT[factor, a] for factor in (1, 2, 3))], axis=1)


@dataclass(frozen=True, eq=False)
class Variant:
    """A whole model: the widths of its groups and the blocks that are not there."""

    widths: Mapping[Factor, int]
    removed: tuple[str, ...] = ()


def orthogonal(regions: Sequence[Region], levels: Mapping[Factor, tuple[int, ...]]) -> list[Variant]:
    """Whole models for profiling: the dense model first, then the rows of the array.

    Groups that meet more than five at a time share columns; every level of theirs still occurs, not every pair.
    """
    columns = _columns(regions, levels)
    array = orthogonal_array()
    rows = [{factor: _width(levels[factor], int(row[column])) for factor, column in columns.items()} for row in array]
    return [Variant(widths) for widths in ({factor: axis[-1] for factor, axis in levels.items()}, *rows)]


def uniform(levels: Mapping[Factor, tuple[int, ...]], blocks: Sequence[str]) -> list[Variant]:
    """Whole models cut to common shares: the dense model first, then ever smaller ones, then some without blocks."""
    found: dict[tuple[int, ...], Variant] = {}
    for share in SHARES:
        widths = {factor: min(axis, key=lambda w: abs(w - share * axis[-1])) for factor, axis in levels.items()}
        found.setdefault(tuple(widths.values()), Variant(widths))
    whole = list(found.values())
    if not blocks:
        return whole
    return [
        *whole,
        Variant(whole[0].widths, tuple(blocks[::2])),
        Variant(whole[len(whole) // 2].widths, tuple(blocks[1::3])),
    ]


def _width(widths: tuple[int, ...], level: int) -> int:
    return widths[round(level * (len(widths) - 1) / (LEVELS - 1))]


def _columns(regions: Sequence[Region], levels: Mapping[Factor, tuple[int, ...]]) -> dict[Factor, int]:
    """A column for every group, in order of appearance: the one its neighbors use least, then the least used."""
    meeting: dict[Factor, set[Factor]] = {factor: set() for factor in levels}
    for region in regions:
        inside = {leaf for term in region.variables for leaf in leaves(term) if leaf in meeting}
        for factor in inside:
            meeting[factor] |= inside - {factor}
    columns: dict[Factor, int] = {}
    used = [0] * (LEVELS + 1)
    for factor, neighbors in meeting.items():
        taken = [columns[other] for other in neighbors if other in columns]
        columns[factor] = min(range(LEVELS + 1), key=lambda column: (taken.count(column), used[column]))
        used[columns[factor]] += 1
    return columns
