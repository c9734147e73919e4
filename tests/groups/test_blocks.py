"""Removable residual blocks: found where nothing of them is needed elsewhere, and removed exactly."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.helper import make_node as node

from onnx_mdp.groups.blocks import parent_blocks
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of, build_model
from tests.cutting import assert_exact


def mlp(extra: list[onnx.NodeProto] | None = None, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["a"]),
        node("Gemm", ["a", "w1", "b1"], ["b"], name="up"),
        node("Relu", ["b"], ["c"]),
        node("Gemm", ["c", "w2", "b2"], ["d"], name="down"),
        node("Add", ["a", "d"], ["e"], name="residual"),
        *(extra or []),
        node("Gemm", ["e", "w3", "b3"], ["y"]),
    ]
    weights = {"w0": (3, 8), "b0": (8,), "w1": (8, 6), "b1": (6,), "w2": (6, 8), "b2": (8,), "w3": (8, 2), "b3": (2,)}
    return build_model(nodes, {"x": (2, 3)}, list(outputs), weights)


def test_block_is_found_and_removed_exactly(runtime: Runtime) -> None:
    analysis = analysis_of(mlp())
    (block,) = analysis.blocks
    assert (block.name, block.entry, block.branch, block.output) == ("residual", "a", "d", "e")
    assert set(block.silenced) == {"w2", "b2"}
    removed = 0
    for seed in range(4):
        cut = assert_exact(mlp(), runtime, seed, blocks=True)
        removed += len(cut.plan.removed)
        if cut.plan.removed:
            assert "down" not in {n.name for n in cut.model.graph.node}
            assert not {"w1", "w2"} & {t.name for t in cut.model.graph.initializer}
    assert 0 < removed < 4


def test_branch_that_is_read_elsewhere_is_no_block() -> None:
    assert not analysis_of(mlp([node("Relu", ["c"], ["z"])], ("y", "z"))).blocks


def test_branch_may_read_what_other_branches_read_too(runtime: Runtime) -> None:
    """A mask, computed once, enters every attention block; it does not matter to one that is gone."""
    nodes = [node("Gemm", ["x", "w0"], ["a0"]), node("Sigmoid", ["m"], ["mask"])]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w0": (3, 8), "wy": (8, 2)}
    for i in range(3):
        weights[f"u{i}"] = (8, 8)
        nodes += [
            node("Mul", [f"a{i}", "mask"], [f"b{i}"]),
            node("Gemm", [f"b{i}", f"u{i}"], [f"f{i}"]),
            node("Add", [f"a{i}", f"f{i}"], [f"a{i + 1}"], name=f"block{i}"),
        ]
    model = build_model([*nodes, node("Gemm", ["a3", "wy"], ["y"])], {"x": (2, 3), "m": (2, 1)}, ["y"], weights)
    blocks = analysis_of(model).blocks
    assert [(block.name, len(block.nodes)) for block in blocks] == [("block0", 2), ("block1", 2), ("block2", 2)]
    for seed in range(4):
        assert_exact(model, runtime, seed, blocks=True)


def test_what_a_branch_alone_reads_goes_with_it(runtime: Runtime) -> None:
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["x", "w1"], ["b"], name="gate"),
        node("Mul", ["a", "b"], ["c"]),
        node("Gemm", ["c", "w2"], ["d"]),
        node("Add", ["a", "d"], ["e"], name="residual"),
        node("Gemm", ["e", "w3"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {"w0": (3, 8), "w1": (3, 8), "w2": (8, 8), "w3": (8, 2)})
    (block,) = analysis_of(model).blocks
    assert {analysis_of(model).network.nodes[i].name for i in block.nodes} >= {"gate"}
    for seed in range(4):
        assert_exact(model, runtime, seed, blocks=True)


def test_branch_that_does_not_read_the_entry_is_no_block() -> None:
    """A table that is added to a product, such as a relative position bias, is no residual branch."""
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Reshape", ["table", "shape"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("Gemm", ["x", "w1"], ["d"]),
        node("Add", ["c", "d"], ["e"]),
        node("Gemm", ["e", "w2"], ["y"]),
    ]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w0": (3, 8), "table": (8, 2), "shape": np.array([2, 8])}
    weights |= {"w1": (3, 8), "w2": (8, 2)}
    assert not analysis_of(build_model(nodes, {"x": (2, 3)}, ["y"], weights)).blocks


def test_branch_may_read_the_entry_in_another_layout(runtime: Runtime) -> None:
    """An optimizer merges a Transpose with the first move of a branch, and leaves it where x is added."""
    nodes = [
        node("Conv", ["x", "w0"], ["before"]),
        node("Transpose", ["before"], ["a"], perm=[0, 2, 3, 1]),
        node("Reshape", ["before", "flat"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        node("MatMul", ["c", "w1"], ["d"], name="mixer"),
        node("Reshape", ["d", "image"], ["e"]),
        node("Add", ["a", "e"], ["f"], name="residual"),
        node("MatMul", ["f", "w2"], ["y"]),
    ]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w0": (8, 3, 1, 1), "w1": (8, 8), "w2": (8, 2)}
    weights |= {"flat": np.array([1, 8, 16]), "image": np.array([1, 4, 4, 8])}
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights)
    (block,) = analysis_of(model).blocks
    assert (block.name, block.entry) == ("residual", "a")
    removed = 0
    for seed in range(4):
        cut = assert_exact(model, runtime, seed, blocks=True)
        removed += len(cut.plan.removed)
        assert ("mixer" in {n.name for n in cut.model.graph.node}) == (not cut.plan.removed)
    assert 0 < removed < 4


def test_branch_of_what_the_entry_was_computed_from_is_no_block() -> None:
    """A rectified x is no layout of it: both sides of the sum are branches of what came before."""
    nodes = [
        node("Conv", ["x", "w0"], ["before"]),
        node("Relu", ["before"], ["r"]),
        node("Transpose", ["r"], ["a"], perm=[0, 2, 3, 1]),
        node("Transpose", ["before"], ["c"], perm=[0, 2, 3, 1]),
        node("MatMul", ["c", "w1"], ["e"]),
        node("Add", ["a", "e"], ["f"], name="residual"),
        node("MatMul", ["f", "w2"], ["y"]),
    ]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w0": (8, 3, 1, 1), "w1": (8, 8), "w2": (8, 2)}
    assert not analysis_of(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights)).blocks


def test_branch_that_cannot_be_silenced_is_no_block() -> None:
    """sigmoid(f) is never zero, so no mask could prove the removal."""
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "w1"], ["b"]),
        node("Sigmoid", ["b"], ["c"]),
        node("Add", ["a", "c"], ["d"]),
        node("Gemm", ["d", "w2"], ["y"]),
    ]
    weights = {"w0": (3, 8), "w1": (8, 8), "w2": (8, 2)}
    assert not analysis_of(build_model(nodes, {"x": (2, 3)}, ["y"], weights)).blocks


def test_branch_that_divides_by_its_own_length_is_no_block() -> None:
    """Silenced, it would be 0/0, and no mask could prove the removal."""
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("MatMul", ["a", "w1"], ["b"]),
        node("ReduceL2", ["b", "axis"], ["length"]),
        node("Div", ["b", "length"], ["c"]),
        node("Add", ["a", "c"], ["d"]),
        node("MatMul", ["d", "w2"], ["y"]),
    ]
    weights = {"w0": (3, 8), "w1": (8, 8), "w2": (8, 2), "axis": np.array([1], np.int64)}
    assert not analysis_of(build_model(nodes, {"x": (2, 3)}, ["y"], weights)).blocks


def test_gated_branch_is_silenced_by_its_gate(runtime: Runtime) -> None:
    """A product is zero when one side is: silencing the value path is enough."""
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "wv"], ["v"]),
        node("Gemm", ["a", "wg"], ["g0"]),
        node("Sigmoid", ["g0"], ["g"]),
        node("Mul", ["v", "g"], ["c"]),
        node("Add", ["c", "a"], ["d"], name="glu"),
        node("Gemm", ["d", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {"w0": (3, 8), "wv": (8, 8), "wg": (8, 8), "w2": (8, 2)})
    (block,) = analysis_of(model).blocks
    assert block.silenced == ("wv",)
    assert_exact(model, runtime, 1, blocks=True)


def test_shared_scalar_is_never_silenced(runtime: Runtime) -> None:
    """Exporters share the constants of an activation between layers: zeroing one would silence them all."""
    nodes = [node("Gemm", ["x", "w0"], ["a0"])]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w0": (3, 8), "half": np.float32(0.5), "wy": (8, 2)}
    for i in range(3):
        weights |= {f"u{i}": (8, 6), f"v{i}": (6, 8)}
        nodes += [
            node("MatMul", [f"a{i}", f"u{i}"], [f"b{i}"]),
            node("Mul", [f"b{i}", "half"], [f"c{i}"]),
            node("MatMul", [f"c{i}", f"v{i}"], [f"f{i}"]),
            node("Add", [f"a{i}", f"f{i}"], [f"a{i + 1}"], name=f"block{i}"),
        ]
    model = build_model([*nodes, node("Gemm", ["a3", "wy"], ["y"])], {"x": (2, 3)}, ["y"], weights)
    assert [len(block.silenced) for block in analysis_of(model).blocks] == [1, 1, 1]
    assert not any("half" in block.silenced for block in analysis_of(model).blocks)
    for seed in range(4):
        assert_exact(model, runtime, seed, blocks=True)


def test_nested_blocks_know_their_parent(runtime: Runtime) -> None:
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "w1"], ["b"]),
        node("Gemm", ["b", "w2"], ["c"]),
        node("Add", ["b", "c"], ["d"], name="inner"),
        node("Gemm", ["d", "w3"], ["e"]),
        node("Add", ["a", "e"], ["f"], name="outer"),
        node("Gemm", ["f", "w4"], ["y"]),
    ]
    shapes = {"w0": (3, 8), "w1": (8, 6), "w2": (6, 6), "w3": (6, 8), "w4": (8, 2)}
    model = build_model(nodes, {"x": (2, 3)}, ["y"], shapes)
    analysis = analysis_of(model)
    assert parent_blocks(analysis.blocks) == {"inner": "outer", "outer": None}
    for seed in range(6):
        assert_exact(model, runtime, seed, blocks=True)


def test_chain_of_removed_blocks_leaves_the_first_entry(runtime: Runtime) -> None:
    nodes = [node("Gemm", ["x", "w0"], ["a0"])]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w0": (3, 8), "wy": (8, 2)}
    for i in range(4):
        weights[f"u{i}"] = (8, 8)
        nodes += [node("Gemm", [f"a{i}", f"u{i}"], [f"f{i}"]), node("Add", [f"a{i}", f"f{i}"], [f"a{i + 1}"])]
    model = build_model([*nodes, node("Gemm", ["a4", "wy"], ["y"])], {"x": (2, 3)}, ["y"], weights)
    for seed in range(6):
        assert_exact(model, runtime, seed, blocks=True)
