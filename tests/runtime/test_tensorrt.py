"""TensorRT without a GPU: TensorRT for RTX parses and builds there, and both check their options.

The rows that need a GPU are in the conformance suite.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime, remedy

NAMES = ("tensorrt", "tensorrt:rtx")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found = str(request.param)
    if remedy(found):
        pytest.skip(f"{found} is not installed: {remedy(found)}")
    return found


def rtx() -> Runtime:
    if remedy("tensorrt:rtx"):
        pytest.skip(f"tensorrt:rtx is not installed: {remedy('tensorrt:rtx')}")
    return open_runtime(RuntimeSpec("tensorrt:rtx"))


@pytest.fixture(autouse=True)
def untouched_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polygraphy is told which of the two to load through the environment."""
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("fp16=yes", "write fp16=true or fp16=false"),
        ("precision=fp16", "has fp16, bf16, int8, tf32"),
        ("optimization_level=9", "from 0 to 5"),
        ("device_id=-1", "write a number"),
    ],
)
def test_options_are_checked(name: str, option: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        open_runtime(RuntimeSpec(name, 1, (option,)))


@pytest.mark.parametrize("key", ["fp16", "bf16", "int8"])
def test_versions_without_switches_for_number_types_say_so(key: str) -> None:
    rtx()
    with pytest.raises(OptionError, match=f"{key}=true.*the model's own number types.*tensorrt<11"):
        open_runtime(RuntimeSpec("tensorrt:rtx", 1, (f"{key}=true",)))
    assert open_runtime(RuntimeSpec("tensorrt:rtx", 1, (f"{key}=false",))).version()


def test_engines_are_built_for_the_asked_shapes(cnn: Path) -> None:
    runtime = open_runtime(RuntimeSpec("tensorrt:rtx", 1, ("tf32=true",))) if rtx() else None
    assert runtime
    sizes = [runtime.open(str(cnn)).build({"input": (batch, 3, 32, 32)}).nbytes for batch in (1, 64)]  # type: ignore[attr-defined]
    assert min(sizes) > cnn.stat().st_size, "an engine holds the weights"
    with pytest.raises(RuntimeBackendError, match="does not run the model"):
        runtime.open(cnn.read_bytes()).build({"input": (1, 4, 32, 32)})  # type: ignore[attr-defined]


def test_rtx_has_no_timing_cache() -> None:
    assert rtx().timing_cache() is None  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="timing_cache: tensorrt:rtx has fp16"):
        open_runtime(RuntimeSpec("tensorrt:rtx", 1, ("timing_cache=file",)))


def test_bad_models_fail_in_our_words(cnn: Path) -> None:
    runtime = rtx()
    with pytest.raises(RuntimeBackendError, match="does not load the model: .*parse"):
        runtime.open(b"no model")
    model = onnx.load(str(cnn))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(RuntimeBackendError, match="does not load the model: NoSuchOperator node_Conv_351"):
        runtime.open(model.SerializeToString())
