"""ONNX Runtime on the CPU. The only home of `onnxruntime`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as ort

from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.graph.kernels import Named, name_nodes
from onnx_mdp.graph.temporary import temporary_folder
from onnx_mdp.runtime.base import Array, Feeds, Kernel, Runtime, Session

ort.set_default_logger_severity(3)

_NO_KERNEL = (
    "; it has no kernel for this operator on numbers of this type here (on a CPU, most operators have none for "
    "bfloat16): compute in float32, the weights may stay as they are, each behind a Cast"
)


class OnnxRuntime(Runtime):
    """Sequential execution on `threads` threads with all graph optimizations."""

    name: ClassVar[str] = "onnxruntime"
    profiles: ClassVar[bool] = True

    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Load a model; without `optimize` its graph runs as written."""
        return _OrtSession(self._load(model, self._options(optimize=optimize)))

    def version(self) -> str:
        """The installed onnxruntime's version."""
        return str(ort.__version__)

    def profile(self, model: str | bytes, feeds: Feeds, runs: int) -> list[Kernel]:
        """The kernels of the optimized graph, timed by onnxruntime's profiler.

        The profiler's events have no usable names: several kernels share one, others have none. So the optimized
        graph is written to a file, its nodes are named, and that graph is what runs under the profiler.
        """
        with temporary_folder() as folder:
            named, nodes = name_nodes(self._optimized(model, folder))
            options = self._options(optimize=False)
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            session = self._load(named, options)
            running = _OrtSession(session)
            for _ in range(runs + 1):
                running.run(feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
        return _kernels(events, nodes)

    def _optimized(self, model: str | bytes, folder: Path) -> bytes:
        """The graph as it is executed, layout changes included."""
        options = self._options(optimize=True)
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        self._load(model, options)
        return (folder / "optimized.onnx").read_bytes()

    def _options(self, *, optimize: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def _load(self, model: str | bytes, options: Any) -> Any:
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base
            remedy = _NO_KERNEL if "Could not find an implementation" in str(error) else ""
            raise RuntimeBackendError(f"onnxruntime does not load the model: {_first_line(error)}{remedy}") from error


def _kernels(events: Sequence[dict[str, Any]], nodes: Named) -> list[Kernel]:
    """Median time of every node over the runs but the first, in order of first execution."""
    times: dict[str, list[float]] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event["cat"] == "Node" and name in nodes:
            times.setdefault(name, []).append(event["dur"] / 1e3)
    return [
        Kernel(nodes[name][0], nodes[name][2], nodes[name][1], statistics.median(found[1:] or found))
        for name, found in times.items()
    ]


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
