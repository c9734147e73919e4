"""Candidate widths: which numbers of units are worth considering for each choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_mdp.axes.terms import Factor, Sum, Term, addends, leaves
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.groups.tie import Ties
from onnx_mdp.latency.regions import Region

CAP = 16  # levels of one group
SUM_CAP = 48  # levels of a sum of groups


@dataclass(frozen=True)
class Grid:
    """The widths a device likes: multiples of these run at full speed (found by `onnx_mdp.latency.probe`)."""

    conv: int
    matmul: int

    def joined(self, other: Grid) -> Grid:
        """The widths that both devices like; steps are powers of two."""
        return Grid(max(self.conv, other.conv), max(self.matmul, other.matmul))


@dataclass(frozen=True)
class Floor:
    """What the user asks of widths: at least `units` or `share` of a group, and multiples of `multiple`."""

    units: int = 0
    share: float = 0.0
    multiple: int | None = None

    def least(self, group: Group) -> int:
        """Fewest units the group may keep."""
        return min(group.units, max(group.floor, self.units, math.ceil(self.share * group.units)))


def group_levels(analysis: Analysis, grid: Grid, floor: Floor, ties: Ties = ()) -> dict[Factor, tuple[int, ...]]:
    """Widths per group, ascending; the last is the whole group. Tied groups have those that all of them could have."""
    found = {group.factor: _levels(group, _step(analysis, group, grid, floor), floor) for group in analysis.groups}
    for tie in ties:
        shared = set.intersection(*(set(found[group.factor]) for group in tie))
        found |= {group.factor: tuple(sorted(shared)) for group in tie}
    return found


def _levels(group: Group, step: int, floor: Floor) -> tuple[int, ...]:
    span = step * math.ceil(group.units / (step * CAP))
    least = floor.least(group)
    widths = {width for width in range(span, group.units, span) if width >= least} | {group.units}
    return tuple(sorted(widths | ({0} if least == 0 else set())))


def _step(analysis: Analysis, group: Group, grid: Grid, floor: Floor) -> int:
    if floor.multiple:
        return floor.multiple
    network = analysis.network
    whole_conv_axis = False
    for name, axis in group.members:
        term = analysis.coupling.axes[name][axis]
        bare = any(part is group.factor for part in addends(term))
        convs = any(node.op.startswith("Conv") for node in network.consumers[name])
        whole_conv_axis |= bare and convs and len(network.shapes[name]) > 1
    if whole_conv_axis:
        return grid.conv
    return max(1, min(grid.matmul, group.units // 8))


def sum_levels(
    regions: Sequence[Region], levels: Mapping[Factor, tuple[int, ...]], grid: Grid
) -> dict[Term, tuple[int, ...]]:
    """Widths of every sum that some region depends on: those its parts can add up to, on the grid if they are many."""
    found: dict[Term, tuple[int, ...]] = {}
    for region in regions:
        for term in region.variables:
            if isinstance(term, Sum) and term not in found:
                found[term] = _sums(term, levels, grid.conv)
    return found


def _sums(term: Sum, levels: Mapping[Factor, tuple[int, ...]], grid: int) -> tuple[int, ...]:
    fixed, counts = sum_parts(term, levels)
    totals = {fixed}
    for leaf, count in counts.items():
        totals = {total + count * width for total in totals for width in levels[leaf]}
    totals -= {0}
    aligned = {total for total in totals if total % grid == 0} | {term.size}
    usable = sorted(aligned if len(aligned) > 1 else totals)
    if len(usable) > SUM_CAP:
        picks = {round(i * (len(usable) - 1) / (SUM_CAP - 1)) for i in range(SUM_CAP)}
        usable = [usable[i] for i in sorted(picks)]
    return tuple(usable)


def sum_parts(term: Sum, levels: Mapping[Factor, tuple[int, ...]]) -> tuple[int, dict[Factor, int]]:
    """A sum's fixed positions, and how many positions each unit of its free factors takes."""
    fixed, counts = 0, dict[Factor, int]()
    for part in term.parts:
        inner = [leaf for leaf in leaves(part) if leaf in levels]
        if not inner:
            fixed += part.size
        else:
            counts[inner[0]] = counts.get(inner[0], 0) + part.size // inner[0].size
    return fixed, counts
