"""Half, brain and double precision, integers and external data, from file to file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_mdp import pipeline
from onnx_mdp.cli.main import main
from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import ProofError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import load
from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import analyze
from onnx_mdp.rewrite.plan import plan_edits
from onnx_mdp.runtime.base import Array, Feeds, Runtime, RuntimeSpec, Session
from onnx_mdp.verify.oracle import prove
from tests.conftest import MODELS
from tests.cutting import random_plan
from tests.groups.test_codes import quantized


def in_half(path: Path) -> onnx.ModelProto:
    """The model in float16 throughout."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def halved(source: Path, target: Path) -> tuple[onnx.ModelProto, dict[str, float]]:
    """The model with every group cut to half, and its proof."""
    result = pipeline.prune(source, PruneOptions(ratio="50%", output=target, force=True, quiet=True))
    assert result.report.parameters["pruned"] < 0.5 * result.report.parameters["dense"]
    return onnx.load(str(target)), result.report.proof


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_half_precision_stays_half(name: str, tmp_path: Path) -> None:
    onnx.save(in_half(MODELS / f"{name}.onnx"), str(tmp_path / "half.onnx"))
    model, proof = halved(tmp_path / "half.onnx", tmp_path / "out.onnx")
    assert proof["max_relative_error"] <= proof["tolerance"] == 1e-2
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.filterwarnings("default")  # of the quantizer
def test_integer_model_stays_integer(tmp_path: Path) -> None:
    onnx.save(quantized("digits_cnn", "per channel", tmp_path), str(tmp_path / "int8.onnx"))
    model, proof = halved(tmp_path / "int8.onnx", tmp_path / "out.onnx")
    assert proof["max_relative_error"] <= proof["tolerance"] == 0.1
    assert {t.data_type for t in model.graph.initializer if len(t.dims) == 4} == {TensorProto.INT8}


def test_external_data_stays_external_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    model = onnx.load(str(MODELS / "digits_vit.onnx"))
    place = str(tmp_path / "in" / "m.onnx")
    onnx.save(model, place, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    monkeypatch.chdir(tmp_path / "elsewhere")
    halved(Path("../in/m.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size < 200_000 < (tmp_path / "out.onnx.data").stat().st_size


def mlp(computes: int, stores: int) -> onnx.ModelProto:
    """x + V relu(W x + b) in numbers of one type, with weights stored in another where that differs."""
    rng = np.random.default_rng(0)
    weights = {"up": (32, 160), "bias": (160,), "down": (160, 32)}
    stored = helper.tensor_dtype_to_np_dtype(stores)
    tensors = [numpy_helper.from_array((rng.normal(0, 0.2, s)).astype(stored), n) for n, s in weights.items()]
    read = {name: name if computes == stores else f"{name}/cast" for name in weights}
    nodes = [helper.make_node("Cast", [a], [b], to=computes) for a, b in read.items() if a != b]
    nodes += [
        helper.make_node("MatMul", ["x", read["up"]], ["wide"]),
        helper.make_node("Add", ["wide", read["bias"]], ["biased"]),
        helper.make_node("Relu", ["biased"], ["active"]),
        helper.make_node("MatMul", ["active", read["down"]], ["branch"]),
        helper.make_node("Add", ["x", "branch"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, computes, ["N", 32]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("computes", "stores", "tolerance"),
    [
        (TensorProto.DOUBLE, TensorProto.DOUBLE, 1e-12),
        (TensorProto.FLOAT, TensorProto.BFLOAT16, 1e-5),
        (TensorProto.DOUBLE, TensorProto.FLOAT, 1e-12),
    ],
    ids=["double", "bfloat16 weights", "float weights in double"],
)
def test_weights_keep_their_type_and_name(computes: int, stores: int, tolerance: float, tmp_path: Path) -> None:
    onnx.save(mlp(computes, stores), str(tmp_path / "in.onnx"))
    command = ["prune", tmp_path / "in.onnx", "--ratio", "50%", "-o", tmp_path / "out.onnx", "--force", "--quiet"]
    assert main([*map(str, command), "--report", str(tmp_path / "report.json")]) == 0
    model = onnx.load(str(tmp_path / "out.onnx"))
    assert {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer} == {
        "up": (stores, (32, 80)),
        "bias": (stores, (80,)),
        "down": (stores, (80, 32)),
    }
    proof = json.loads((tmp_path / "report.json").read_text())["proof"]
    assert proof["max_relative_error"] <= proof["tolerance"] == tolerance
    assert proof["varies"]


class Reference(Runtime):
    """ONNX's own evaluator, which computes in every type."""

    name: ClassVar[str] = "reference"

    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        return ReferenceSession(ReferenceEvaluator(onnx.load(model) if isinstance(model, str) else model))

    def version(self) -> str:
        return onnx.__version__


class ReferenceSession(Session):
    def __init__(self, evaluator: ReferenceEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        return list(self.evaluator.run(list(outputs) if outputs else None, dict(feeds)))

    def bind(self, feeds: Feeds) -> None:
        raise NotImplementedError

    def tick(self) -> None:
        raise NotImplementedError


def test_computing_in_bfloat16_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime 1.31 computes no MatMul, Gemm, Conv, Add, Mul, Relu, Softmax in bfloat16 on a CPU."""
    path = tmp_path / "bf16.onnx"
    onnx.save(mlp(TensorProto.BFLOAT16, TensorProto.BFLOAT16), str(path))
    assert main(["inspect", str(path)]) == 0
    capsys.readouterr()
    assert main(["prune", str(path), "--ratio", "50%", "-o", str(tmp_path / "out.onnx"), "--quiet"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no kernel for this operator on numbers of this type" in line
    assert "behind a Cast" in line
    assert not (tmp_path / "out.onnx").exists()


def backward(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1]


def next_number(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint16) + np.uint16(1)).view(values.dtype)


@pytest.mark.parametrize(
    ("change", "least", "proven"), [(None, 0, True), (next_number, 1e-5, True), (backward, 0, False)]
)
def test_computing_in_bfloat16_is_proven_where_it_runs(change: Any, least: float, proven: bool) -> None:
    """On ONNX's reference evaluator: the tolerance admits the type's rounding, and no wrong cut."""
    source, proto = load(mlp(TensorProto.BFLOAT16, TensorProto.BFLOAT16))
    normalize(proto, {})
    analysis = analyze(read_network(proto, {}))
    plan = random_plan(analysis, 3, blocks=False)
    pruned = rewrite(proto, plan_edits(analysis, plan))
    tensors = {t.name: t for t in pruned.graph.initializer}
    assert {t.data_type for t in tensors.values()} == {TensorProto.BFLOAT16}
    assert tensors["up"].dims[1] == tensors["down"].dims[0] < 160
    if change:
        values = change(np.array(numpy_helper.to_array(tensors["up"])))
        tensors["up"].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "up"))
    if not proven:
        with pytest.raises(ProofError, match="differs from the masked original"):
            prove(source, analysis, plan, pruned, Reference(RuntimeSpec()), [])
        return
    proof = prove(source, analysis, plan, pruned, Reference(RuntimeSpec()), [])
    assert least <= proof.max_relative_error <= proof.tolerance == 5e-2
    assert proof.varies
