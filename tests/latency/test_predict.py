"""From few measurements to predictions: designs, attribution of kernels, interpolation, correction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnx_mdp.axes.terms import Factor
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.latency.attribute import Attribution
from onnx_mdp.latency.correct import Correction, Sums
from onnx_mdp.latency.design import Variant, orthogonal, orthogonal_array, uniform
from onnx_mdp.latency.fill import Isolated, Whole, in_situ_text
from onnx_mdp.latency.interpolate import complete
from onnx_mdp.latency.levels import Floor, Grid, group_levels, sum_levels
from onnx_mdp.latency.measure import Meter
from onnx_mdp.latency.regions import find_regions
from onnx_mdp.latency.tables import RegionTable, make_tables
from onnx_mdp.pipeline.tabulate import whole_builder
from onnx_mdp.runtime.base import Kernel, Runtime
from tests.conftest import MODELS, analysis_of

LEVELS = ((16, 32, 48, 64), (8, 16, 32))


def test_every_pair_of_levels_occurs_once_in_any_two_columns() -> None:
    array = orthogonal_array()
    for a, b in itertools.combinations(range(array.shape[1]), 2):
        assert len({tuple(row) for row in array[:, [a, b]]}) == 16


def test_groups_that_meet_get_all_pairs_of_levels(vit: Path) -> None:
    """Whole models cover the coarse grid of every region that depends on two groups."""
    analysis = analysis_of(vit)
    regions = find_regions(analysis)
    levels = group_levels(analysis, Grid(16, 16), Floor())
    rows = orthogonal(regions, levels)
    assert len(rows) == 17
    assert all(width == levels[factor][-1] for factor, width in rows[0].widths.items())
    pairs = [r.variables for r in regions if len(r.variables) == 2 and all(isinstance(v, Factor) for v in r.variables)]
    assert pairs
    for a, b in pairs:
        seen = {(row.widths[a], row.widths[b]) for row in rows}  # type: ignore[index]
        wanted = min(len(levels[a]), 4) * min(len(levels[b]), 4)  # type: ignore[index]
        assert len(seen) >= wanted


def test_uniform_designs_shrink_and_some_lack_blocks(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    levels = group_levels(analysis, Grid(16, 16), Floor())
    names = [block.name for block in analysis.blocks]
    rows = uniform(levels, names)
    sizes = [sum(row.widths.values()) for row in rows if not row.removed]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) >= 4
    assert {name for row in rows for name in row.removed} <= set(names)
    assert sum(bool(row.removed) for row in rows) == 2


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_kernels_of_a_real_profile_find_their_regions(name: str, runtime: Runtime) -> None:
    analysis = analysis_of(MODELS / name)
    regions = find_regions(analysis)
    model = whole_builder(analysis)(Variant({}))
    feeds = random_feeds(analysis.network.model, analysis.network.inputs, 0)
    kernels = runtime.profile(model.SerializeToString(), feeds, 5)
    times, lost = Attribution(analysis.network, regions).times(kernels)
    assert lost < 0.02 * sum(times)
    assert abs(sum(times) + lost - sum(kernel.ms for kernel in kernels)) < 1e-6
    heavy = [i for i, r in enumerate(regions) if r.anchor.op in ("Conv", "MatMul", "Gemm")]
    assert all(times[i] > 0 for i in heavy)


def test_inserted_kernels_go_with_their_reader(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    regions = find_regions(analysis)
    last = regions[1].outputs[0]
    kernels = [
        Kernel("Reorder", ("reordered",), ("somewhere",), 1.0),
        Kernel("Conv", (last,), ("reordered",), 2.0),
        Kernel("Reorder", ("reordered back",), (last,), 4.0),
        Kernel("Lost", ("nothing",), ("unknown",), 8.0),
    ]
    times, lost = Attribution(analysis.network, regions).times(kernels)
    assert times[1] == 7.0
    assert lost == 8.0


@given(st.lists(st.floats(0.0, 10.0), min_size=4, max_size=4))
@example([0.0, 0.0, 0.0, 8.870769167868293])  # takes many steps to fit
def test_a_sum_of_products_of_widths_is_found_from_scattered_entries(coefficients: list[float]) -> None:
    """What a kernel's work is made of, up to what the numbers can tell."""
    a, b, c, d = coefficients

    def ms(i: int, j: int) -> float:
        x, y = LEVELS[0][i] / 64, LEVELS[1][j] / 32
        return 1 + a + b * x + c * y + d * x * y

    known = {index: ms(*index) for index in [(0, 0), (3, 2), (0, 2), (3, 0), (1, 1)]}
    table = complete(LEVELS, known)
    for index in np.ndindex(4, 3):
        assert table[index] == pytest.approx(ms(*index), rel=0.02)


