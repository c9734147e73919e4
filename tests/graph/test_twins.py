"""A weight that is stored twice is one weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from onnx_mdp.graph.twins import find_twins
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of, build_model
from tests.cutting import assert_exact

NOISE = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
SQUARE = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)


def two_heads(first: np.ndarray, second: np.ndarray, through: str = "MatMul") -> onnx.ModelProto:
    """Two branches with a weight each, and a projection of its own behind each of them."""
    nodes = [
        *(node(through, ["x", "w1"], ["a1"]), node(through, ["x", "w2"], ["a2"])),
        *(node("MatMul", ["a1", "p1"], ["b1"]), node("MatMul", ["a2", "p2"], ["b2"])),
        node("Add", ["b1", "b2"], ["y"]),
    ]
    last = first.shape[-1]
    return build_model(nodes, {"x": (3, 12)}, ["y"], {"w1": first, "w2": second, "p1": (last, 5), "p2": (last, 5)})


def test_equal_matrices_are_cut_alike(runtime: Runtime) -> None:
    model = two_heads(NOISE, NOISE.copy())
    (group,) = analysis_of(model).groups
    assert {("w1", 1), ("w2", 1)} < set(group.members)
    assert_exact(model, runtime, 0)


def test_other_matrices_are_not(runtime: Runtime) -> None:
    other = NOISE.copy()
    other[-1, -1] += 1
    assert len(analysis_of(two_heads(NOISE, other)).groups) == 2
    assert_exact(two_heads(NOISE, other), runtime, 0)


def test_transposed_copy_is_the_same_weight(runtime: Runtime) -> None:
    """An embedding table that is stored once more as the last projection."""
    nodes = [
        node("Gather", ["table", "ids"], ["a"]),
        node("MatMul", ["a", "up"], ["b"]),
        node("MatMul", ["b", "down"], ["c"]),
        node("MatMul", ["c", "head"], ["y"]),
    ]
    weights = {"table": NOISE, "head": np.ascontiguousarray(NOISE.T), "up": (8, 6), "down": (6, 8)}
    model = build_model(nodes, {"ids": (3,)}, ["y"], weights)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    (twin,) = find_twins(model.graph)
    assert (twin.first, twin.second, twin.transposed) == ("table", "head", True)
    groups = {frozenset(group.members) for group in analysis_of(model).groups}
    assert frozenset({("table", 1), ("up", 0), ("down", 1), ("head", 0)}) in groups
    assert_exact(model, runtime, 0)


def test_transposed_square_ties_its_two_axes(runtime: Runtime) -> None:
    nodes = [
        *(node("MatMul", ["x", "u"], ["a"]), node("MatMul", ["a", "w1"], ["b"]), node("MatMul", ["b", "w2"], ["c"])),
        node("MatMul", ["c", "d"], ["y"]),
    ]
    weights = {"u": (12, 8), "w1": SQUARE, "w2": np.ascontiguousarray(SQUARE.T), "d": (8, 4)}
    model = build_model(nodes, {"x": (3, 12)}, ["y"], weights)
    outer = next(group for group in analysis_of(model).groups if ("u", 1) in group.members)
    assert {("w1", 0), ("w2", 1), ("d", 0)} < set(outer.members)
    assert_exact(model, runtime, 0)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constant_matrices_are_nothing_learned(value: float) -> None:
    """Averages, or layers that were never trained."""
    flat = np.full((12, 8), value, np.float32)
    assert not find_twins(two_heads(flat, flat.copy()).graph)


def test_tables_of_several_layers_are_cut_in_each() -> None:
    """Position tables are copied for every layer that adds them: storing them twice is no tie either."""
    table = NOISE[:3]
    nodes = [
        *(node("MatMul", ["x", f"w{i}"], [f"a{i}"]) for i in (1, 2)),
        *(node("Add", [f"a{i}", f"t{i}"], [f"b{i}"]) for i in (1, 2)),
        *(node("MatMul", [f"b{i}", f"p{i}"], [f"c{i}"]) for i in (1, 2)),
        node("Add", ["c1", "c2"], ["y"]),
    ]
    weights = {"t1": table, "t2": table.copy(), "w1": (12, 8), "w2": (12, 8), "p1": (8, 5), "p2": (8, 5)}
    model = build_model(nodes, {"x": (3, 12)}, ["y"], weights)
    assert not find_twins(model.graph)
    assert len(analysis_of(model).groups) == 2


def test_block_with_a_weight_of_another_is_kept_however_it_is_stored() -> None:
    def layers(names: tuple[str, str]) -> onnx.ModelProto:
        nodes = [node("MatMul", ["x", "u"], ["a0"])]
        for i, name in enumerate(names):
            nodes += [node("MatMul", [f"a{i}", name], [f"f{i}"]), node("Relu", [f"f{i}"], [f"g{i}"])]
            nodes += [node("Add", [f"a{i}", f"g{i}"], [f"a{i + 1}"], name=f"block{i}")]
        weights = {"u": (12, 8), "d": (8, 4), **{name: SQUARE.copy() for name in names}}
        return build_model([*nodes, node("MatMul", ["a2", "d"], ["y"])], {"x": (3, 12)}, ["y"], weights)

    assert not analysis_of(layers(("w", "w"))).blocks
    assert not analysis_of(layers(("w", "v"))).blocks
