"""Every runtime, on the same rows: runs, agrees, times, names itself, and fails in our words.

A row is a runtime with its provider and options. It is skipped, with the remedy as the reason, only where a package or
device is missing; a runtime that is there and does not open is a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Runtime, RuntimeSpec
from onnx_mdp.runtime.nvidia import gpu_model
from onnx_mdp.runtime.providers import find_provider
from onnx_mdp.runtime.registry import open_runtime, prover, remedy, runtime_names, variants
from onnx_mdp.runtime.timing import alternate, interleaved
from onnx_mdp.verify.oracle import FP32_TOLERANCE, relative_error
from tests.conftest import MODELS


@dataclass(frozen=True)
class Row:
    """A runtime, and how far its float32 outputs may be from onnxruntime's on the CPU."""

    name: str
    options: tuple[str, ...] = ()
    tolerance: float = FP32_TOLERANCE
    nvidia: bool = False

    def __str__(self) -> str:
        return " ".join([self.name, *self.options])


ROWS = [
    Row("onnxruntime"),
    Row("onnxruntime:cpu", ("session.intra_op.allow_spinning=0",)),
    Row("onnxruntime:openvino"),
    Row("openvino"),
    Row("openvino:cpu", ("enable_cpu_pinning=true",)),
    Row("onnxruntime:cuda", ("use_tf32=0",), 1e-4, nvidia=True),
    Row("onnxruntime:cuda", ("io=host",), 1e-2, nvidia=True),
    Row("onnxruntime:tensorrt", (), 1e-2, nvidia=True),
    Row("onnxruntime:tensorrt-rtx", (), 1e-2, nvidia=True),
    Row("tensorrt", (), 1e-4, nvidia=True),
    Row("tensorrt", ("tf32=true",), 1e-2, nvidia=True),
    Row("tensorrt:rtx", (), 1e-4, nvidia=True),
]


def has_gpu() -> bool:
    try:
        return bool(gpu_model())
    except RuntimeBackendError:
        return False


def opened(row: Row, threads: int = 1) -> Runtime:
    missing = remedy(row.name)
    if missing:
        pytest.skip(f"{row.name} is not installed: {missing}")
    if row.nvidia and not has_gpu():
        pytest.skip(f"{row.name} needs an NVIDIA GPU and its driver")
    return open_runtime(RuntimeSpec(row.name, threads, row.options))


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


@pytest.fixture
def backend(row: Row) -> Runtime:
    return opened(row)


def test_runs_from_path_and_from_memory(row: Row, backend: Runtime, cnn: Path, calibration: Path) -> None:
    x = np.load(calibration)["input"][:3]
    from_path = backend.open(str(cnn)).run({"input": x})
    from_memory = backend.open(cnn.read_bytes()).run({"input": x}, ["logits"])
    assert from_path[0].shape == (3, 10)
    assert relative_error(from_path[0], from_memory[0]) <= row.tolerance
    plain = backend.open(cnn.read_bytes(), optimize=False).run({"input": x})
    assert relative_error(from_path[0], plain[0]) <= row.tolerance


@pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])
@pytest.mark.parametrize("threads", [1, 2])
def test_agrees_with_onnxruntime_on_the_cpu(row: Row, model: str, threads: int, calibration: Path) -> None:
    session = opened(row, threads).open(str(MODELS / model))
    reference = open_runtime(RuntimeSpec()).open(str(MODELS / model))
    images = np.load(calibration)["input"]
    answers = []
    for batch in (images[:1], images[1:2], images[2:6], images[6:7]):
        (expected,), (found,) = reference.run({"input": batch}), session.run({"input": batch})
        assert relative_error(expected, found) <= row.tolerance
        answers.append(found)
    assert relative_error(answers[0], answers[1]) > 100 * row.tolerance, "outputs that do not vary prove nothing"


@pytest.mark.parametrize("double", [False, True])
def test_number_types_are_kept_where_that_is_claimed(
    backend: Runtime, double: bool, build: Callable[..., onnx.ModelProto]
) -> None:
    """A sum that the next smaller type rounds to one."""
    if not (backend.keeps_precision and (backend.keeps_double or not double)):
        assert prover(backend, double=double).name == "onnxruntime"
        return
    kind, size = (np.float64, 2.0**-40) if double else (np.float32, 2.0**-18)
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, 2)}, ["y"], {"w": np.ones((2, 3), kind)})
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = TensorProto.DOUBLE if double else TensorProto.FLOAT
    (found,) = backend.open(model.SerializeToString()).run({"x": np.array([[1, size]], kind)})
    assert found.dtype == kind
    assert np.array_equal(found, np.full((1, 3), 1 + size, kind))


