"""What is coupled, what is frozen and why, on graphs small enough to see through; every cut is checked exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from onnx_mdp.errors import OptionError
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.groups.find import Analysis
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of, build_model
from tests.cutting import assert_exact


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def units(analysis: Analysis) -> dict[str, int]:
    return {group.name: group.units for group in analysis.groups}


def reasons(analysis: Analysis, name: str) -> str:
    return "; ".join(str(r) for locked in analysis.locked if locked.name == name for r in locked.reasons)


def conv_bn_chain(**extra: tuple[int, ...]) -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w2", "b2"], ["y"]),
    ]
    variance = np.linspace(0.5, 2, 8).astype(np.float32)
    weights = {"w1": (8, 3, 3, 3), "s": (8,), "b": (8,), "m": (8,), "v": variance, "w2": (4, 8, 1, 1), "b2": (4,)}
    return build_model(nodes, {"x": (1, 3, 6, 6)}, ["y"], weights)


def test_batch_normalization_joins_its_convolution(runtime: Runtime) -> None:
    cut = assert_exact(conv_bn_chain(), runtime, seed=1)
    (group,) = cut.analysis.groups
    assert group.kind == "channel"
    assert group.members == (("w1", 0), ("s", 0), ("b", 0), ("m", 0), ("v", 0), ("w2", 1))


def test_graph_boundaries_are_locked() -> None:
    analysis = analysis_of(conv_bn_chain())
    assert "graph input (x)" in reasons(analysis, "w1")
    assert "graph output (y)" in reasons(analysis, "w2")


def test_projection_shortcut_makes_one_stream(runtime: Runtime) -> None:
    nodes = [
        node("Conv", ["x", "stem"], ["a"]),
        node("Conv", ["a", "w1"], ["b"], pads=[1, 1, 1, 1]),
        node("Conv", ["a", "p"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "w2"], ["f"], pads=[1, 1, 1, 1]),
        node("Add", ["f", "e"], ["g"]),
        node("Conv", ["g", "head"], ["y"]),
    ]
    weights = {
        "stem": (6, 3, 1, 1),
        "w1": (8, 6, 3, 3),
        "p": (8, 6, 1, 1),
        "w2": (8, 8, 3, 3),
        "head": (2, 8, 1, 1),
    }
    model = build_model(nodes, {"x": (1, 3, 5, 5)}, ["y"], weights)
    cut = assert_exact(model, runtime, blocks=True)
    assert units(cut.analysis) == {"stem": 6, "w1": 8}
    assert [g.kind for g in cut.analysis.groups] == ["channel", "stream"]


def test_depthwise_convolution_is_no_special_case(runtime: Runtime) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("Conv", ["a", "dw"], ["b"], group=8),
        node("Conv", ["b", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 3, 6, 6)}, ["y"], {"w1": (8, 3, 1, 1), "dw": (8, 1, 3, 3), "w2": (2, 8, 1, 1)})
    cut = assert_exact(model, runtime)
    assert units(cut.analysis) == {"w1": 8}
    kept = len(cut.plan.kept["w1"])
    (group,) = [a.i for n in cut.model.graph.node for a in n.attribute if a.name == "group" and a.i > 1]
    assert group == kept


def test_grouped_convolution_cuts_groups_and_channels_within(runtime: Runtime) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("Conv", ["a", "wg"], ["b"], group=4),
        node("Conv", ["b", "w2"], ["y"]),
    ]
    weights = {"w1": (12, 3, 1, 1), "wg": (8, 3, 1, 1), "w2": (2, 8, 1, 1)}
    cut = assert_exact(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights), runtime)
    assert {(g.kind, g.units) for g in cut.analysis.groups} == {("group", 4), ("channel", 3), ("channel", 2)}


def test_shared_bias_does_not_tie_unrelated_layers(runtime: Runtime) -> None:
    """The four-node graph that other tools break: two convolutions share one bias."""
    nodes = [
        node("Conv", ["x", "w1", "bias"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2", "bias"], ["c"]),
        node("Conv", ["c", "w3"], ["y"]),
    ]
    weights = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (2, 8, 1, 1), "bias": (8,)}
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights)
    cut = assert_exact(model, runtime)
    assert units(cut.analysis) == {"w1": 8, "w2": 8}
    assert not np.array_equal(cut.plan.kept["w1"], cut.plan.kept["w2"])


def test_layer_applied_twice_stays_one_weight(runtime: Runtime) -> None:
    nodes = [
        node("Gemm", ["x", "w1"], ["a"]),
        node("Gemm", ["a", "w2"], ["b"]),
        node("Gemm", ["z", "w1"], ["c"]),
        node("Gemm", ["c", "w2"], ["d"]),
        node("Add", ["b", "d"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 3), "z": (1, 3)}, ["y"], {"w1": (3, 8), "w2": (8, 2)})
    cut = assert_exact(model, runtime)
    assert len(cut.analysis.groups) == 1
    assert sorted(t.name for t in cut.model.graph.initializer) == ["w1", "w2"]


def test_concat_keeps_its_parts_apart(runtime: Runtime) -> None:
    nodes = [
        node("Conv", ["x", "wa"], ["a"]),
        node("Conv", ["x", "wb"], ["b"]),
        node("Concat", ["a", "b"], ["c"], axis=1),
        node("Conv", ["c", "w"], ["y"]),
    ]
    weights = {"wa": (6, 3, 1, 1), "wb": (10, 3, 1, 1), "w": (2, 16, 1, 1)}
    cut = assert_exact(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights), runtime)
    assert units(cut.analysis) == {"wa": 6, "wb": 10}


def test_padded_shortcut_cuts_stream_and_padding(runtime: Runtime) -> None:
    """ResNet's option A: a strided slice in space, zeros for the new channels."""
    nodes = [
        node("Conv", ["x", "stem"], ["a"]),
        node("Slice", ["a", "zero", "end", "two", "step"], ["s"]),
        node("Pad", ["s", "pads"], ["p"]),
        node("Conv", ["a", "w1"], ["b"], strides=[2, 1], pads=[1, 1, 1, 1]),
        node("Add", ["b", "p"], ["c"]),
        node("Conv", ["c", "head"], ["y"]),
    ]
    weights = {
        "stem": (4, 3, 1, 1),
        "zero": ints(0),
        "end": ints(2**63 - 1),
        "two": ints(2),
        "step": ints(2),
        "pads": ints(0, 2, 0, 0, 0, 2, 0, 0),
        "w1": (8, 4, 3, 3),
        "head": (2, 8, 1, 1),
    }
    cut = assert_exact(build_model(nodes, {"x": (1, 3, 6, 6)}, ["y"], weights), runtime)
    assert sorted((g.units, g.floor) for g in cut.analysis.groups) == [(2, 0), (2, 0), (4, 1)]


