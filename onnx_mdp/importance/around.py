"""Damage measured around a plan, with everything else cut as the plan says: what is true there need not add up.

Alone, each of two layers may be cut at little damage because the other still carries what it lost. So each group is
moved a step from its width in the plan, down and up, and each block removed or restored; between, curves keep their
shape. All are first scaled so that their sum at the plan is its own damage, which is measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from onnx_mdp.divergence import Divergence
from onnx_mdp.groups.blocks import Block, gone_with
from onnx_mdp.groups.cut import masked_weights
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.base import Curve, Scores
from onnx_mdp.importance.currency import Progress
from onnx_mdp.importance.replay import Changes, Replay, Trial
from onnx_mdp.importance.shape import scaled, shapes
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Runtime

_STEP = 8  # a step is a group's units over this


@dataclass(frozen=True)
class Place:
    """A plan, as damage sees it: the width of every group, and the removed blocks with all inside them."""

    widths: Mapping[str, int]
    removed: frozenset[str]


@dataclass(frozen=True, eq=False)
class Around:
    """Measures plans, and what changes around them, in the unit of `scores`, on inputs held out from the scorer."""

    analysis: Analysis
    scores: Scores
    inputs: Inputs
    runtime: Runtime

    @cached_property
    def divergence(self) -> Divergence:
        """Fitted on the dense network."""
        return Divergence.fit(Replay(self.analysis.network, self.inputs, self.runtime).outputs())

    def place(self, widths: Mapping[str, int], removed: Collection[str]) -> Place:
        """A plan; blocks inside removed ones count as removed."""
        return Place(widths, gone_with(self.analysis.blocks, removed))

    def promised(self, place: Place, scores: Scores) -> float:
        """The sum of damage that scores promise for a plan; blocks inside removed ones cost nothing more."""
        kept = (curve.damage[place.widths[curve.group]] for curve in scores.curves if curve.block not in place.removed)
        return float(sum(kept) + sum(scores.removal[name] for name in self._outermost(place.removed)))

    def damage(self, place: Place) -> float:
        """What a plan does to the outputs."""
        return self.divergence.divergence(self._replay(place).outputs())

    def toggled(self, place: Place, block: Block) -> Place:
        """The plan with a block removed, or restored with all inside it."""
        inside = gone_with(self.analysis.blocks, {block.name})
        removed = place.removed - inside if block.name in place.removed else place.removed | inside
        return replace(place, removed=removed)

    def rescored(self, place: Place, progress: Progress = lambda done, total: None) -> Scores:
        """The scores with damage as measured around a plan."""
        here = self.damage(place)
        found = self._replay(place).judged(list(self._trials(place)), self.divergence.divergence, progress)
        size = here / max(self.promised(place, self.scores), 1e-12)
        curves = [curve for group in self.analysis.groups for curve in self._curves(group, place, found, here, size)]
        return replace(self.scores, curves=tuple(curves), removal=self._removal(place, curves, found, here))

    def _trials(self, place: Place) -> Iterator[Trial]:
        for group in self.analysis.groups:
            weights = tuple(name for name, _ in group.members)
            for width in self._steps(group, place):
                moved = replace(place, widths={**place.widths, group.name: width})
                yield Trial(f"{group.name}={width}", weights, partial(self._only, weights, moved))
        for block in self.analysis.blocks:
            if not self._is_hidden(block, place):
                moved = self.toggled(place, block)
                yield Trial(block.name, self._silenced(block), partial(self._only, self._silenced(block), moved))

    def _steps(self, group: Group, place: Place) -> list[int]:
        """The widths next to the plan's; none of a group that went with its block."""
        if self.analysis.homes.get(group.name) in place.removed:
            return []
        width, step = place.widths[group.name], max(1, round(group.units / _STEP))
        return [w for w in (max(width - step, group.floor), min(width + step, group.units)) if w != width]

    def _silenced(self, block: Block) -> tuple[str, ...]:
        """What differs between a block and none, whatever of the blocks inside it is removed."""
        inside = gone_with(self.analysis.blocks, {block.name})
        return tuple(dict.fromkeys(name for b in self.analysis.blocks if b.name in inside for name in b.silenced))

    def _outermost(self, removed: Collection[str]) -> list[str]:
        """The blocks of a set that lie inside no other of it."""
        return [name for name in sorted(removed) if name not in gone_with(self.analysis.blocks, {*removed} - {name})]

    def _is_hidden(self, block: Block, place: Place) -> bool:
        """Whether a block around this one is removed, so that this one makes no difference."""
        return block.name in gone_with(self.analysis.blocks, place.removed - {block.name})

    def _only(self, names: Collection[str], place: Place) -> Changes:
        found, weights = self._weights(place), self.analysis.network.weights
        return {name: found[name] if name in found else weights[name] for name in names}

    def _weights(self, place: Place) -> Changes:
        order, groups, blocks = self.scores.order, self.analysis.groups, self.analysis.blocks
        cut = [group for group in groups if place.widths[group.name] < group.units]
        kept = {group.factor: np.sort(order[group.name][: place.widths[group.name]]) for group in cut}
        return masked_weights(self.analysis.coupling, kept, [block for block in blocks if block.name in place.removed])

    def _replay(self, place: Place) -> Replay:
        return Replay(self.analysis.network, self.inputs, self.runtime, self._weights(place))

    def _curves(self, group: Group, place: Place, found: Mapping[str, float], here: float, size: float) -> list[Curve]:
        """The curves of a group through what was measured a step away; those not counted here change in size alone."""
        before, steps = shapes(self.analysis, self.scores, group), self._steps(group, place)
        open_ = [curve for curve in before if steps and curve.block not in place.removed]
        idle = [replace(curve, damage=size * curve.damage) for curve in before if curve not in open_]
        if not open_:
            return idle
        width = place.widths[group.name]
        change = {step: found[f"{group.name}={step}"] - here for step in steps}
        change = {step: min(d, 0.0) if step > width else max(d, 0.0) for step, d in change.items()}
        anchor = max([size * sum(float(curve.damage[width]) for curve in open_), *(-d for d in change.values())])
        if group.units in (width, *steps):  # the step to the full width is all that it costs
            anchor = -change.get(group.units, 0.0)
        points = {step: max(anchor + d, 0.0) for step, d in {width: 0.0, **change}.items() if step < group.units}
        return scaled(open_, points, np.inf) + idle

    def _removal(self, place: Place, curves: list[Curve], found: Mapping[str, float], here: float) -> dict[str, float]:
        """What removing each block costs, such that doing it at the plan changes the sum as was measured."""
        removal: dict[str, float] = {}
        for block in sorted(self.analysis.blocks, key=lambda block: len(block.nodes)):
            if block.name not in found:
                removal[block.name] = self.scores.removal[block.name]
                continue
            inside, is_kept = gone_with(self.analysis.blocks, {block.name}), block.name not in place.removed
            gone = place.removed & inside if is_kept else frozenset[str]()  # restored, it is whole
            saved = sum(c.damage[place.widths[c.group]] for c in curves if c.block in inside - gone)
            saved += sum(removal[name] for name in self._outermost(gone))
            change = found[block.name] - here
            removal[block.name] = max((change if is_kept else -change) + float(saved), 0.0)
        return removal
