"""Reading models: what is no model, cut short, or lacks its data is said in one line with the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_mdp import pipeline
from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import DynamicShapeError, ExternalDataError, ModelError, NotOnnxError, OptionError
from onnx_mdp.graph.load import load
from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from tests.conftest import build_model


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotOnnxError, match="no such file"):
        load(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"", b"hello, this is no model", b"\x00" * 64], ids=["empty", "text", "zeros"])
def test_not_an_onnx_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(NotOnnxError, match=r"not an ONNX model"):
        load(path)


def test_truncated_file(tmp_path: Path, cnn: Path) -> None:
    data = cnn.read_bytes()
    path = tmp_path / "short.onnx"
    for part in (0.3, 0.7, 0.99):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ModelError):
            load(path)


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external"])
@pytest.mark.parametrize(("op", "opset"), [("LayerNormalization", 13), ("SimplifiedLayerNormalization", 17)])
def test_operators_that_onnxruntime_writes_into_the_standard_domain(
    op: str, opset: int, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its optimizer does; ONNX has no such operators, or only in later opsets."""
    nodes = [helper.make_node("MatMul", ["x", "up"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes += [helper.make_node("MatMul", ["b", "down"], ["c"]), helper.make_node(op, ["c", "scale"], ["y"], axis=-1)]
    weights = {"up": (16, 64), "down": (64, 16), "scale": (16,)}
    model = build_model(nodes, {"x": (1, 5, 16)}, ["y"], weights, opset=opset)
    if op == "LayerNormalization":
        model.graph.node[-1].input.append("scale")  # the bias, which it cannot do without
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5, 16)))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    result = pipeline.prune(path, PruneOptions(ratio="50%", output=tmp_path / "out.onnx", force=True, quiet=True))
    assert (result.model.graph.node[-1].op_type, result.model.graph.node[-1].domain) == (op, "")
    assert result.report.parameters["pruned"] < 0.52 * result.report.parameters["dense"]
    assert result.report.proof["varies"]


def test_unknown_operators_of_the_standard_domain_are_not_valid(tmp_path: Path) -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "s", "s"], ["a"]), helper.make_node("Gelu", ["a"], ["y"])]
    model = build_model(nodes, {"x": (1, 8)}, ["y"], {"s": (8,)}, opset=13)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8)))
    with pytest.raises(ModelError, match="not valid ONNX: No Op registered for Gelu"):
        load(model)


def external_model(folder: Path) -> Path:
    model = build_model(
        [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Gemm", ["a", "v"], ["y"])],
        {"x": (1, 64)},
        ["y"],
        {"w": (64, 32), "v": (32, 8)},
    )
    path = folder / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_found_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external_model(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    source, proto = load(path)
    assert source.external
    assert numpy_helper.to_array(proto.graph.initializer[0]).shape == (64, 32)


def test_missing_external_data(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExternalDataError, match=r"weights\.bin"):
        load(path)


def test_truncated_external_data(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError):
        load(path)


def test_invalid_model_is_refused() -> None:
    model = build_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 4)}, ["y"], {"w": (4, 2)})
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ModelError, match="not valid ONNX"):
        load(model)


def network_inputs(shape: tuple[int | str, ...], asked: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    model = build_model([helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, ["y"], {})
    return dict(read_network(model, asked).inputs)


def test_symbolic_batch_becomes_one() -> None:
    assert network_inputs(("N", 3, 8, 8), {}) == {"x": (1, 3, 8, 8)}


def test_other_symbolic_sizes_are_asked_for() -> None:
    with pytest.raises(DynamicShapeError, match="--shape x:1x3x224x224"):
        network_inputs(("N", 3, "H", "W"), {})
    assert network_inputs(("N", 3, "H", "W"), {"x": (1, 3, 16, 16)}) == {"x": (1, 3, 16, 16)}


def test_shape_must_fit_and_name_an_input() -> None:
    with pytest.raises(OptionError, match="contradicts"):
        network_inputs(("N", 3, 8, 8), {"x": (1, 4, 8, 8)})
    with pytest.raises(OptionError, match="names no input"):
        network_inputs(("N", 3, 8, 8), {"z": (1, 3, 8, 8)})


def test_normal_form_turns_constants_into_initializers_and_unties_vectors() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(3))),
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Mul", ["a", "c"], ["b"]),
        helper.make_node("Mul", ["b", "k"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 2)}, ["y"], {})
    normalize(model, {})
    assert [n.op_type for n in model.graph.node] == ["Add", "Mul", "Mul"]
    assert sorted(t.name for t in model.graph.initializer) == ["c", "c::use1", "k"]
    onnx.checker.check_model(model)


def test_copies_take_no_name_that_is_there_already() -> None:
    """A model that was pruned before may hold copies from then."""
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Gemm", ["c", "w", "b::use1"], ["y"]),
    ]
    model = build_model(nodes, {"x": (1, 4)}, ["y"], {"b": (4,), "w": (4, 2), "b::use1": (2,)})
    normalize(model, {})
    assert sorted(t.name for t in model.graph.initializer) == ["b", "b::use1", "b::use2", "w"]
    assert [n.input[1] for n in model.graph.node] == ["b", "b::use2", "w"]


def test_weights_listed_as_inputs_are_weights() -> None:
    model = build_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 4)}, ["y"], {"w": (4, 2)})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (4, 2)))
    source, proto = load(model)
    normalize(proto, {})
    assert [value.name for value in proto.graph.input] == ["x"]
    assert [name for name, _, _ in source.signature[0]] == ["x"]
