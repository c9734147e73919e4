"""What every scorer returns, and the part that scorers share.

Damage is relative error, in one unit for channels, heads, widths and blocks. Where a layer sums over a group's units,
cutting some of them loses a share of that layer's output energy. A layer inside a residual block matters as much as
the block's branch does in x + f(x), so its loss is scaled by the branch's share; a removed block loses that share
whole. A width then costs at most what removing the block around it does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.axes.terms import Factor, Term, fold, leaves
from onnx_mdp.groups.blocks import Block, innermost, parent_blocks
from onnx_mdp.groups.couple import Contraction
from onnx_mdp.groups.find import Analysis, Group

Vector = NDArray[np.float64]

_SLAB = 1 << 22  # elements of a weight that are squared at a time: in double precision a whole one may not fit


@dataclass(frozen=True, eq=False)
class Curve:
    """Damage of a group at each kept width 0..units, counted only while `block` is kept (always if None)."""

    group: str
    block: str | None
    damage: Vector


@dataclass(frozen=True, eq=False)
class Scores:
    """Units of each group from most to least important, damage curves, and the damage of removing each block.

    `unit` says what damage is counted in.
    """

    order: Mapping[str, NDArray[np.int64]]
    curves: tuple[Curve, ...]
    removal: Mapping[str, float]
    unit: str = "relative error"


def blurred(scores: Scores, deviation: float, rng: np.random.Generator) -> Scores:
    """The scores with the damage of every group and block multiplied by a factor drawn at random, one in the middle.

    Args:
        scores: any.
        deviation: standard deviation of the factors' logarithms.
        rng: draws them.
    """
    names = dict.fromkeys(curve.group for curve in scores.curves)
    factors = dict(zip(names, np.exp(deviation * rng.standard_normal(len(names))), strict=True))
    curves = tuple(replace(curve, damage=factors[curve.group] * curve.damage) for curve in scores.curves)
    drawn = np.exp(deviation * rng.standard_normal(len(scores.removal)))
    removal = {name: float(f * damage) for f, (name, damage) in zip(drawn, scores.removal.items(), strict=True)}
    return replace(scores, curves=curves, removal=removal)


class Scorer(ABC):
    """Turns groups and blocks into scores. `needs_inputs` says whether calibration inputs are required."""

    name: ClassVar[str]
    needs_inputs: ClassVar[bool]

    @abstractmethod
    def energy(self, contraction: Contraction, group: Group) -> Vector:
        """Non-negative share of each unit of the group in what the contraction sums up; shape (units,)."""

    @abstractmethod
    def share(self, block: Block) -> float:
        """The block's branch relative to its output, between 0 and 1."""

    def score(self, analysis: Analysis) -> Scores:
        """Orders, curves and removal damage of everything that can be pruned."""
        shares = total_shares(analysis, {block.name: self.share(block) for block in analysis.blocks})
        by_factor = contractions_by_factor(analysis)
        order: dict[str, NDArray[np.int64]] = {}
        curves: list[Curve] = []
        for group in analysis.groups:
            losses: dict[str | None, Vector] = {}
            for contraction in by_factor.get(group.factor, []):
                block = innermost(analysis.blocks, contraction.node.index)
                energy = np.maximum(self.energy(contraction, group), 0)
                loss = energy / energy.sum() if energy.sum() > 0 else np.zeros(group.units)
                weight = shares[block] if block else 1.0
                losses[block] = losses.get(block, np.zeros(group.units)) + weight * loss
            total = np.sum(list(losses.values()), axis=0) if losses else np.zeros(group.units)
            order[group.name] = np.argsort(-total, kind="stable")
            curves += [Curve(group.name, block, _curve(loss, order[group.name])) for block, loss in losses.items()]
        return Scores(order, tuple(curves), shares)


def settle_order(analysis: Analysis, scores: Scores) -> Scores:
    """The scores with units in the order that is known of them, and those that have to stay before all others.

    The damage of a width is what the others of them cost.
    """
    order, curves = dict(scores.order), list(scores.curves)
    for group in (group for group in analysis.groups if group.pinned or group.ranked):
        before = order[group.name]
        stays = before >= group.units - group.pinned
        rest = np.sort(before[~stays]) if group.ranked else before[~stays]
        order[group.name] = np.concatenate([before[stays], rest])
        # Of the first k units of the new order, those that may go are the first of the old one.
        counts = np.concatenate([[0], np.cumsum(~stays)])
        free = np.searchsorted(counts, np.maximum(np.arange(group.units + 1) - group.pinned, 0))
        curves = [replace(c, damage=c.damage[free]) if c.group == group.name else c for c in curves]
    return replace(scores, order=order, curves=tuple(curves))


def _curve(loss: Vector, order: NDArray[np.int64]) -> Vector:
    """Loss still to come after keeping the first k units of the order."""
    left: Vector = np.concatenate([np.cumsum(loss[order][::-1])[::-1], [0.0]])
    return left


def total_shares(analysis: Analysis, shares: Mapping[str, float]) -> dict[str, float]:
    """Shares in the network's output: a block inside another counts that one's share too."""
    parents = parent_blocks(analysis.blocks)

    def total(name: str) -> float:
        parent = parents[name]
        return shares[name] * (total(parent) if parent else 1.0)

    return {name: total(name) for name in shares}


def contractions_by_factor(analysis: Analysis) -> dict[Factor, list[Contraction]]:
    """The nodes that sum data over each factor, in graph order; a sum of weights alone is the same for all units."""
    found: dict[Factor, list[Contraction]] = {}
    for contraction in analysis.coupling.contractions:
        if analysis.network.varying.isdisjoint(contraction.node.outputs):
            continue
        for leaf in dict.fromkeys(leaves(contraction.term)):
            found.setdefault(leaf, []).append(contraction)
    return found


def unit_energy(
    analysis: Analysis, group: Group, contraction: Contraction, energies: Mapping[tuple[str, int], Vector]
) -> Vector:
    """Energy of each unit in a contraction, from the energy of each position of its operands' axes.

    Operands on the same axis term multiply position by position; on different ones, unit by unit.
    """
    by_term: dict[Term, Vector] = {}
    for tensor, axis in contraction.operands:
        term = analysis.coupling.axes[tensor][axis]
        by_term[term] = by_term.get(term, np.ones(term.size)) * energies[tensor, axis]
    result = np.ones(group.units)
    for term, values in by_term.items():
        result = result * fold(term, group.factor, values)
    return result


def weight_energy(values: NDArray[np.generic], axis: int) -> Vector:
    """Sum of squares of a weight at each position of an axis."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    rows = max(1, _SLAB * len(values) // max(values.size, 1))
    slabs = (values[i : i + rows] for i in range(0, max(len(values), 1), rows))
    found = [np.square(slab.astype(np.float64)).sum(axis=others) for slab in slabs]
    squared: Vector = np.concatenate(found) if axis == 0 else np.sum(found, axis=0)
    return squared
