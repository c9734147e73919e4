"""Integer models: quantized by onnxruntime's own tools, cut along their scales and zero points, exact as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of, build_model
from tests.cutting import assert_exact

pytestmark = pytest.mark.filterwarnings("default")  # of the quantizer


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """A few of the bundled calibration inputs."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            (name,) = arrays
            self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: arrays[name][i : i + 1]} for i in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantized(name: str, form: str, folder: Path) -> onnx.ModelProto:
    source, target = str(MODELS / f"{name}.onnx"), str(folder / "quantized.onnx")
    if form == "dynamic":
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
    else:
        layout = QuantFormat.QOperator if form == "operators" else QuantFormat.QDQ
        quantize_static(
            *(source, target, Calibration(MODELS / "digits_calibration.npz")),
            quant_format=layout,
            per_channel=form == "per channel",
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return onnx.load(target)


@pytest.mark.parametrize("form", ["per tensor", "per channel", "operators", "dynamic"])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_quantized_models_have_the_groups_of_their_origin(
    name: str, form: str, runtime: Runtime, tmp_path: Path
) -> None:
    model = quantized(name, form, tmp_path)
    cut = assert_exact(model, runtime, seed=3)
    wanted = analysis_of(MODELS / f"{name}.onnx")
    assert sorted((g.kind, g.units) for g in cut.analysis.groups) == sorted((g.kind, g.units) for g in wanted.groups)


def test_units_are_masked_with_their_own_zero_point(runtime: Runtime) -> None:
    """Zero points that differ by channel: a dropped channel holds its own, not zero."""
    rng = np.random.default_rng(0)
    nodes = [
        node("DequantizeLinear", ["w1", "s1", "z1"], ["f1"], axis=0),
        node("Conv", ["x", "f1"], ["a"]),
        node("DequantizeLinear", ["w2", "s2", "z2"], ["f2"], axis=0),
        node("Conv", ["a", "f2"], ["y"]),
    ]
    weights = {
        "w1": rng.integers(0, 255, (8, 3, 1, 1)).astype(np.uint8),
        "s1": np.linspace(0.01, 0.02, 8).astype(np.float32),
        "z1": rng.integers(100, 150, 8).astype(np.uint8),
        "w2": rng.integers(0, 255, (4, 8, 1, 1)).astype(np.uint8),
        "s2": np.full(4, 0.01, np.float32),
        "z2": rng.integers(100, 150, 4).astype(np.uint8),
    }
    cut = assert_exact(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights), runtime)
    (group,) = cut.analysis.groups
    assert group.members == (("w1", 0), ("s1", 0), ("w2", 1))
