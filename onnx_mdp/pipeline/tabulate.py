"""Fills the latency tables of a model: what `prune` plans with and `profile` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_mdp.axes.terms import Factor, Term
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.blocks import gone_with
from onnx_mdp.groups.find import Analysis
from onnx_mdp.groups.tie import Ties
from onnx_mdp.latency.correct import Correction, Sums
from onnx_mdp.latency.design import Variant
from onnx_mdp.latency.fill import Fill, choose_way
from onnx_mdp.latency.interpolate import Table
from onnx_mdp.latency.levels import Floor, Grid, group_levels, sum_levels
from onnx_mdp.latency.measure import Meter, Progress, silent
from onnx_mdp.latency.probe import find_grid
from onnx_mdp.latency.regions import find_regions
from onnx_mdp.latency.tables import RegionTable, make_tables
from onnx_mdp.rewrite.plan import plan_edits, plan_of_widths
from onnx_mdp.runtime.base import Feeds


@dataclass(frozen=True, eq=False)
class Tables:
    """The filled tables of a model.

    `levels` are the candidate widths of each group, `sums` those of each sum that some region depends on.
    """

    analysis: Analysis
    tables: Sequence[RegionTable]
    levels: Mapping[Factor, tuple[int, ...]]
    sums: Mapping[Term, tuple[int, ...]]
    fill: Fill

    def correction(self) -> Correction:
        """From sums of entries to shares of the dense model, by the whole models measured while filling."""
        found, values = Correction(), self._values()
        for whole in self.fill.wholes:
            found.add(self._sums(whole.variant, values), whole.ms / self.fill.wholes[0].ms)
        return found

    def sums_of(self, variant: Variant) -> Sums:
        """What the entries of a whole model add up to."""
        return self._sums(variant, self._values())

    def _sums(self, variant: Variant, values: Sequence[tuple[RegionTable, Table]]) -> Sums:
        gone = gone_with(self.analysis.blocks, variant.removed)
        entries = [(t.region.block in gone, float(v[t.index(variant.widths)])) for t, v in values]
        return Sums(sum(ms for is_gone, ms in entries if not is_gone), sum(ms for _, ms in entries))

    def _values(self) -> list[tuple[RegionTable, Table]]:
        return [(table, table.table()) for table in self.tables]


def tabulate(
    analysis: Analysis,
    meter: Meter,
    feeds: Feeds,
    floor: Floor,
    way: str = "auto",
    progress: Progress = silent,
    ties: Ties = (),
    grid: Grid | None = None,
) -> Tables:
    """Find the regions of a model and measure their tables, at widths on a grid: by default the device's own."""
    filling = choose_way(way, profiles=meter.engine.profiles)
    grid = grid or find_grid(meter)
    regions = find_regions(analysis)
    levels = group_levels(analysis, grid, floor, ties)
    sums = sum_levels(regions, levels, grid)
    tables = make_tables(analysis, regions, levels, sums)
    fill = filling(meter, tables, levels, analysis.blocks, whole_builder(analysis), feeds)
    try:
        fill.fill(progress)
    finally:
        fill.close()
    return Tables(analysis, tables, levels, sums, fill)


def whole_builder(analysis: Analysis) -> Callable[[Variant], onnx.ModelProto]:
    """A function that builds a whole model; which units it keeps does not matter for its latency."""
    order = {group.name: np.arange(group.units) for group in analysis.groups}

    def build(variant: Variant) -> onnx.ModelProto:
        named = {group.name: variant.widths.get(group.factor, group.units) for group in analysis.groups}
        plan = plan_of_widths(analysis, order, named, variant.removed)
        return rewrite(analysis.network.model, plan_edits(analysis, plan))

    return build
