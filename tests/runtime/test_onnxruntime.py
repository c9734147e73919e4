"""Execution providers and plugins of onnxruntime: what is not there, or takes nothing, is never passed over."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.providers import find_provider, library_file
from onnx_mdp.runtime.registry import open_runtime, remedy

X = {"input": np.zeros((1, 3, 32, 32), np.float32)}


def opening(model: Path, name: str, *options: str) -> str:
    """The one line that opening ends with."""
    with pytest.raises((OptionError, RuntimeBackendError)) as caught:
        open_runtime(RuntimeSpec(name, 1, options)).open(str(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "CPUExecutionProvider"),
        ("cuda", "CUDAExecutionProvider"),
        ("CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("NvTensorRTRTX", "NvTensorRTRTXExecutionProvider"),
        ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider"),
        ("SomeVendor", "SomeVendor"),
    ],
)
def test_providers_are_found_by_short_and_full_names(name: str, expected: str) -> None:
    assert find_provider(name).name == expected


def test_a_provider_that_this_build_lacks_is_named_with_those_it_has(cnn: Path) -> None:
    error = opening(cnn, "onnxruntime:SomeVendorExecutionProvider")
    assert "has no SomeVendorExecutionProvider" in error
    assert "CPUExecutionProvider" in error
    assert "plugin=PACKAGE" in error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["fp16"], "write key=value"),
        (["=1"], "write key=value"),
        (["device_id=0", "device_id=1"], "device_id is already 0"),
        (["device_id=first"], "write a number"),
        (["io=disk"], "io=device or io=host"),
        (["use_tf32=0"], "CPU provider has no such option"),
        (["plugin=no-such-package"], "neither a file nor an installed package"),
        (["plugin=numpy"], "holds no onnxruntime_providers library"),
    ],
)
def test_options_are_checked(cnn: Path, options: list[str], expected: str) -> None:
    assert expected in opening(cnn, "onnxruntime", *options)


def test_options_with_a_dot_go_to_the_session(cnn: Path) -> None:
    session = open_runtime(RuntimeSpec(options=("session.disable_prepacking=1",))).open(str(cnn))
    assert session.run(X)[0].shape == (1, 10)
    assert "does not load" in opening(cnn, "onnxruntime", "session.load_model_format=ORT")


def test_a_file_that_is_no_plugin(cnn: Path, tmp_path: Path) -> None:
    path = tmp_path / "libonnxruntime_providers_junk.so"
    path.write_bytes(b"junk")
    assert "does not register libonnxruntime_providers_junk.so" in opening(cnn, "onnxruntime:junk", f"plugin={path}")


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason=remedy("onnxruntime:cuda")
)
def test_falling_back_to_the_cpu_is_an_error_with_the_reason(cnn: Path) -> None:
    """Without CUDA's libraries onnxruntime-gpu makes a session on the CPU and only logs why."""
    plain = onnxruntime.InferenceSession(str(cnn), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" in plain.get_providers():
        pytest.skip("CUDA works here")
    assert library_file(find_provider("cuda"))
    error = opening(cnn, "onnxruntime:cuda")
    assert "would run on the CPU" in error
    assert "libc" in error


def test_a_plugin_that_takes_no_node_is_an_error(cnn: Path) -> None:
    """Qualcomm's plugin loads on any machine and leaves float32 models to the CPU."""
    if find_spec("onnxruntime_qnn") is None:
        pytest.skip("pip install onnxruntime-qnn")
    error = opening(cnn, "onnxruntime", "plugin=onnxruntime_qnn", "backend_type=htp")
    assert "takes none of its 49 nodes" in error
    again = opening(cnn, "onnxruntime", "plugin=onnxruntime-qnn", "backend_type=htp")
    assert again == error


def test_a_plugin_without_its_device(cnn: Path) -> None:
    if find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("pip install onnxruntime-ep-openvino")
    spec = RuntimeSpec("onnxruntime", 1, ("plugin=onnxruntime_ep_openvino",))
    if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
        expected = open_runtime(RuntimeSpec()).open(str(cnn)).run(X)[0]
        assert np.allclose(open_runtime(spec).open(str(cnn)).run(X)[0], expected, rtol=1e-2, atol=1e-2)
        return
    with pytest.raises(RuntimeBackendError, match="finds no device it supports"):
        open_runtime(spec)


def test_nodes_that_a_provider_leaves_are_named(build: Callable[..., onnx.ModelProto]) -> None:
    if remedy("onnxruntime:openvino"):
        pytest.skip(remedy("onnxruntime:openvino"))
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Det", ["a"], ["y"])]
    model = build(nodes, {"x": (2, 3, 3)}, ["y"], {})
    session = open_runtime(RuntimeSpec("onnxruntime:openvino")).open(model.SerializeToString())
    assert session.note == "OpenVINOExecutionProvider leaves 1 of 2 nodes to CPUExecutionProvider: 1 Det"
    lone = build([helper.make_node("Det", ["x"], ["y"])], {"x": (2, 3, 3)}, ["y"], {})
    with pytest.raises(RuntimeBackendError, match="takes none of its 1 nodes"):
        open_runtime(RuntimeSpec("onnxruntime:openvino")).open(lone.SerializeToString())
