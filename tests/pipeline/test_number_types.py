"""Half precision, integers and external data, from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnx_mdp import pipeline
from onnx_mdp.config import PruneOptions
from tests.conftest import MODELS
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
