"""Forms that exporters and optimizers write alike only in what they compute: each becomes one of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from onnx_mdp.axes.terms import leaves
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of, build_model
from tests.cutting import assert_exact
from tests.graph.test_normal_form import ints, normal


def operators(model: onnx.ModelProto) -> list[str]:
    return [entry.op_type for entry in model.graph.node]


def positions(width: int, *, stored: bool) -> onnx.ModelProto:
    """Sines and cosines of positions are added to a product; computed in the graph, or stored as one table."""
    weights = {"w": (6, width), "v": (width, 3)}
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "table"], ["b"]), node("MatMul", ["b", "v"], ["y"])]
    count, pace = np.arange(40, dtype=np.float32)[:, None], np.linspace(0.1, 1, width // 2, dtype=np.float32)
    if stored:
        weights["table"] = np.concatenate([np.sin(count * pace), np.cos(count * pace)], 1)
        return build_model(nodes, {"x": (40, 6)}, ["y"], weights)
    made = [
        *(node("Mul", ["count", "pace"], ["angle"]), node("Sin", ["angle"], ["sin"]), node("Cos", ["angle"], ["cos"])),
        node("Concat", ["sin", "cos"], ["table"], axis=1),
    ]
    return build_model([*made, *nodes], {"x": (40, 6)}, ["y"], {"count": count, "pace": pace, **weights})


def test_computed_table_is_a_table(runtime: Runtime) -> None:
    """Also above the size of shapes and other small values; its columns then are units of their own."""
    for width in (16, 256):
        groups = [[g.units for g in analysis_of(positions(width, stored=stored)).groups] for stored in (True, False)]
        assert groups == [[width], [width]]
        assert_exact(positions(width, stored=False), runtime)
    assert operators(normal(positions(256, stored=False), runtime)) == ["MatMul", "Add", "MatMul"]


def test_great_tables_stay_formulas(runtime: Runtime) -> None:
    """2000 x 2000 numbers are made of 4000."""
    nodes = [node("Mul", ["row", "column"], ["t"]), node("Sin", ["t"], ["s"]), node("MatMul", ["x", "s"], ["y"])]
    model = build_model(nodes, {"x": (1, 2000)}, ["y"], {"row": (1, 2000), "column": (2000, 1)})
    assert operators(normal(model, runtime)) == ["Mul", "Sin", "MatMul"]


def test_what_no_data_meets_is_no_group() -> None:
    """Optimizers store the product of a table and its projection; there is nothing to gain in the width between."""
    table = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    nodes = [
        *(node("MatMul", ["table", "p"], ["t"]), node("MatMul", ["x", "w"], ["a"])),
        *(node("Add", ["a", "t"], ["b"]), node("MatMul", ["b", "v"], ["y"])),
    ]
    weights = {"table": table, "p": (16, 24), "w": (6, 24), "v": (24, 3)}
    analysis = analysis_of(build_model(nodes, {"x": (400, 6)}, ["y"], weights))
    assert [group.units for group in analysis.groups] == [24]
    (inner,) = leaves(analysis.coupling.axes["table"][1])
    assert [str(reason) for reason in analysis.reasons[inner]] == [
        "nothing that is computed from data lies along it (MatMul t)"
    ]


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("space", [(5, 4), (3, 5, 4)], ids=["image", "volume"])
def test_affine_grid_is_a_product(space: tuple[int, ...], align: int, runtime: Runtime) -> None:
    rank = len(space)
    nodes = [
        *(node("Gemm", ["x", "w"], ["t"]), node("Reshape", ["t", "matrix"], ["theta"])),
        *(node("AffineGrid", ["theta", "size"], ["grid"], align_corners=align), node("Sin", ["grid"], ["y"])),
    ]
    weights = {"w": (7, rank * (rank + 1)), "matrix": ints(-1, rank, rank + 1), "size": ints(2, 1, *space)}
    model = build_model(nodes, {"x": (2, 7)}, ["y"], weights, opset=20)
    assert operators(normal(model, runtime)) == ["Gemm", "Reshape", "Transpose", "MatMul", "Reshape", "Sin"]
    assert [group.units for group in analysis_of(model).groups] == [rank + 1]
    assert_exact(model, runtime)


def strided(picks: np.ndarray, axis: int = 0) -> onnx.ModelProto:
    """The view that an exporter writes of a mean: everything is picked, in order."""
    nodes = [
        *(node("Conv", ["x", "w"], ["a"]), node("ReduceMean", ["a", "axes"], ["m"], keepdims=0)),
        *(node("Reshape", ["m", "flat"], ["f"]), node("Gather", ["f", "picks"], ["g"], axis=axis)),
        *(node("Flatten", ["g"], ["h"]), node("Gemm", ["h", "v"], ["y"])),
    ]
    weights = {"w": (8, 3, 1, 1), "axes": ints(2, 3), "flat": ints(-1), "picks": picks, "v": (picks.size, 3)}
    return build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights)


def test_pick_of_everything_is_a_reshape(runtime: Runtime) -> None:
    model = strided(np.arange(8).reshape(1, 8, 1, 1))
    assert "Gather" not in operators(normal(model, runtime))
    assert [group.units for group in analysis_of(model).groups] == [8]
    assert_exact(model, runtime)


@pytest.mark.parametrize("picks", [np.arange(7), np.arange(8)[::-1].copy()], ids=["part", "reversed"])
def test_pick_of_something_else_stays(picks: np.ndarray, runtime: Runtime) -> None:
    model = strided(picks.reshape(1, -1, 1, 1))
    assert "Gather" in operators(normal(model, runtime))
    assert not analysis_of(model).groups


def test_pick_along_a_symbolic_axis_stays() -> None:
    """Eight of eight positions are all only at this size."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Transpose", ["a"], ["b"]),
        node("Gather", ["b", "p"], ["y"], axis=1),
    ]
    model = build_model(nodes, {"x": ("n", 3)}, ["y"], {"w": (3, 5), "p": np.arange(8)})
    normalize(model, {"x": (8, 3)})
    assert "Gather" in operators(model)
