"""Every runtime, on the same rows: runs, times, names itself, and fails in our words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.runtime.registry import is_available, open_runtime, runtime_names
from onnx_mdp.runtime.timing import alternate, interleaved

RUNTIMES = [name for name in runtime_names() if is_available(name)]


@pytest.fixture(params=RUNTIMES)
def backend(request: pytest.FixtureRequest) -> Runtime:
    return open_runtime(request.param, 1)


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
    (timing,) = interleaved([session.tick], passes=3, seconds=0.01)
    assert timing.cpu_ms > 0
    assert timing.count == 3
    assert timing.spread >= 0
    samples = alternate([session.tick, session.tick], seconds=0.05)
    assert len(samples[0]) == len(samples[1]) >= 12


def test_fingerprint_names_runtime_version_device_and_threads(backend: Runtime) -> None:
    text = str(backend.fingerprint)
    assert backend.name in text
    assert backend.version() in text
    assert "1 thread" in text
    assert str(open_runtime(backend.name, 2).fingerprint) != text


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
        open_runtime("tpu", 1)
