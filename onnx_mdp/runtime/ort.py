"""ONNX Runtime on the CPU. The only home of `onnxruntime`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import onnxruntime as ort

from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.runtime.base import Array, Feeds, Runtime, Session

ort.set_default_logger_severity(3)

_NO_KERNEL = (
    "; it has no kernel for this operator on numbers of this type here (on a CPU, most operators have none for "
    "bfloat16): compute in float32, the weights may stay as they are, each behind a Cast"
)


class OnnxRuntime(Runtime):
    """Sequential execution on `threads` threads with all graph optimizations."""

    name: ClassVar[str] = "onnxruntime"

    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Load a model; without `optimize` its graph runs as written."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _OrtSession(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
        except Exception as error:  # onnxruntime's exceptions share no public base
            remedy = _NO_KERNEL if "Could not find an implementation" in str(error) else ""
            raise RuntimeBackendError(f"onnxruntime does not load the model: {_first_line(error)}{remedy}") from error

    def version(self) -> str:
        """The installed onnxruntime's version."""
        return str(ort.__version__)


class _OrtSession(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._binding: Any = None

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        try:
            return list(self._session.run(list(outputs) if outputs else None, dict(feeds)))
        except Exception as error:
            raise RuntimeBackendError(f"onnxruntime does not run the model: {_first_line(error)}") from error

    def bind(self, feeds: Feeds) -> None:
        results = self.run(feeds)
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        for name, result in zip(self._outputs, results, strict=True):
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(result))
        self._binding = binding

    def tick(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
