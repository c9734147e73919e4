"""OpenVINO, natively. The only home of `openvino`.

Options of the specification are OpenVINO's properties, in any case: `inference_precision_hint=bf16`,
`enable_cpu_pinning=yes`. Float32 is computed in float32 unless that one says otherwise, since many processors would
round to bfloat16, whose error hides what a proof is after.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import openvino

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Array, Feeds, Kernel, Runtime, RuntimeSpec, Session
from onnx_mdp.runtime.shaped import ShapedSession, Shapes

_BATCHES = 3  # of profiled runs, each on a model compiled anew
_WARM = 3  # runs of each that do not count: the first packs weights, the next find caches cold


class OpenVino(Runtime):
    """One stream on `threads` threads, for latency.

    At one thread OpenVINO infers on the calling thread, whose CPU time equals that of the process, so that it is the
    latency. Threads are not pinned: OpenVINO pins to the first processors, and two processes to the same ones.
    """

    profiles = True
    keeps_double = False

    def __init__(self, spec: RuntimeSpec) -> None:
        super().__init__(spec)
        kind = (spec.provider or "cpu").upper()
        self.name = "openvino" if kind == "CPU" else f"openvino:{kind.lower()}"
        self._kind = kind
        self._core = openvino.Core()
        if not any(device.split(".")[0] == kind for device in self._core.available_devices):
            found = ", ".join(self._core.available_devices)
            raise RuntimeBackendError(f"OpenVINO finds no {kind} on this machine, only {found}; use --runtime openvino")
        self._properties = self._checked(spec.settings())
        self.keeps_precision = self._properties.get("INFERENCE_PRECISION_HINT") == "f32" and kind == "CPU"

    @property
    def trusts_busy(self) -> bool:
        """At one thread of the processor."""
        return self.threads == 1 and self._kind == "CPU"

    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Load a model; it is compiled for the shapes it is run with.

        OpenVINO has no switch for its fusions. Without `optimize` its low precision transformations are off: integers
        are dequantized where the model says so, and computed with in float32.
        """
        return _OpenVinoSession(self._read(model), lambda at: self._compile(at, optimize=optimize))

    def version(self) -> str:
        """The installed OpenVINO's version."""
        return str(openvino.__version__).split("-")[0]

    def device(self) -> str:
        """The processor, or OpenVINO's name of another device."""
        return super().device() if self._kind == "CPU" else str(self._core.get_property(self._kind, "FULL_DEVICE_NAME"))

    def profile(self, model: str | bytes, feeds: Feeds, runs: int) -> list[Kernel]:
        """The nodes of the compiled model, by its performance counters.

        A counter is the mean over all runs since the model was compiled, and the first of them also packs weights. So
        each is read twice, after a few runs and at the end, and the median is over models compiled anew.
        """
        session = _OpenVinoSession(self._read(model), lambda at: self._compile(at, optimize=True, PERF_COUNT=True))
        shapes = {name: value.shape for name, value in feeds.items()}
        requests = [session.compile(shapes) for _ in range(_BATCHES)]
        counted = [_counted(request, feeds, max(1, -(-runs // _BATCHES))) for request in requests]
        # Names that OpenVINO makes up differ from one compilation to the next, the order of nodes does not.
        medians = [statistics.median(times) for times in zip(*(each.values() for each in counted), strict=True)]
        return _kernels(session.model, requests[-1], dict(zip(counted[-1], medians, strict=True)))

    def _checked(self, settings: dict[str, str]) -> dict[str, Any]:
        known = self._core.get_property(self._kind, "SUPPORTED_PROPERTIES")
        mine = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        given = {key.upper(): value for key, value in settings.items()}
        if "INFERENCE_NUM_THREADS" in given:
            raise OptionError("--runtime-option inference_num_threads: give the threads as --threads")
        for key, name in zip(given, settings, strict=True):
            if known.get(key) != "RW":
                raise OptionError(
                    f"--runtime-option {name}: OpenVINO's {self._kind} has no such property; it has "
                    f"{', '.join(sorted(name.lower() for name, access in known.items() if access == 'RW'))}"
                )
        return {key: value for key, value in mine.items() if key in known} | given

    def _read(self, model: str | bytes) -> Any:
        try:
            return self._core.read_model(model if isinstance(model, str) else io.BytesIO(model))
        except Exception as error:
            raise RuntimeBackendError(f"OpenVINO does not load the model: {_reason(error)}") from error

    def _compile(self, model: Any, *, optimize: bool, **more: Any) -> Any:
        plain = {"LP_TRANSFORMS_MODE": False} if self._kind == "CPU" and not optimize else {}
        return self._core.compile_model(model, self._kind, self._properties | plain | more)


class _OpenVinoSession(ShapedSession[Any]):
    """What is kept for each set of shapes is an infer request."""

    def __init__(self, model: Any, compile_model: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model = model
        self._compile_model = compile_model
        self._outputs = [_name(output) for output in model.outputs]
        self._bound: Any = None
        if not any(port.get_partial_shape().is_dynamic for port in model.inputs):
            self.at({_name(port): tuple(port.get_shape()) for port in model.inputs})

    def compile(self, shapes: Shapes) -> Any:
        """An infer request of the model compiled for the shapes of its dynamic inputs."""
        dynamic = [port for port in self.model.inputs if port.get_partial_shape().is_dynamic]
        try:
            model = self.model.clone()
            if dynamic:
                model.reshape({name: list(shapes[name]) for name in map(_name, dynamic) if name in shapes})
            return self._compile_model(model).create_infer_request()
        except Exception as error:
            done = "run" if dynamic else "load"
            raise RuntimeBackendError(f"OpenVINO does not {done} the model: {_reason(error)}") from error

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        try:
            self._check(feeds)
            request = self.compiled(feeds)
            request.infer(dict(feeds), share_inputs=True, share_outputs=True)
            return [request.get_tensor(name).data.copy() for name in outputs or self._outputs]
        except RuntimeBackendError:
            raise
        except Exception as error:
            raise RuntimeBackendError(f"OpenVINO does not run the model: {_reason(error)}") from error

    def bind(self, feeds: Feeds) -> None:
        self.run(feeds)
        # A request of its own, since runs in between set the inputs of the other to arrays that may be gone by then.
        self._bound = self.compiled(feeds).get_compiled_model().create_infer_request()
        for name, value in feeds.items():
            self._bound.set_tensor(name, openvino.Tensor(value))

    def tick(self) -> None:
        self._bound.infer(share_outputs=True)

    def _check(self, feeds: Feeds) -> None:
        """OpenVINO itself would convert another number type, and leave an input that is not given as it was."""
        types = {_name(port): port.get_element_type() for port in self.model.inputs}
        if types.keys() != feeds.keys():
            raise ValueError(f"inputs are {', '.join(types)}, not {', '.join(feeds) or 'none'}")
        for name, value in feeds.items():
            if openvino.Type(value.dtype) != types[name]:
                raise ValueError(f"input {name} is {types[name].get_type_name()}, not {value.dtype}")


def _name(port: Any) -> str:
    return str(port.get_any_name())


def _counted(request: Any, feeds: Feeds, runs: int) -> dict[str, float]:
    """Milliseconds of each node, as a mean over all runs but the first few; zero for what is never executed."""
    for _ in range(_WARM):
        request.infer(dict(feeds))
    warm = {node.node_name: node.real_time * _WARM for node in request.get_profiling_info()}
    for _ in range(runs):
        request.infer(dict(feeds))
    return {
        node.node_name: max(0.0, (node.real_time * (_WARM + runs) - warm[node.node_name]).total_seconds() * 1e3 / runs)
        for node in request.get_profiling_info()
    }


def _kernels(model: Any, request: Any, times: Mapping[str, float]) -> list[Kernel]:
    """Kernels with the names of the ONNX nodes that were fused into them, and of the tensors those compute."""
    tensors = {
        node.get_friendly_name(): tuple(sorted(name for port in node.outputs() for name in port.get_names()))
        for node in model.get_ordered_ops()
    }
    nodes = request.get_compiled_model().get_runtime_model().get_ordered_ops()
    made = {node.get_friendly_name(): _originals(node) for node in nodes}
    named = {name: tuple(tensor for o in (*made[name], name) for tensor in tensors.get(o, ())) for name in made}
    kernels = []
    for node in nodes:
        name = node.get_friendly_name()
        if times.get(name):
            reads = [port.get_node().get_friendly_name() for port in node.input_values()]
            inputs = dict.fromkeys(tensor for read in reads for tensor in named.get(read, ()))
            kind = str(node.get_rt_info()["layerType"].astype(str))
            outputs = dict.fromkeys((*named[name], *made[name], name))
            kernels.append(Kernel(kind, tuple(outputs), tuple(inputs), times[name]))
    return kernels


def _originals(node: Any) -> tuple[str, ...]:
    """Friendly names of what was fused into a node of the compiled model."""
    names = str(node.get_rt_info()["originalLayersNames"].astype(str)).split(",")
    return tuple(name for name in names if name)


def _reason(error: Exception) -> str:
    """The line that tells most: OpenVINO's messages begin with places in its own source."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("No conversion", "Unable", "NotFound", "Wrong", "Cannot"))]
    plain = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API", "While"))]
    return (telling or plain or lines or [type(error).__name__])[0]
