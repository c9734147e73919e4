"""Regions cover every operator once, and their timing models have the sizes a cut gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from onnx_mdp.axes.terms import Sum
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.extract import extract
from onnx_mdp.graph.network import read_network
from onnx_mdp.groups.find import Analysis
from onnx_mdp.latency.levels import Floor, Grid, group_levels, sum_levels
from onnx_mdp.latency.regions import find_regions
from onnx_mdp.latency.tables import PieceMaker, make_tables
from onnx_mdp.rewrite.plan import factors, plan_edits
from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of, build_model
from tests.cutting import random_plan

GRID = Grid(conv=16, matmul=16)


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_every_computing_node_is_in_one_region(name: str) -> None:
    analysis = analysis_of(MODELS / name)
    owned = [n.index for region in find_regions(analysis) for n in region.nodes]
    assert len(owned) == len(set(owned))
    assert set(owned) == {n.index for n in analysis.network.nodes}


def test_what_no_output_depends_on_is_not_timed() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Mul", ["a", "parts"], ["b"]),
        node("ReduceSum", ["b"], ["c"]),
        node("Conv", ["a", "head"], ["y"]),
    ]
    weights = {"w": (32, 3, 1, 1), "parts": (32, 1, 1), "head": (2, 32, 1, 1)}
    regions = find_regions(analysis_of(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights)))
    assert [([n.op for n in region.nodes], region.outputs) for region in regions] == [
        (["Conv"], ("a",)),
        (["Conv"], ("y",)),
    ]


def test_convolution_takes_its_activation_and_residual_along(cnn: Path) -> None:
    regions = {r.anchor.name: [n.op for n in r.nodes] for r in find_regions(analysis_of(cnn))}
    assert ["Conv", "Relu"] in regions.values()
    assert ["Conv", "Add", "Relu"] in regions.values()
    assert ["Conv", "Clip"] in regions.values()


def test_regions_of_a_removable_block_are_gated_by_it(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    for region in find_regions(analysis):
        inside = [block.name for block in analysis.blocks if region.anchor.index in block.nodes]
        assert region.block == (inside[0] if inside else None)


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_pieces_have_the_shapes_of_the_cut_model(name: str, runtime: Runtime) -> None:
    """Cut at random: every tensor of every piece has the size it has in the really cut model, and the piece runs."""
    analysis = analysis_of(MODELS / name)
    plan = random_plan(analysis, 5, blocks=False)
    cut = read_network(rewrite(analysis.network.model, plan_edits(analysis, plan)), {})
    widths = {factor: len(kept) for factor, kept in factors(analysis, plan).items()}
    maker = PieceMaker(analysis)
    for region in find_regions(analysis):
        piece = maker.piece(region, widths)
        for tensor, shape in piece.shapes.items():
            assert cut.shapes.get(tensor, shape) == shape, tensor
        model, feeds = extract(analysis.network, piece)
        results = runtime.open(model.SerializeToString()).run(feeds)
        assert [r.shape for r in results] == [piece.shapes[output] for output in piece.outputs]


def test_equal_layers_have_equal_keys(vit: Path) -> None:
    analysis = analysis_of(vit)
    maker = PieceMaker(analysis)
    texts = [maker.describe(region, {}) for region in find_regions(analysis)]
    assert len(set(texts)) < len(texts) / 3, "five equal layers share their entries"


def test_widths_change_the_key(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    maker = PieceMaker(analysis)
    region = find_regions(analysis)[0]
    (group,) = [g for g in analysis.groups if g.factor in region.variables]
    texts = {maker.describe(region, {group.factor: width}) for width in (16, 24, 32)}
    assert len(texts) == 3


def concat_analysis() -> Analysis:
    nodes = [
        node("Conv", ["x", "wa"], ["a"]),
        node("Conv", ["x", "wb"], ["b"]),
        node("Concat", ["a", "b"], ["c"], axis=1),
        node("Conv", ["c", "w"], ["d"]),
        node("Conv", ["d", "head"], ["y"]),
    ]
    weights = {"wa": (32, 3, 1, 1), "wb": (48, 3, 1, 1), "w": (64, 80, 1, 1), "head": (2, 64, 1, 1)}
    return analysis_of(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights))


def test_reader_of_a_concat_depends_on_the_sum() -> None:
    analysis = concat_analysis()
    regions = find_regions(analysis)
    levels = group_levels(analysis, GRID, Floor())
    sums = sum_levels(regions, levels, GRID)
    (total,) = sums
    assert isinstance(total, Sum)
    assert sums[total] == (32, 48, 64, 80)
    reader = next(r for r in regions if r.anchor.inputs[1] == "w")
    assert reader.variables[0] == total
    tables = make_tables(analysis, regions, levels, sums)
    table = next(t for t in tables if t.region is reader)
    for index, width in enumerate(sums[total]):
        widths = table.widths((index, 0))
        assert sum(widths[leaf] for leaf in total.parts) == width


def test_levels_follow_grid_floor_and_multiple(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    group = next(g for g in analysis.groups if g.units == 128 and g.kind == "channel")
    assert group_levels(analysis, GRID, Floor())[group.factor] == tuple(range(16, 129, 16))
    assert group_levels(analysis, GRID, Floor(units=60))[group.factor] == (64, 80, 96, 112, 128)
    assert group_levels(analysis, GRID, Floor(share=0.9))[group.factor] == (128,)
    assert group_levels(analysis, GRID, Floor(multiple=40))[group.factor] == (40, 80, 120, 128)


def test_tables_interpolate_between_and_keep_what_is_measured(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    regions = find_regions(analysis)
    levels = group_levels(analysis, GRID, Floor())
    tables = make_tables(analysis, regions, levels, sum_levels(regions, levels, GRID))
    table = max(tables, key=lambda t: np.prod([len(axis) for axis in t.levels]))

    def product(index: tuple[int, ...]) -> float:
        return float(np.prod([axis[i] for axis, i in zip(table.levels, index, strict=True)]))

    table.known = {index: product(index) for index in table.coarse()}
    expected = np.multiply.outer(*(np.array(axis, float) for axis in table.levels))
    assert len(table.known) < expected.size
    assert np.allclose(table.table(), expected), "a bilinear function is interpolated exactly"
    odd = next(i for i in np.ndindex(*expected.shape) if i not in table.known)
    table.known[odd] = 7.0
    assert table.table()[odd] == 7.0


def test_piece_reads_integer_parameters_at_the_new_size(runtime: Runtime) -> None:
    """A Reshape whose shape list is shared by normal form and resized by the cut."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 1, 3]),
        node("Reshape", ["c", "back"], ["d"]),
        node("MatMul", ["d", "w2"], ["y"]),
    ]
    weights = {
        "w1": (8, 24),
        "shape": np.array([2, 5, 4, 6], np.int64),
        "back": np.array([2, 4, -1], np.int64),
        "w2": (30, 3),
    }
    model = build_model(nodes, {"x": (2, 5, 8)}, ["y"], weights)
    analysis = analysis_of(model)
    maker = PieceMaker(analysis)
    region = find_regions(analysis)[0]
    widths = {group.factor: group.units - 1 for group in analysis.groups}
    built, feeds = extract(analysis.network, maker.piece(region, widths))
    onnx.checker.check_model(built)
    runtime.open(built.SerializeToString()).run(feeds)
