"""A plan says what to keep; it can be saved, read back, and made in any framework by parameter names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_mdp.axes.terms import Factor, leaves, units
from onnx_mdp.errors import PlanError
from onnx_mdp.graph.edit import Edits, masked
from onnx_mdp.groups.blocks import Block
from onnx_mdp.groups.cut import edits, masks, slices, zero_codes
from onnx_mdp.groups.find import Analysis

Indices = NDArray[np.int64]
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Plan:
    """Kept units of groups, ascending, and the names of removed blocks; a group that is absent is whole."""

    kept: Mapping[str, Indices]
    removed: tuple[str, ...]

    def widths(self) -> dict[str, int]:
        """Number of kept units of every group."""
        return {name: len(kept) for name, kept in self.kept.items()}


def dense_plan(analysis: Analysis) -> Plan:
    """The plan that cuts nothing."""
    return Plan({group.name: np.arange(group.units) for group in analysis.groups}, ())


def plan_of_widths(
    analysis: Analysis, order: Mapping[str, Indices], widths: Mapping[str, int], removed: tuple[str, ...] = ()
) -> Plan:
    """Keep the first `widths` units of each group's order."""
    kept = {group.name: np.sort(order[group.name][: widths[group.name]]) for group in analysis.groups}
    return Plan(kept, removed)


def uniform_plan(
    analysis: Analysis, order: Mapping[str, Indices], ratio: float, least: Mapping[str, int], multiple: int
) -> Plan:
    """Keep the same share of every group, rounded up to a multiple; blocks stay."""
    widths = {}
    for group in analysis.groups:
        asked = math.ceil(group.units * ratio - 1e-9)
        rounded = math.ceil(max(asked, least[group.name]) / multiple) * multiple
        widths[group.name] = min(group.units, max(rounded, 1))
    return plan_of_widths(analysis, order, widths)


def factors(analysis: Analysis, plan: Plan) -> dict[Factor, Indices]:
    """Kept units by factor, for the groups that lose any."""
    return {
        group.factor: plan.kept[group.name]
        for group in analysis.groups
        if group.name in plan.kept and len(plan.kept[group.name]) < group.units
    }


def removed_blocks(analysis: Analysis, plan: Plan) -> list[Block]:
    """The blocks the plan removes."""
    return [block for block in analysis.blocks if block.name in plan.removed]


def plan_edits(analysis: Analysis, plan: Plan) -> Edits:
    """The edits that carry out the plan."""
    return edits(analysis.coupling, factors(analysis, plan), removed_blocks(analysis, plan))


def masked_original(analysis: Analysis, plan: Plan) -> onnx.ModelProto:
    """The model in normal form with every weight the plan drops set to zero: what the cut must equal."""
    silenced = [name for block in removed_blocks(analysis, plan) for name in block.silenced]
    dropped = masks(analysis.coupling, factors(analysis, plan))
    return masked(analysis.network.model, dropped, silenced, zero_codes(analysis.coupling))


def to_json(
    analysis: Analysis, plan: Plan, streams: Sequence[str] = (), selected: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The plan in the input model's names.

    `initializers` maps each cut weight to {axis: kept indices}; `removed_blocks` names the Add nodes whose residual
    branch goes. A weight that was copied for its uses stands once if all of them cut it alike; else every use stands on
    its own, the further ones as `name::use1`, `name::use2` in graph order. Named `streams` are rotated before, and
    indices are in their new bases; `selected` are the weights that mark the units of normalizations which are spelled
    out, by their results: those that lose units are named, without these weights, which the input model does not have.
    """
    cuts = slices(analysis.coupling, factors(analysis, plan))
    spelled = sorted(result for result, marks in (selected or {}).items() if cuts.pop(marks, None))
    return {
        "format": FORMAT,
        "initializers": {
            name: {str(axis): kept.tolist() for axis, kept in axes.items()}
            for name, axes in sorted(_shown(analysis, cuts).items())
        },
        "removed_blocks": list(plan.removed),
        "groups": plan.widths(),
        **({"streams": list(streams)} if streams else {}),
        **({"selected": spelled} if spelled else {}),
    }


def _shown(analysis: Analysis, cuts: Mapping[str, Mapping[int, Indices]]) -> dict[str, Mapping[int, Indices]]:
    """The cuts to list: one for a shared weight whose uses agree, all of them where they differ."""
    shown = {name: axes for name, axes in cuts.items() if name not in analysis.network.uses}
    for name, uses in analysis.network.uses.items():
        if name != uses[0]:
            continue
        axes = sorted({axis for use in uses for axis in cuts.get(use, ())})
        shapes = [analysis.network.shapes[use] for use in uses]  # they differ where an earlier cut stored each of them
        every = [
            {axis: cuts.get(use, {}).get(axis, np.arange(shape[axis])) for axis in axes}
            for use, shape in zip(uses, shapes, strict=True)
        ]
        if all(np.array_equal(kept[axis], every[0][axis]) for kept in every for axis in axes):
            shown |= {name: every[0]} if axes else {}
        else:
            shown |= dict(zip(uses, every, strict=True))
    return shown


def read_plan(path: Path) -> dict[str, Any]:
    """The content of a plan file.

    Raises:
        PlanError: it cannot be read, or is no plan.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: not a plan file ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("initializers"), dict):
        raise PlanError(f"{path}: not a plan file (no 'initializers' in it); write one with prune --plan")
    return content


def from_json(analysis: Analysis, content: Mapping[str, Any]) -> Plan:
    """The plan that a plan file describes, for this model.

    Raises:
        PlanError: it names weights or blocks the model lacks, or cuts what the model ties differently.
    """
    blocks = {block.name for block in analysis.blocks}
    removed = tuple(content.get("removed_blocks", ()))
    if unknown := [name for name in removed if name not in blocks]:
        raise PlanError(f"the plan removes block {unknown[0]!r}, which this model does not have")
    asked = {
        (name, int(axis)): np.array(kept, dtype=np.int64)
        for name, axes in content["initializers"].items()
        for axis, kept in axes.items()
    }
    for name, uses in analysis.network.uses.items():
        for axis in map(int, content["initializers"].get(name, ()) if name == uses[0] else ()):
            asked |= {(use, axis): asked[name, axis] for use in uses if (use, axis) not in asked}
    plan = Plan({group.name: _kept(analysis, group.members, group.factor, asked) for group in analysis.groups}, removed)
    made = slices(analysis.coupling, factors(analysis, plan))
    for (name, axis), kept in asked.items():
        size = analysis.network.shapes.get(name, ())
        whole = np.arange(size[axis] if axis < len(size) else 0)
        if not np.array_equal(made.get(name, {}).get(axis, whole), kept):
            raise PlanError(f"the plan's cut of {name!r} axis {axis} does not fit this model; was it made for another?")
    return plan


def _kept(
    analysis: Analysis, members: tuple[tuple[str, int], ...], factor: Factor, asked: Mapping[tuple[str, int], Indices]
) -> Indices:
    for name, axis in members:
        term = analysis.coupling.axes[name][axis]
        if (name, axis) in asked and factor in leaves(term):
            positions = asked[name, axis]
            if len(positions) and positions.max() >= term.size:
                raise PlanError(
                    f"the plan keeps index {positions.max()} of {name!r} axis {axis}, which has {term.size}"
                )
            return units(term, factor, positions)
    return np.arange(factor.size)