def test_a_model_is_loaded_when_open_returns(backend: Runtime, vit: Path, tmp_path: Path, calibration: Path) -> None:
    """Large models are opened from temporary files that are gone when they run."""
    model = onnx.load(str(vit))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="model.data")
    session = backend.open(str(path))
    path.unlink()
    (tmp_path / "model.data").unlink()
    x = np.load(calibration)["input"][:3]
    expected = open_runtime(RuntimeSpec()).open(str(vit)).run({"input": x})[0]
    assert relative_error(expected, session.run({"input": x})[0]) < 1e-2


def test_results_are_the_callers_to_keep(backend: Runtime, cnn: Path, calibration: Path) -> None:
    images = np.load(calibration)["input"]
    session = backend.open(str(cnn))
    first = session.run({"input": images[:1]})[0]
    kept = first.copy()
    session.run({"input": images[1:2]})
    assert np.array_equal(first, kept)


def test_times_bound_inputs(backend: Runtime, cnn: Path, calibration: Path) -> None:
    session = backend.open(str(cnn))
    session.bind({"input": np.load(calibration)["input"][:1]})
    (samples,) = interleaved([session], passes=3, seconds=0.01)
    assert len(samples) == 3
    assert all(wall > 0 and busy > 0 for wall, busy in samples)
    samples = alternate([session, session], seconds=0.05)
    assert len(samples[0]) == len(samples[1]) >= 12


def test_a_larger_batch_takes_longer(backend: Runtime, cnn: Path, calibration: Path) -> None:
    """What is timed is what was bound last."""
    images = np.load(calibration)["input"]
    small, large = backend.open(str(cnn)), backend.open(str(cnn))
    small.bind({"input": images[:1]})
    large.bind({"input": images[:1]})
    large.bind({"input": images[:64]})
    one, many = (np.median([wall for wall, _ in samples]) for samples in interleaved([small, large], 3, 0.02))
    assert many > 1.5 * one


def test_runs_between_ticks_are_not_disturbed(row: Row, backend: Runtime, cnn: Path, calibration: Path) -> None:
    images = np.load(calibration)["input"]
    session = backend.open(str(cnn))
    session.bind({"input": images[:2].copy()})
    expected = session.run({"input": images[2:4].copy()})[0]
    for _ in range(20):
        session.tick()
        assert relative_error(expected, session.run({"input": images[2:4].copy()})[0]) <= row.tolerance


def test_busy_clock_counts_all_work_and_no_more(backend: Runtime, cnn: Path, calibration: Path) -> None:
    if not backend.trusts_busy:
        pytest.skip(f"{backend.name} gives wall time only")
    session = backend.open(str(cnn))
    session.bind({"input": np.load(calibration)["input"][:8]})
    session.tick()
    wall, process, busy = time.perf_counter_ns(), time.process_time_ns(), session.busy_ns()
    for _ in range(30):
        session.tick()
    wall, process, busy = time.perf_counter_ns() - wall, time.process_time_ns() - process, session.busy_ns() - busy
    assert 0 < busy <= 1.02 * wall
    if backend.busy_clock == "CPU time":
        assert busy >= 0.95 * process, "some of the work is done by other threads"


def test_wall_time_alone_counts_at_two_threads(row: Row) -> None:
    backend = opened(row, 2)
    assert not backend.trusts_busy or backend.busy_clock == "GPU time"


def test_fingerprint_names_runtime_version_device_and_threads(row: Row, backend: Runtime) -> None:
    text = str(backend.fingerprint)
    assert backend.name in text
    assert backend.version() in text
    assert backend.device() in text
    assert "1 thread" in text
    assert all(option in text for option in row.options)
    assert str(opened(row, 2).fingerprint) != text
    assert "\n" not in text


def test_default_fingerprint_is_that_of_existing_tables() -> None:
    plain = open_runtime(RuntimeSpec())
    assert str(plain.fingerprint) == f"onnxruntime {plain.version()}, {plain.device()}, 1 thread"
    assert str(open_runtime(RuntimeSpec("onnxruntime:cpu")).fingerprint) == str(plain.fingerprint)


