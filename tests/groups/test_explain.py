"""Explanations say what a cut does: terms, units, the nodes that lock, and the integers that change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx.helper import make_node as node

from onnx_mdp.groups.couple import Freeze
from onnx_mdp.groups.explain import Explainer, GroupEntry, LockedEntry, TensorEntry
from onnx_mdp.groups.find import Analysis
from onnx_mdp.report.explanation import explanation
from onnx_mdp.rewrite.plan import Plan, plan_edits
from tests.conftest import analysis_of, build_model

QKV = ("layers.0.attn.qkv/head", "layers.0.attn.qkv/qk", "layers.0.attn.qkv/v")


def tensor(analysis: Analysis, name: str) -> TensorEntry:
    found = Explainer(analysis).explain("m", name).tensor
    assert found is not None
    return found


def group(analysis: Analysis, name: str) -> GroupEntry:
    found = Explainer(analysis).explain("m", name).group
    assert found is not None
    return found


def locked(analysis: Analysis, name: str) -> tuple[LockedEntry, ...]:
    return Explainer(analysis).explain("m", name).locked


def grouped_conv() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w1"], ["a"]),
        node("Conv", ["a", "wg"], ["b"], group=4, name="grouped"),
        node("Conv", ["b", "w2"], ["y"]),
    ]
    return build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], {"w1": (12, 3, 1, 1), "wg": (8, 3, 1, 1), "w2": (2, 8, 1, 1)})


def test_grouped_convolution_names_its_three_factors() -> None:
    analysis = analysis_of(grouped_conv())
    assert tensor(analysis, "a").tensor.axes == ("1", "(w1/group w1/channel)", "!4", "!4")
    found = group(analysis, "w1/group")
    assert [(m.initializer, m.axis, m.per_unit) for m in found.members] == [("w1", 0, 3), ("wg", 0, 2), ("w2", 1, 2)]
    (resize,) = found.resizes
    assert (resize.slot, resize.value, resize.term) == ("group of Conv grouped", 4, "w1/group")


def test_packed_qkv_is_three_parts_of_heads(vit: Path) -> None:
    analysis = analysis_of(vit)
    entry = tensor(analysis, "layers.0.attn.qkv.bias")
    query, value = f"({QKV[0]} {QKV[1]})", f"({QKV[0]} {QKV[2]})"
    assert entry.tensor.axes == (f"[{query} + {query} + {value}]",)
    assert [(f.group, f.units) for f in entry.factors] == [(QKV[0], 6), (QKV[1], 16), (QKV[2], 16)]
    head = group(analysis, QKV[0])
    assert [m.per_unit for m in head.members] == [48, 48, 16]
    assert head.block == "node_add_99"
    assert {resize.value: resize.term for resize in head.resizes} == {6: QKV[0], 96: value}


def test_members_and_integers_are_what_a_cut_changes(vit: Path, cnn: Path) -> None:
    """The explanation is held against the edits of a real cut of one unit."""
    for path in (vit, cnn):
        analysis = analysis_of(path)
        for chosen in analysis.groups[:4]:
            whole = {g.name: np.arange(g.units) for g in analysis.groups}
            edits = plan_edits(analysis, Plan({**whole, chosen.name: np.arange(1, chosen.units)}, ()))
            found = group(analysis, chosen.name)
            lost = {
                (name, axis): analysis.network.shapes[name][axis] - len(kept)
                for name, axes in edits.slices.items()
                for axis, kept in axes.items()
            }
            assert {(m.initializer, m.axis): m.per_unit for m in found.members} == lost
            changed = {f"{name}[{i}]" for name, values in edits.values.items() for i in values}
            assert {resize.slot.split(" of ")[0] for resize in found.resizes} == changed


def test_scales_that_change_with_a_group_are_named() -> None:
    """An RMS norm over fewer units needs another scale and epsilon."""
    nodes = [
        node("Gemm", ["x", "w1"], ["a"]),
        node("RMSNormalization", ["a", "scale"], ["b"], name="norm"),
        node("Gemm", ["b", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {"w1": (3, 8), "scale": (8,), "w2": (8, 2)}, opset=23)
    found = group(analysis_of(model), "w1").rescales
    assert [(r.target, r.term, r.power) for r in found] == [
        ("scale", "w1", -0.5),
        ("epsilon of RMSNormalization norm", "w1", -1),
    ]


def test_tensors_of_a_group_are_computed_ones_that_carry_it(cnn: Path) -> None:
    found = group(analysis_of(cnn), "stem")
    assert {"relu", "add_40", "add_76"} <= {t.name for t in found.tensors}
    assert all(t.axes and t.axes[1] == "stem" and t.shape == (1, 32, 32, 32) for t in found.tensors)


def test_locked_dimension_gives_every_node(vit: Path) -> None:
    stream, image = locked(analysis_of(vit), "patch")
    assert len(stream.reasons) == 11
    assert {reason.reason for reason in stream.reasons} == {"its statistics are taken over it"}
    assert stream.reasons[-1].node == "LayerNormalization node_layer_norm_10"
    assert image.reasons == (Freeze("it is a graph input", "input"),)
    assert [(m.initializer, m.axis) for m in image.members] == [("patch.weight", 1)]


def test_tensor_names_its_nodes_and_their_rules(cnn: Path) -> None:
    entry = tensor(analysis_of(cnn), "relu")
    assert entry.producer is not None
    assert (entry.producer.op, entry.producer.rule) == ("Relu", "x[a,b,c,d] -> y[a,b,c,d]; zero x")
    assert [reader.op for reader in entry.consumers] == ["Conv", "Add"]
    assert entry.role == "computed"
    assert not entry.is_output


def test_lock_by_request_shows_as_frozen(cnn: Path) -> None:
    analysis = analysis_of(cnn, locks=("stem",))
    entry = tensor(analysis, "relu")
    assert entry.tensor.axes == ("1", "!32", "!32", "!32")
    assert entry.factors[0].reasons == (Freeze("it is locked by request", "stem"),)
    assert Explainer(analysis).explain("m", "stem").group is None


def test_refused_operator_says_so_and_freezes() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"]),
        node("Mystery", ["a"], ["b"], name="mystery", domain="test"),
        node("Relu", ["b"], ["c"], name="after"),
        node("Relu", ["a"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 3)}, ["y"], {"w": (3, 8)})
    model.opset_import.append(onnx.helper.make_opsetid("test", 1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, (2, 8)))
    analysis = analysis_of(model)
    overview = Explainer(analysis).explain("m", None).nodes
    assert [(n.name, n.refusal) for n in overview[1:3]] == [
        ("mystery", "operator Mystery has no rule"),
        ("after", "a shape is known only when it runs: that of b"),
    ]
    assert overview[1].outputs[0].shape is None
    assert Freeze("operator Mystery has no rule", "Mystery mystery") in tensor(analysis, "w").factors[1].reasons


def test_axes_without_weights_are_no_group() -> None:
    """A ConstantOfShape's axis is free, but there is nothing to cut along it."""
    nodes = [node("ConstantOfShape", ["n"], ["zeros"]), node("Gemm", ["x", "w"], ["y"])]
    nodes.append(node("Slice", ["zeros", "start", "end"], ["first"]))
    ints = {name: np.array([value], np.int64) for name, value in (("n", 5000), ("start", 0), ("end", 4))}
    model = build_model(nodes, {"x": (2, 3)}, ["y", "first"], {"w": (3, 8), **ints})
    entry = tensor(analysis_of(model), "zeros")
    kept, factor = entry.factors
    assert kept.text == "!4"
    assert (factor.text, factor.group, factor.reasons) == ("4996", None, ())


