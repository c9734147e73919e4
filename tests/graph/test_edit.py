"""Rewriting keeps all that it does not cut: names, types, attributes, metadata; and leaves nothing dead behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_mdp.graph.check import signature
from onnx_mdp.graph.edit import Edits, masked, rewrite
from onnx_mdp.graph.normalize import normalize
from tests.conftest import MODELS, build_model


def test_rewriting_without_edits_keeps_every_node_and_weight() -> None:
    model, normal = onnx.load(str(MODELS / "digits_cnn.onnx")), onnx.load(str(MODELS / "digits_cnn.onnx"))
    normalize(normal, {})
    same = rewrite(normal, Edits())
    nodes = {n.output[0]: n.SerializeToString(deterministic=True) for n in model.graph.node}
    assert {n.output[0]: n.SerializeToString(deterministic=True) for n in same.graph.node} == nodes
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in same.graph.initializer}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], value) for key, value in after.items())
    assert signature(same) == signature(model)


def test_metadata_opset_and_documentation_are_kept() -> None:
    model = build_model([helper.make_node("Gemm", ["x", "w"], ["y"], name="g")], {"x": (1, 4)}, ["y"], {"w": (4, 2)})
    helper.set_model_props(model, {"author": "someone", "classes": "a,b"})
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string, model.graph.doc_string = 7, "about", "graph"
    model.graph.node[0].doc_string = "a layer"
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    result = rewrite(model, Edits())
    assert {p.key: p.value for p in result.metadata_props} == {"author": "someone", "classes": "a,b"}
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(result, field) == getattr(model, field)
    assert result.graph.doc_string == "graph"
    assert result.graph.node[0].doc_string == "a layer"
    assert [(o.domain, o.version) for o in result.opset_import] == [("", 18), ("com.example", 3)]


def test_slices_values_attributes_and_bypasses() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], alpha=2.0),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["y"]),
    ]
    weights = {"w": (4, 6), "shape": np.array([1, 6], np.int64)}
    model = build_model(nodes, {"x": (1, 4)}, ["y"], weights)
    edits = Edits({"w": {1: np.array([0, 2, 5])}}, {"shape": {1: 3}}, {0: {"alpha": 3.0}}, {"c": "a"})
    result = rewrite(model, edits)
    values = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    original = numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(values["w"], original[:, [0, 2, 5]])
    assert values["shape"].tolist() == [1, 3]
    assert [n.op_type for n in result.graph.node] == ["Gemm", "Reshape"]
    assert helper.get_attribute_value(result.graph.node[0].attribute[0]) == 3.0
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (4, 6), "the input model must not change"


def test_bypassed_output_of_the_graph_keeps_its_name() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 4)}, ["y"], {})
    result = rewrite(model, Edits(bypasses={"y": "a"}))
    assert [n.op_type for n in result.graph.node] == ["Relu", "Identity"]
    assert result.graph.node[1].output[0] == "y"


def test_copies_that_stay_equal_are_merged_again() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "b"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 8)}, ["y"], {"b": (8,)})
    normalize(model, {})
    assert len(model.graph.initializer) == 3
    assert [t.name for t in rewrite(model, Edits()).graph.initializer] == ["b"]
    first, second = np.arange(4), np.arange(4, 8)
    cut = rewrite(model, Edits({"b": {0: first}, "b::use1": {0: second}, "b::use2": {0: second}}))
    assert len(cut.graph.initializer) == 2


def test_tables_of_the_same_bytes_in_other_shapes_are_not_merged() -> None:
    nodes = [helper.make_node("Add", ["x", "t"], ["a"]), helper.make_node("Add", ["z", "t"], ["b"])]
    table = np.zeros((4, 6), np.float32)  # 2 x 6 and 4 x 3 zeros are the same bytes
    model = build_model(nodes, {"x": (4, 6), "z": (4, 6)}, ["a", "b"], {"t": table})
    normalize(model, {})
    cut = rewrite(model, Edits({"t": {0: np.arange(2)}, "t::use1": {1: np.arange(3)}}))
    assert sorted(tuple(t.dims) for t in cut.graph.initializer) == [(2, 6), (4, 3)]


def test_mask_zeroes_dropped_positions_only() -> None:
    model = build_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 4)}, ["y"], {"w": (4, 6)})
    result = numpy_helper.to_array(
        masked(model, {"w": {0: np.array([1, 2]), 1: np.array([0, 5])}}, [], {}).graph.initializer[0]
    )
    original = numpy_helper.to_array(model.graph.initializer[0])
    expected = np.zeros_like(original)
    expected[np.ix_([1, 2], [0, 5])] = original[np.ix_([1, 2], [0, 5])]
    assert np.array_equal(result, expected)


def test_float16_weights_stay_float16() -> None:
    weights = {"w": np.arange(24, dtype=np.float16).reshape(4, 6)}
    model = build_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 4)}, ["y"], weights)
    result = rewrite(model, Edits({"w": {1: np.array([1, 3])}})).graph.initializer[0]
    assert result.data_type == onnx.TensorProto.FLOAT16
    assert numpy_helper.to_array(result).shape == (4, 2)


def test_saved_external_data_is_read_back(tmp_path: Path) -> None:
    from onnx_mdp.graph.load import load
    from onnx_mdp.graph.save import save_model

    model = build_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 64)}, ["y"], {"w": (64, 32)})
    path = tmp_path / "out.onnx"
    save_model(model, path, external=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    _, back = load(path)
    assert np.array_equal(
        numpy_helper.to_array(back.graph.initializer[0]), numpy_helper.to_array(model.graph.initializer[0])
    )