def attention(packed: bool) -> onnx.ModelProto:
    nodes = [node("LayerNormalization", ["x", "s", "b"], ["n"])]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {
        "s": (24,),
        "b": (24,),
        "wo": (24, 24),
        "scale": np.float32(0.4),
    }
    if packed:
        weights |= {
            "wqkv": (24, 72),
            "bqkv": (72,),
            "shape": ints(0, -1, 3, 4, 6),
            "zero": ints(0),
            "parts": ints(1, 1, 1),
        }
        nodes += [
            node("MatMul", ["n", "wqkv"], ["p"]),
            node("Add", ["bqkv", "p"], ["pb"]),
            node("Reshape", ["pb", "shape"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
            node("Split", ["t", "parts"], ["q0", "k0", "v0"], axis=0),
            *(node("Squeeze", [f"{c}0", "zero"], [c]) for c in "qkv"),
        ]
    else:
        weights |= {f"w{c}": (24, 24) for c in "qkv"} | {f"shape{c}": ints(0, -1, 4, 6) for c in "qkv"}
        for c in "qkv":
            nodes += [
                node("MatMul", ["n", f"w{c}"], [f"{c}0"]),
                node("Reshape", [f"{c}0", f"shape{c}"], [f"{c}1"]),
                node("Transpose", [f"{c}1"], [c], perm=[0, 2, 1, 3]),
            ]
    weights["back"] = ints(0, -1, 24)
    nodes += [
        node("Mul", ["q", "scale"], ["qs"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["qs", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["probs"]),
        node("MatMul", ["probs", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["m1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["m1", "back"], ["m2"]),
        node("MatMul", ["m2", "wo"], ["o"]),
        node("Add", ["x", "o"], ["y"]),
    ]
    return build_model(nodes, {"x": (2, 5, 24)}, ["y"], weights)


def test_packed_attention_frees_query_key_and_value_widths(runtime: Runtime) -> None:
    cut = assert_exact(attention(packed=True), runtime)
    assert {(g.kind, g.units) for g in cut.analysis.groups} == {("head", 4), ("qk", 6), ("v", 6)}
    assert [block.name for block in cut.analysis.blocks] == ["y"]


def test_separate_attention_frees_query_key_and_value_widths(runtime: Runtime) -> None:
    cut = assert_exact(attention(packed=False), runtime)
    assert {(g.kind, g.units) for g in cut.analysis.groups} == {("head", 4), ("qk", 6), ("v", 6)}


def test_normalized_stream_is_locked_with_that_reason() -> None:
    nodes = [
        node("Gemm", ["x", "w1"], ["a"]),
        node("LayerNormalization", ["a", "s", "b"], ["n"], name="norm"),
        node("Gemm", ["n", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {"w1": (3, 8), "s": (8,), "b": (8,), "w2": (8, 2)})
    analysis = analysis_of(model)
    assert not analysis.groups
    assert reasons(analysis, "w1").startswith("it is a graph input") or "LayerNormalization norm" in str(
        analysis.locked
    )
    assert any(
        "statistics are taken over it (LayerNormalization norm)" in str(r) for e in analysis.locked for r in e.reasons
    )


def test_unknown_operator_freezes_what_it_touches_and_is_named() -> None:
    nodes = [
        node("Gemm", ["x", "w1"], ["a"]),
        node("RandomNormalLike", ["a"], ["b"], name="noise"),
        node("Gemm", ["b", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {"w1": (3, 8), "w2": (8, 2)})
    analysis = analysis_of(model)
    assert not analysis.groups
    assert any(
        "operator RandomNormalLike has no rule (RandomNormalLike noise)" in str(r)
        for e in analysis.locked
        for r in e.reasons
    )


def test_product_of_activations_behind_a_sigmoid_is_frozen() -> None:
    """A masked unit is sigmoid(0) = 0.5 there, so cutting it is no masking."""
    nodes = [
        node("MatMul", ["x", "wq"], ["q0"]),
        node("Sigmoid", ["q0"], ["q"]),
        node("MatMul", ["x", "wk"], ["k0"]),
        node("Sigmoid", ["k0"], ["k1"]),
        node("Transpose", ["k1"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 5, 3)}, ["y"], {"wq": (3, 8), "wk": (3, 8)})
    analysis = analysis_of(model)
    assert not analysis.groups
    assert "does not keep zero" in reasons(analysis, "wq")


def test_product_of_activations_behind_a_relu_is_free(runtime: Runtime) -> None:
    nodes = [
        node("MatMul", ["x", "wq"], ["q0"]),
        node("Relu", ["q0"], ["q"]),
        node("MatMul", ["x", "wk"], ["k0"]),
        node("Sigmoid", ["k0"], ["k1"]),
        node("Transpose", ["k1"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 5, 3)}, ["y"], {"wq": (3, 8), "wk": (3, 8)})
    cut = assert_exact(model, runtime)
    assert [(g.kind, g.units) for g in cut.analysis.groups] == [("qk", 8)]


def test_zero_on_one_axis_is_not_taken_for_one_on_the_other() -> None:
    """v is zero at a dropped unit, so kT v is on its last axis; the units that q sums over are on the other one."""
    nodes = [
        node("MatMul", ["x", "w"], ["v"]),
        node("Sigmoid", ["v"], ["q"]),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["k", "v"], ["context"]),
        node("MatMul", ["q", "context"], ["mixed"], name="sum"),
        node("MatMul", ["mixed", "wo"], ["y"]),
    ]
    analysis = analysis_of(build_model(nodes, {"x": (1, 5, 3)}, ["y"], {"w": (3, 8), "wo": (8, 2)}))
    assert not analysis.groups
    assert "does not keep zero (MatMul sum)" in reasons(analysis, "w")


def test_mean_over_channels_keeps_its_divisor(runtime: Runtime) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("ReduceMean", ["b", "axes"], ["y"])]
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], {"w": (8, 3, 1, 1), "axes": ints(1)})
    cut = assert_exact(model, runtime)
    assert units(cut.analysis) == {"w": 8}


def test_mean_of_what_is_not_zero_is_frozen() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Exp", ["a"], ["b"]), node("ReduceMean", ["b", "axes"], ["y"])]
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], {"w": (8, 3, 1, 1), "axes": ints(1)})
    assert "does not keep zero (ReduceMean" in reasons(analysis_of(model), "w")


def test_rms_normalization_keeps_its_divisor(runtime: Runtime) -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("RMSNormalization", ["a", "g"], ["b"], epsilon=0.1),
        node("MatMul", ["b", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 5, 3)}, ["y"], {"w1": (3, 16), "g": (16,), "w2": (16, 4)}, opset=23)
    cut = assert_exact(model, runtime)
    assert units(cut.analysis) == {"w1": 16}


@pytest.mark.parametrize("keys", [4, 2], ids=["one head each", "grouped queries"])
def test_attention_operator_has_heads_and_two_widths(keys: int, runtime: Runtime) -> None:
    nodes = [
        *(node("MatMul", ["x", f"w{c}"], [c]) for c in "qkv"),
        node("Attention", ["q", "k", "v"], ["a"], q_num_heads=4, kv_num_heads=keys),
        node("MatMul", ["a", "o"], ["y"]),
    ]
    weights = {"wq": (8, 24), "wk": (8, 6 * keys), "wv": (8, 6 * keys), "o": (24, 8)}
    cut = assert_exact(build_model(nodes, {"x": (2, 5, 8)}, ["y"], weights, opset=23), runtime)
    assert sorted((g.kind, g.units) for g in cut.analysis.groups if g.kind != "head") == [("qk", 6), ("v", 6)]
    heads = [g.units for g in cut.analysis.groups if g.kind == "head"]
    assert np.prod(heads) == 4


@pytest.mark.parametrize("scale", [{}, {"scale": 0.0}], ids=["no scale", "scale 0"])
@pytest.mark.parametrize("packed", [True, False])
def test_attention_of_onnxruntime(packed: bool, scale: dict[str, float], runtime: Runtime) -> None:
    """A scale of zero stands for the default, one over the root of a head's width."""
    if packed:
        nodes = [node("Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=4, **scale)]
        weights: dict[str, tuple[int, ...]] = {"w": (8, 72), "b": (72,), "o": (24, 8)}
    else:
        nodes = [node("MatMul", ["x", f"w{c}"], [c]) for c in "qkv"]
        inputs = ["q", "k", "v", "b"]
        nodes.append(node("MultiHeadAttention", inputs, ["a"], domain="com.microsoft", num_heads=4, **scale))
        weights = {"wq": (8, 24), "wk": (8, 24), "wv": (8, 24), "b": (72,), "o": (24, 8)}
    model = build_model([*nodes, node("MatMul", ["a", "o"], ["y"])], {"x": (2, 5, 8)}, ["y"], weights)
    cut = assert_exact(model, runtime)
    assert sorted((g.kind, g.units) for g in cut.analysis.groups) == [("head", 4), ("qk", 6), ("v", 6)]
    assert sum(node_macs(cut.analysis.network).values()) == 2 * 5 * 8 * 72 + 2 * (2 * 5 * 5 * 24) + 2 * 5 * 24 * 8


@pytest.mark.parametrize("keys", [4, 2, 1], ids=["one head each", "grouped queries", "one key head"])
@pytest.mark.parametrize("form", ["separate", "packed", "rotary, bias and sink"])
def test_grouped_queries_of_onnxruntime(form: str, keys: int, runtime: Runtime) -> None:
    """Whole key heads go with their queries, and the same queries of every key head; their width is the runtime's."""
    inputs = ["qkv", "", ""] if form == "packed" else ["q", "k", "v"]
    nodes = [node("MatMul", ["x", f"w{name}"], [name]) for name in inputs if name]
    inputs += ["", "", "lengths", "total"]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"wqkv": (8, 64 + 32 * keys), "o": (64, 8)}
    weights |= {"wq": (8, 64), "wk": (8, 16 * keys), "wv": (8, 16 * keys)}
    weights |= {"lengths": np.array([4, 4], np.int32), "total": np.array([5], np.int32)}
    marks = {"num_heads": 4, "kv_num_heads": keys}
    if form == "rotary, bias and sink":
        inputs += ["cos", "sin", "", "bias", "sink"]
        weights |= {"cos": (9, 8), "sin": (9, 8), "bias": (1, 4, 5, 5), "sink": (4,)}
        marks["do_rotary"] = 1
    nodes.append(node("GroupQueryAttention", inputs, ["a"], name="gqa", domain="com.microsoft", **marks))
    nodes.append(node("MatMul", ["a", "o"], ["y"]))
    read = {name for n in nodes for name in n.input}
    used = {name: weight for name, weight in weights.items() if name in read}
    model = build_model(nodes, {"x": (2, 5, 8)}, ["y"], used)
    for seed in range(3):
        cut = assert_exact(model, runtime, seed)
        heads = [(group.kind, group.units) for group in cut.analysis.groups]
        assert sorted(heads) == [("head", n) for n in sorted((keys, 4 // keys)) if n > 1]
    network = cut.analysis.network
    macs = next(node_macs(network)[n.index] for n in network.nodes if n.name == "gqa")
    assert macs == 2 * (2 * 4 * 5 * 5 * 16)


@pytest.mark.parametrize("flags", list(product((0, 1), repeat=4)), ids=lambda flags: "".join(map(str, flags)))
def test_product_of_transposed_factors(flags: tuple[int, ...], runtime: Runtime) -> None:
    """Swapping is done first, then the rows of what results go outermost: [a,b,i,k] becomes [k,a,b,i]."""
    swapped, outermost = flags[:2], flags[2:]

    def stored(axes: list[int], factor: int) -> list[int]:
        axes = [*axes[:2], axes[3], axes[2]] if swapped[factor] else axes
        return [axes[2], *axes[:2], axes[3]] if outermost[factor] else axes

    marks = {"transA": flags[0], "transB": flags[1], "transBatchA": flags[2], "transBatchB": flags[3]}
    nodes = [
        *(node("MatMul", ["x", "w1"], ["a"]), node("Reshape", ["a", "parts"], ["b"])),
        node("Transpose", ["b"], ["c"], perm=stored([1, 2, 0, 3], 0)),
        node("FusedMatMul", ["c", "w2"], ["d"], name="product", domain="com.microsoft", **marks),
        *(node("Transpose", ["d"], ["e"], perm=[2, 0, 1, 3]), node("Reshape", ["e", "flat"], ["f"])),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w1": (4, 48), "w3": (42, 4)}
    weights |= {"w2": tuple(stored([2, 3, 8, 7], 1)), "parts": ints(5, 2, 3, 8), "flat": ints(5, 42)}
    cut = assert_exact(build_model(nodes, {"x": (5, 4)}, ["y"], weights), runtime)
    assert sorted(group.units for group in cut.analysis.groups) == [2, 3, 7, 8]
    network = cut.analysis.network
    assert [node_macs(network)[n.index] for n in network.nodes if n.name == "product"] == [2 * 3 * 5 * 8 * 7]


def test_computed_reshape_follows_shape_and_literals(runtime: Runtime) -> None:
    """Shape -> Gather -> Concat with a literal: the literal is rewritten, the rest follows by itself."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Shape", ["a"], ["s"]),
        node("Gather", ["s", "first"], ["n"]),
        node("Concat", ["n", "rest"], ["shape"], axis=0),
        node("Reshape", ["a", "shape"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
        node("Softmax", ["t"], ["p"], axis=2),
        node("Transpose", ["p"], ["u"], perm=[0, 2, 1, 3]),
        node("Reshape", ["u", "back"], ["v"]),
        node("MatMul", ["v", "w2"], ["y"]),
    ]
    weights = {"w1": (6, 24), "first": ints(0), "rest": ints(5, 4, 6), "back": ints(0, 0, -1), "w2": (24, 2)}
    model = build_model(nodes, {"x": (2, 5, 6)}, ["y"], weights)
    cut = assert_exact(model, runtime)
    assert sorted(g.units for g in cut.analysis.groups) == [4, 6]


def test_shared_shape_constant_does_not_tie_layers(runtime: Runtime) -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Reshape", ["b", "flat"], ["c"]),
        node("MatMul", ["c", "w2"], ["d"]),
        node("Reshape", ["d", "shape"], ["e"]),
        node("Reshape", ["e", "flat"], ["f"]),
        node("MatMul", ["f", "w3"], ["y"]),
    ]
    weights = {"w1": (3, 8), "w2": (8, 8), "w3": (8, 2), "shape": ints(-1, 2, 4), "flat": ints(-1, 8)}
    cut = assert_exact(build_model(nodes, {"x": (5, 3)}, ["y"], weights), runtime)
    assert sorted(g.units for g in cut.analysis.groups) == [2, 2, 4, 4]


def test_bound_from_the_end_follows_where_only_its_part_shrinks(runtime: Runtime) -> None:
    """x[:, -4:] of ten: the literal -4 has to change although what it stands for, the first six, stays."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Slice", ["a", "start", "end", "axis"], ["b"]),
        node("Slice", ["a", "zero", "start", "axis"], ["c"]),
        node("Softmax", ["c"], ["d"]),
        node("MatMul", ["b", "w2"], ["e"]),
        node("MatMul", ["d", "w3"], ["f"]),
        node("Add", ["e", "f"], ["y"]),
    ]
    weights = {"w1": (3, 10), "w2": (4, 2), "w3": (6, 2), "start": ints(-4), "end": ints(2**63 - 1)}
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {**weights, "zero": ints(0), "axis": ints(1)})
    cut = assert_exact(model, runtime)
    assert units(cut.analysis) == {"w1": 4}


def test_unit_that_is_divided_by_a_weight_is_cut(runtime: Runtime) -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Div", ["b", "d"], ["c"]),
        node("MatMul", ["c", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (16, 3)}, ["y"], {"w1": (3, 8), "d": (8,), "w2": (8, 2)})
    assert units(assert_exact(model, runtime).analysis) == {"w1": 8}


def test_axis_that_a_squeeze_without_axes_could_drop_is_locked() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Squeeze", ["b"], ["c"], name="bare"),
        node("MatMul", ["c", "w2"], ["y"]),
    ]
    weights = {"w1": (3, 8), "shape": ints(5, 1, 8), "w2": (8, 2)}
    analysis = analysis_of(build_model(nodes, {"x": (5, 3)}, ["y"], weights))
    assert not analysis.groups
    assert "a Squeeze without axes would drop it at size one (Squeeze bare)" in reasons(analysis, "w1")


@pytest.mark.parametrize("pattern", ["w1", "s"])
def test_locks_match_groups_and_weights(pattern: str) -> None:
    analysis = analysis_of(conv_bn_chain(), locks=(pattern,))
    assert not analysis.groups
    assert f"locked by request ({pattern})" in reasons(analysis, "w1")


def test_locks_that_match_nothing_are_an_error() -> None:
    """A name with a slip in it would be cut."""
    with pytest.raises(OptionError, match=r"--lock layer\*: no group, weight or block"):
        analysis_of(conv_bn_chain(), locks=("s", "layer*"))


def test_tied_table_that_is_transposed_is_a_weight_not_an_activation() -> None:
    """A language model's head often is its embedding table, read through a Transpose."""
    nodes = [
        node("Gather", ["table", "x"], ["a"]),
        node("MatMul", ["a", "w"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "v"], ["d"]),
        node("Transpose", ["table"], ["head"]),
        node("MatMul", ["d", "head"], ["y"]),
    ]
    weights = {"table": (9, 8), "w": (8, 6), "v": (6, 8)}
    model = build_model(nodes, {"x": (2, 3)}, ["y"], weights)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert {(g.kind, g.units) for g in analysis_of(model).groups} == {("hidden", 8), ("hidden", 6)}


def test_convolution_that_is_applied_twice_has_channels(runtime: Runtime) -> None:
    """The bias is copied for its second use; the weight still is one source of the channels."""
    nodes = [
        *(node("Conv", [x, "w", "b"], [f"c{x}"]) for x in ("p", "q")),
        *(node("Conv", [f"c{x}", "v", "d"], [f"e{x}"]) for x in ("p", "q")),
        node("Sub", ["ep", "eq"], ["y"]),
    ]
    shapes = {"w": (8, 3, 1, 1), "b": (8,), "v": (2, 8, 1, 1), "d": (2,)}
    model = build_model(nodes, {"p": (1, 3, 4, 4), "q": (1, 3, 4, 4)}, ["y"], {**shapes})
    assert [(g.kind, g.units) for g in analysis_of(model).groups] == [("channel", 8)]
    assert_exact(model, runtime, 1)