def test_shared_vector_lists_its_copies() -> None:
    nodes = [
        node("Conv", ["x", "w1", "bias"], ["a"]),
        node("Conv", ["a", "w2", "bias"], ["b"]),
        node("Conv", ["b", "w3"], ["y"]),
    ]
    weights = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (2, 8, 1, 1), "bias": (8,)}
    analysis = analysis_of(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights))
    entry = tensor(analysis, "bias")
    assert len(entry.uses) == 2
    assert [tensor(analysis, use).tensor.axes for use in entry.uses] == [("w1",), ("w2",)]


def test_weight_that_is_stored_twice_says_so() -> None:
    table = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["x", "v"], ["b"]), node("Add", ["a", "b"], ["y"])]
    analysis = analysis_of(build_model(nodes, {"x": (3, 12)}, ["y"], {"w": table, "v": table.copy()}))
    assert tensor(analysis, "v").stored_as == ("w", "v")
    text = explanation(Explainer(analysis).explain("m", "w"))
    assert "one weight that is stored more than once, and is cut alike: w, v" in text


def test_every_node_of_the_models_is_explained(vit: Path, cnn: Path) -> None:
    for path in (vit, cnn):
        analysis = analysis_of(path)
        nodes = Explainer(analysis).explain("m", None).nodes
        assert [entry.name for entry in nodes] == [n.name for n in analysis.network.nodes]
        assert all(entry.rule and not entry.refusal for entry in nodes)
        named = " ".join(axis for entry in nodes for t in entry.outputs for axis in t.axes or ())
        assert all(g.name in named for g in analysis.groups)