def test_a_grid_is_interpolated_and_known_entries_stay() -> None:
    known = {(i, j): float(LEVELS[0][i] * LEVELS[1][j]) for i in (0, 3) for j in (0, 2)}
    table = complete(LEVELS, {**known, (1, 1): 9.0, (1, 0): 256.0, (1, 2): 1024.0, (0, 1): 256.0, (3, 1): 1024.0})
    assert table[1, 1] == 9.0
    assert table[3, 2] == 64 * 32
    assert complete(LEVELS, known)[1, 1] == pytest.approx(32 * 16)
    assert not complete(LEVELS, {}).any()


def test_correction_learns_slope_and_blocks_and_knows_how_sure_it_is() -> None:
    def truth(sums: Sums) -> float:
        return 0.1 * sums.kept**0.95 * (sums.kept / sums.full) ** -0.05

    learned = Correction()
    wholes = [Sums(10, 10), Sums(8, 8), Sums(6, 6), Sums(4, 4), Sums(2.5, 2.5), Sums(5, 10), Sums(4, 6)]
    for sums in wholes:
        learned.add(sums, truth(sums))
    for sums in (Sums(7, 7), Sums(5, 5), Sums(4.5, 8), Sums(3, 3)):
        found = learned.predict(sums)
        assert found.share == pytest.approx(truth(sums), rel=0.01)
        assert 0.005 < found.deviation / found.share < 0.04
    near, far = learned.predict(Sums(5, 5)), learned.predict(Sums(0.2, 5))
    assert near.deviation / near.share < far.deviation / far.share
    learned.add(Sums(5, 5), 1.05 * truth(Sums(5, 5)))
    assert learned.predict(Sums(5.02, 5.02)).share > 1.01 * truth(Sums(5.02, 5.02)), "a round corrects its neighbors"


class Profiled:
    """Stands where a meter stands: regions take twice as long within whole models as on their own."""

    def __init__(self, tables: Sequence[RegionTable]) -> None:
        self.known = {in_situ_text(t.text(index)): 2 * ms for t in tables for index, ms in t.known.items()}

    def latency(self, text: str) -> float | None:
        return self.known.get(text)


def test_isolated_tables_learn_what_regions_take_within_whole_models(cnn: Path) -> None:
    """The more whole models say so, the more it counts; of a block that is gone, nothing is said."""
    analysis = analysis_of(cnn)
    regions = find_regions(analysis)
    levels = group_levels(analysis, Grid(16, 16), Floor())
    tables = make_tables(analysis, regions, levels, sum_levels(regions, levels, Grid(16, 16)))
    for table in tables:
        table.known = dict.fromkeys(table.coarse(), 1.0)
    fill = Isolated(cast(Meter, Profiled(tables)), tables, levels, analysis.blocks, whole_builder(analysis), {})
    fill.wholes = [Whole(variant, 1.0) for variant in fill.designs[:1]]
    fill.compare()
    assert [table.factor for table in tables] == pytest.approx([2 ** (1 / 7)] * len(tables))
    gone = analysis.blocks[0].name
    fill.wholes += [Whole(Variant(fill.designs[0].widths, (gone,)), 1.0)]
    for table in tables:
        table.factor = 1.0
    fill.compare()
    for table in tables:
        assert table.factor == pytest.approx(2 ** (1 / 7 if table.region.block == gone else 2 / 8))
    assert tables[0].table().max() == pytest.approx(tables[0].factor)
