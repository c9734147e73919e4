"""OpenVINO beyond the rows that every runtime passes: options, precision, shapes, integers, and a whole prune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_mdp
from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime, remedy
from onnx_mdp.verify.oracle import relative_error

pytestmark = pytest.mark.skipif(bool(remedy("openvino")), reason=remedy("openvino"))


def test_options_are_openvinos_properties(cnn: Path) -> None:
    with pytest.raises(OptionError, match="has no such property; it has .*inference_precision_hint"):
        open_runtime(RuntimeSpec("openvino", 1, ("precision=bf16",)))
    with pytest.raises(OptionError, match="--threads"):
        open_runtime(RuntimeSpec("openvino", 1, ("inference_num_threads=2",)))
    half = open_runtime(RuntimeSpec("openvino", 1, ("inference_precision_hint=bf16",)))
    assert not half.keeps_precision
    assert "inference_precision_hint=bf16" in str(half.fingerprint)


def test_a_device_that_is_not_there_is_one_line() -> None:
    import openvino

    missing = {"GPU", "NPU"} - set(openvino.Core().available_devices)
    if not missing:
        pytest.skip("this machine has them all")
    with pytest.raises(RuntimeBackendError, match="on this machine, only"):
        open_runtime(RuntimeSpec(f"openvino:{missing.pop().lower()}"))


def test_fixed_shapes_stay_fixed(build: Callable[..., onnx.ModelProto]) -> None:
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (2, 4)}, ["y"], {"w": (4, 3)})
    session = open_runtime(RuntimeSpec("openvino")).open(model.SerializeToString())
    assert session.run({"x": np.ones((2, 4), np.float32)})[0].shape == (2, 3)
    with pytest.raises(RuntimeBackendError, match="does not run"):
        session.run({"x": np.ones((3, 4), np.float32)})


def test_several_outputs_keep_their_order_and_names(build: Callable[..., onnx.ModelProto]) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])]
    nodes.append(helper.make_node("Add", ["a", "b"], ["c"]))
    model = build(nodes, {"x": ("n", 4)}, ["c", "a", "b"], {})
    feeds = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
    expected = open_runtime(RuntimeSpec()).open(model.SerializeToString()).run(feeds)
    session = open_runtime(RuntimeSpec("openvino")).open(model.SerializeToString())
    for left, right in zip(expected, session.run(feeds), strict=True):
        assert np.array_equal(left, right)
    assert np.array_equal(session.run(feeds, ["b"])[0], expected[2])


def quantized(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """Two convolutions whose inputs and weights are rounded to codes."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"s": np.float32(0.02), "z": np.uint8(128), "t": np.float32(0.2), "u": np.uint8(0)}
    weights |= {name: rng.integers(-127, 127, (16, 16, 3, 3)).astype(np.int8) for name in ("w1", "w2")}
    weights |= {"ws": np.float32(0.01), "wz": np.int8(0)}
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["w1", "ws", "wz"], ["w1d"]),
        node("Conv", ["xd", "w1d"], ["y"], pads=[1] * 4),
        node("Relu", ["y"], ["yr"]),
        node("QuantizeLinear", ["yr", "t", "u"], ["yq"]),
        node("DequantizeLinear", ["yq", "t", "u"], ["yd"]),
        node("DequantizeLinear", ["w2", "ws", "wz"], ["w2d"]),
        node("Conv", ["yd", "w2d"], ["out"], pads=[1] * 4),
    ]
    return build(nodes, {"x": (1, 16, 14, 14)}, ["out"], weights)


def test_integer_models_run_as_written_without_optimization(build: Callable[..., onnx.ModelProto]) -> None:
    content = quantized(build).SerializeToString()
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 16, 14, 14)).astype(np.float32)}
    expected = open_runtime(RuntimeSpec()).open(content, optimize=False).run(feeds)[0]
    runtime = open_runtime(RuntimeSpec("openvino"))
    assert relative_error(expected, runtime.open(content, optimize=False).run(feeds)[0]) < 1e-5
    kinds = {}
    for optimize in (True, False):
        graph = runtime.open(content, optimize=optimize).compiled(feeds).get_compiled_model().get_runtime_model()  # type: ignore[attr-defined]
        info = [node.get_rt_info() for node in graph.get_ordered_ops()]
        kinds[optimize] = {
            str(i["runtimePrecision"].astype(str)) for i in info if i["layerType"].astype(str) == "Convolution"
        }
    assert kinds == {True: {"u8"}, False: {"f32"}}


@pytest.mark.slow
def test_prune_end_to_end(vit: Path, calibration: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = onnx_mdp.prune(
        vit, latency="70%", inputs=calibration, runtime="openvino", output=output, lut=tmp_path / "lut.sqlite"
    )
    assert result.report.device.startswith("openvino ")
    assert result.report.latency.pruned_ms < 0.75 * result.report.latency.dense_ms
    images = np.load(calibration)["input"][:2]
    found = open_runtime(RuntimeSpec("openvino")).open(str(output)).run({"input": images})[0]
    expected = open_runtime(RuntimeSpec()).open(str(output)).run({"input": images})[0]
    assert relative_error(expected, found) < 1e-5
