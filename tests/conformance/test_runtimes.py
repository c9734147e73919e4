"""Every runtime, on the same rows: runs, times, names itself, and fails in our words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import is_available, open_runtime, runtime_names
from onnx_mdp.runtime.timing import alternate, interleaved

RUNTIMES = [name for name in runtime_names() if is_available(name)]


@pytest.fixture(params=RUNTIMES)
def backend(request: pytest.FixtureRequest) -> Runtime:
    return open_runtime(RuntimeSpec(request.param))


def test_runs_from_path_and_from_memory(backend: Runtime, cnn: Path, calibration: Path) -> None:
    x = np.load(calibration)["input"][:3]
    from_path = backend.open(str(cnn)).run({"input": x})
    from_memory = backend.open(cnn.read_bytes()).run({"input": x}, ["logits"])
    assert from_path[0].shape == (3, 10)
    assert np.allclose(from_path[0], from_memory[0], atol=1e-5)
    plain = backend.open(cnn.read_bytes(), optimize=False).run({"input": x})
    assert np.allclose(from_path[0], plain[0], atol=1e-3)


def test_times_bound_inputs(backend: Runtime, cnn: Path, calibration: Path) -> None:
    session = backend.open(str(cnn))
    session.bind({"input": np.load(calibration)["input"][:1]})
    (samples,) = interleaved([session], passes=3, seconds=0.01)
    assert len(samples) == 3
    assert all(wall > 0 and busy > 0 for wall, busy in samples)
    samples = alternate([session, session], seconds=0.05)
    assert len(samples[0]) == len(samples[1]) >= 12


def test_fingerprint_names_runtime_version_device_and_threads(backend: Runtime) -> None:
    text = str(backend.fingerprint)
    assert backend.name in text
    assert backend.version() in text
    assert "1 thread" in text
    assert str(open_runtime(RuntimeSpec(backend.name, 2)).fingerprint) != text


def test_fails_in_our_words(backend: Runtime, cnn: Path) -> None:
    with pytest.raises(RuntimeBackendError, match="does not load"):
        backend.open(b"no model")
    with pytest.raises(RuntimeBackendError, match="does not run"):
        backend.open(str(cnn)).run({"input": np.zeros((1, 5, 5, 5), np.float32)})
    model = onnx.load(str(cnn))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(RuntimeBackendError, match="NoSuchOperator"):
        backend.open(model.SerializeToString())


def test_unknown_runtime() -> None:
    with pytest.raises(OptionError, match="choose from onnxruntime"):
        open_runtime(RuntimeSpec("tpu"))


def test_profile_names_kernels_by_the_tensors_of_the_model(backend: Runtime, cnn: Path, calibration: Path) -> None:
    if not backend.profiles:
        pytest.skip(f"{backend.name} has no profile of single kernels")
    feeds = {"input": np.load(calibration)["input"][:1]}
    kernels = backend.profile(cnn.read_bytes(), feeds, 5)
    known = {name for node in onnx.load(str(cnn)).graph.node for name in (node.name, *node.input, *node.output)}
    named = [kernel for kernel in kernels if known.intersection((*kernel.outputs, *kernel.inputs))]
    assert sum(kernel.ms for kernel in named) > 0.9 * sum(kernel.ms for kernel in kernels) > 0
    assert sum("Conv" in kernel.op for kernel in kernels) == sum(
        n.op_type == "Conv" for n in onnx.load(str(cnn)).graph.node
    )


@pytest.mark.parametrize("name", [name for name in RUNTIMES if not open_runtime(RuntimeSpec(name)).profiles])
def test_runtime_without_a_profile_says_so(name: str, cnn: Path) -> None:
    with pytest.raises(RuntimeBackendError, match="does not time single kernels"):
        open_runtime(RuntimeSpec(name)).profile(cnn.read_bytes(), {}, 1)
