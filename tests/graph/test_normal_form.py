"""The normal form computes what the model did, and leaves weights and sizes where a cut can reach them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
from onnx.helper import make_node as node

from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of, build_model
from tests.cutting import assert_exact


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def normal(model: onnx.ModelProto, runtime: Runtime) -> onnx.ModelProto:
    """The normal form, checked to compute the same."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    normalize(changed, {})
    onnx.checker.check_model(changed)
    shapes = {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in model.graph.input}
    feeds = random_feeds(model, shapes, 1)
    before, after = (runtime.open(m.SerializeToString()).run(feeds) for m in (model, changed))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return changed


def test_standardized_kernel_becomes_a_weight(runtime: Runtime) -> None:
    """The kernel of a weight-standardized convolution loses input channels, although it is normalized over them."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("ReduceMean", ["w2", "axes"], ["mean"]),
        node("Sub", ["w2", "mean"], ["centered"]),
        node("Conv", ["a", "centered"], ["y"]),
    ]
    model = build_model(
        nodes, {"x": (1, 3, 4, 4)}, ["y"], {"w1": (8, 3, 1, 1), "w2": (4, 8, 3, 3), "axes": ints(1, 2, 3)}
    )
    assert [n.op_type for n in normal(model, runtime).graph.node] == ["Conv", "Conv"]
    assert [g.units for g in assert_exact(model, runtime).analysis.groups] == [8]


def test_few_of_the_values_on_the_way_are_held_at_once() -> None:
    """An outer product of 4 MB, moved and summed to a weight that is stored, for each of twelve layers."""
    nodes, weights, stream = [], {"last": ints(-1)}, "x"
    for i in range(12):
        nodes += [
            node("Mul", [f"row{i}", f"column{i}"], [f"table{i}"]),
            node("Transpose", [f"table{i}"], [f"turned{i}"]),
            node("ReduceMean", [f"turned{i}", "last"], [f"mean{i}"], keepdims=0),
            node("Add", [stream, f"mean{i}"], [f"y{i}"]),
        ]
        weights |= {f"row{i}": (1, 1024), f"column{i}": (1024, 1)}
        stream = f"y{i}"
    model = build_model(nodes, {"x": (1, 1024)}, [stream], weights)
    tracemalloc.start()
    normalize(model, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {n.op_type for n in model.graph.node} == {"Add"}
    assert peak < 12 * 4 * 1024**2 / 2


def test_a_table_that_grows_is_not_stored(runtime: Runtime) -> None:
    nodes = [node("Gather", ["table", "ids"], ["wide"]), node("Add", ["x", "wide"], ["y"])]
    weights = {"table": (5, 64), "ids": np.arange(5000, dtype=np.int64) % 5}
    model = build_model(nodes, {"x": (5000, 64)}, ["y"], weights)
    assert [n.op_type for n in normal(model, runtime).graph.node] == ["Gather", "Add"]


def test_identity_of_a_weight_is_the_weight(runtime: Runtime) -> None:
    nodes = [
        node("Identity", ["w"], ["tied"]),
        node("Gemm", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Gemm", ["b", "tied"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 16)}, ["y"], {"w": (16, 16)})
    changed = normal(model, runtime)
    assert [list(n.input) for n in changed.graph.node if n.op_type == "Gemm"] == [["x", "w"], ["b", "w"]]


def packed(*, picks: str) -> onnx.ModelProto:
    """Packed queries, keys and values, taken apart by Gather, by Split or by Slice.

    "late": optimizers move the Transpose behind the Split, and the Squeeze behind that.
    """
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero_one"], ["lead"]),
        node("Concat", ["lead", "three", "four", "six"], ["shape"], axis=0),
        node("Reshape", ["p", "shape"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
    ]
    weights: dict[str, object] = {"w": (24, 72), "zero_one": ints(0, 1), "three": ints(3), "four": ints(4)}
    weights |= {"six": ints(6), "axis0": ints(0), "o": (24, 24)}
    if picks == "Gather":
        weights |= {f"i{k}": np.int64(k) for k in range(3)}
        nodes += [node("Gather", ["t", f"i{k}"], [c], axis=0) for k, c in enumerate("qkv")]
    elif picks == "Split":
        nodes.append(node("Split", ["t"], ["q1", "k1", "v1"], axis=0, num_outputs=3))
        nodes += [node("Squeeze", [f"{c}1", "axis0"], [c]) for c in "qkv"]
    elif picks == "late":
        nodes[-1] = node("Split", ["r"], ["q2", "k2", "v2"], axis=2, num_outputs=3)
        nodes += [node("Transpose", [f"{c}2"], [f"{c}1"], perm=[2, 0, 3, 1, 4]) for c in "qv"]
        nodes += [node("Squeeze", [f"{c}1", "axis0"], [c]) for c in "qv"]
        nodes += [node("Squeeze", ["k2", "axis2"], ["k1"]), node("Transpose", ["k1"], ["k"], perm=[0, 2, 1, 3])]
        weights["axis2"] = ints(2)
    else:
        weights |= {f"i{k}": ints(k) for k in range(4)}
        nodes += [node("Slice", ["t", f"i{k}", f"i{k + 1}", "axis0"], [f"{c}1"]) for k, c in enumerate("qkv")]
        nodes += [node("Squeeze", [f"{c}1", "axis0"], [c]) for c in "qkv"]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["qk"]),
        node("Softmax", ["qk"], ["a"]),
        node("MatMul", ["a", "v"], ["av"]),
        node("Transpose", ["av"], ["m"], perm=[0, 2, 1, 3]),
        node("Concat", ["lead", "rest"], ["flat"], axis=0),
        node("Reshape", ["m", "flat"], ["c"]),
        node("MatMul", ["c", "o"], ["y"]),
    ]
    return build_model(nodes, {"x": ("batch", 5, 24)}, ["y"], {**weights, "rest": ints(24)})


def test_packed_projections_are_split_before_they_are_moved(runtime: Runtime) -> None:
    for picks in ("Gather", "Split", "Slice", "late"):
        model = packed(picks=picks)
        assert all(n.op_type != "Transpose" or len(n.attribute[0].ints) == 4 for n in normal(model, runtime).graph.node)
        cut = assert_exact(model, runtime, seed=2)
        assert sorted((g.kind, g.units) for g in cut.analysis.groups) == [("head", 4), ("qk", 6), ("v", 6)]


def test_a_pick_of_something_else_is_left_alone(runtime: Runtime) -> None:
    """Here the new axis is the inner part of the old one, so the parts do not lie one after the other."""
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Reshape", ["p", "shape"], ["r"]),
        node("Gather", ["r", "one"], ["y"], axis=3),
    ]
    weights = {"w": (8, 72), "shape": ints(1, 5, 24, 3), "one": np.int64(1)}
    model = build_model(nodes, {"x": (1, 5, 8)}, ["y"], weights)
    assert [n.op_type for n in normal(model, runtime).graph.node] == ["MatMul", "Reshape", "Gather"]


def test_no_unit_is_masked_to_zero_over_zero(runtime: Runtime) -> None:
    """Attention weights divided by their own sum: the gate that both are made of is spared, the values are masked."""
    nodes = [
        node("MatMul", ["x", "w"], ["v"]),
        node("Mul", ["gate", "x"], ["a"]),
        node("Abs", ["a"], ["b"]),
        node("ReduceSum", ["b", "last"], ["total"]),
        node("Div", ["b", "total"], ["share"]),
        node("Mul", ["share", "v"], ["c"]),
        node("ReduceSum", ["c", "heads"], ["y"], keepdims=0),
    ]
    weights = {"w": (4, 6, 6), "gate": (4, 1, 1), "last": ints(-1), "heads": ints(1)}
    cut = assert_exact(build_model(nodes, {"x": (2, 1, 5, 6)}, ["y"], weights), runtime)
    assert ("gate", 0) in cut.analysis.groups[0].members


def test_dividing_weights_are_not_masked(runtime: Runtime) -> None:
    nodes = [node("Conv", ["x", "w1"], ["a"]), node("Div", ["a", "std"], ["b"]), node("Conv", ["b", "w2"], ["y"])]
    std = np.linspace(0.5, 2, 8).astype(np.float32).reshape(8, 1, 1)
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], {"w1": (8, 3, 1, 1), "std": std, "w2": (2, 8, 1, 1)})
    cut = assert_exact(model, runtime)
    assert [len(group.members) for group in cut.analysis.groups] == [3]


def test_a_reciprocal_of_units_is_frozen() -> None:
    """Without a weight beside the denominator's, masking the unit has no value at all."""
    nodes = [node("Conv", ["x", "w1"], ["a"]), node("Reciprocal", ["a"], ["b"]), node("Conv", ["b", "w2"], ["y"])]
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], {"w1": (8, 3, 1, 1), "w2": (2, 8, 1, 1)})
    assert [group.units for group in analysis_of(model).groups] == [8]