def test_bad_models_fail_in_our_words(backend: Runtime, cnn: Path, tmp_path: Path) -> None:
    model = onnx.load(str(cnn))
    model.graph.node[0].op_type = "NoSuchOperator"
    content = cnn.read_bytes()
    cases = [(b"no model", ""), (content[: len(content) // 2], ""), (model.SerializeToString(), "NoSuchOperator")]
    for bad, named in cases:
        with pytest.raises(RuntimeBackendError, match=f"does not load.*{named}") as caught:
            backend.open(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeBackendError, match="does not load"):
        backend.open(str(tmp_path / "missing.onnx"))


@pytest.mark.parametrize(
    "feeds",
    [
        {"input": np.zeros((1, 5, 5, 5), np.float32)},
        {"input": np.zeros((1, 3, 32, 32), np.int64)},
        {"unknown": np.zeros((1, 3, 32, 32), np.float32)},
        {},
    ],
    ids=["shape", "type", "name", "none"],
)
def test_bad_inputs_fail_in_our_words(backend: Runtime, cnn: Path, feeds: dict[str, np.ndarray]) -> None:
    session = backend.open(str(cnn))
    for use in (session.run, session.bind):
        with pytest.raises(RuntimeBackendError, match="does not run") as caught:
            use(feeds)
        assert "\n" not in str(caught.value)


def test_profile_names_kernels_by_the_tensors_of_the_model(backend: Runtime, cnn: Path, calibration: Path) -> None:
    feeds = {"input": np.load(calibration)["input"][:1]}
    if not backend.profiles:
        with pytest.raises(RuntimeBackendError, match="does not time single kernels"):
            backend.profile(cnn.read_bytes(), feeds, 5)
        return
    kernels = backend.profile(cnn.read_bytes(), feeds, 5)
    known = {name for node in onnx.load(str(cnn)).graph.node for name in (node.name, *node.input, *node.output)}
    named = [kernel for kernel in kernels if known.intersection((*kernel.outputs, *kernel.inputs))]
    assert sum(kernel.ms for kernel in named) > 0.9 * sum(kernel.ms for kernel in kernels) > 0
    assert sum("Conv" in kernel.op for kernel in kernels) == sum(
        n.op_type == "Conv" for n in onnx.load(str(cnn)).graph.node
    )


def test_profile_adds_up_to_a_run(backend: Runtime, vit: Path, calibration: Path) -> None:
    if not backend.profiles:
        pytest.skip(f"{backend.name} has no profile of single kernels")
    feeds = {"input": np.load(calibration)["input"][:1]}
    session = backend.open(str(vit))
    session.bind(feeds)
    ratios = []
    for _ in range(3):
        (samples,) = interleaved([session], 5, 0.02)
        wall = float(np.median([wall for wall, _ in samples])) / 1e6
        ratios.append(sum(kernel.ms for kernel in backend.profile(str(vit), feeds, 30)) / wall)
    assert 0.3 < np.median(ratios) < 3


def test_proofs_are_made_where_float32_is_exact(row: Row, backend: Runtime) -> None:
    proving = prover(backend)
    assert proving.keeps_precision
    assert (proving is backend) == backend.keeps_precision
    assert proving.threads == backend.threads
    assert backend.keeps_precision <= (row.tolerance <= FP32_TOLERANCE)


def test_unknown_runtime() -> None:
    for name in ("tpu", "", "openvino:tpu", "tensorrt:cuda"):
        with pytest.raises(OptionError, match="choose from"):
            open_runtime(RuntimeSpec(name))


@pytest.mark.parametrize("name", variants())
def test_what_is_missing_is_one_line_with_the_remedy(name: str, cnn: Path) -> None:
    missing = remedy(name)
    if not missing:
        pytest.skip(f"{name} is installed")
    with pytest.raises(RuntimeBackendError, match="pip install") as caught:
        open_runtime(RuntimeSpec(name))
    assert missing in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [row for row in ROWS if row.nvidia], ids=str)
def test_a_missing_gpu_is_one_line(row: Row, cnn: Path) -> None:
    if remedy(row.name):
        pytest.skip(f"{row.name} is not installed: {remedy(row.name)}")
    if has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeBackendError, match="no NVIDIA driver|not usable"):
        gpu_model()
    with pytest.raises(RuntimeBackendError) as caught:
        open_runtime(RuntimeSpec(row.name, 1, row.options)).open(str(cnn)).run({"input": np.zeros((1, 3, 32, 32), "f")})
    assert "\n" not in str(caught.value)


def test_every_runtime_has_a_row() -> None:
    rows = {row.name for row in ROWS}
    assert set(runtime_names()) <= rows
    accelerators = {name for name in variants() if name.startswith("onnxruntime:")}
    assert accelerators <= rows
    assert all(row.nvidia for row in ROWS if find_provider(RuntimeSpec(row.name).provider).gpu and ":" in row.name)
