"""TensorRT and TensorRT for RTX, through Polygraphy. The only home of `tensorrt`, `tensorrt_rtx` and `polygraphy`.

Options of the specification:

* `fp16=true`, `bf16=true`, `tf32=true`: let kernels round to these. `int8=true`: compute in int8 between the model's
  QuantizeLinear and DequantizeLinear nodes. From version 11 and for RTX, types are the model's alone, without a switch.
* `optimization_level=0` to `5`: how long the builder looks for kernels.
* `timing_cache=FILE`: where it keeps what it timed; by default a file per GPU and version in the user's cache folder.
  RTX times nothing when it builds.
* `device_id=N`: which GPU.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import statistics
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Array, Feeds, Kernel, Runtime, RuntimeSpec, Session, cpu_model
from onnx_mdp.runtime.folder import cache_folder
from onnx_mdp.runtime.nvidia import gpu_model
from onnx_mdp.runtime.shaped import ShapedSession, Shapes

_TYPES = ("fp16", "bf16", "int8", "tf32")
_OPTIONS = (*_TYPES, "optimization_level", "timing_cache", "device_id")


class TensorRt(Runtime):
    """Engines built for the shapes they run with. Latency is the GPU's time between two events around a run."""

    profiles = True
    keeps_precision = False  # its float32 kernels sum in other orders, some after a Winograd transform
    busy_clock: ClassVar[str] = "GPU time"

    def __init__(self, spec: RuntimeSpec) -> None:
        super().__init__(spec)
        self.name = "tensorrt:rtx" if spec.provider == "rtx" else "tensorrt"
        self.trt = _import(spec.provider == "rtx")
        settings = spec.settings()
        options = [option for option in _OPTIONS if option != "timing_cache" or spec.provider != "rtx"]
        for key in settings:
            if key not in options:
                raise OptionError(f"--runtime-option {key}: {self.name} has {', '.join(options)}")
        self.types = {key: _switch(key, settings[key]) for key in _TYPES if key in settings}
        self._check_types()
        self.level = _number(settings, "optimization_level", 5)
        self.index = _number(settings, "device_id", 1000) or 0
        self._cache = Path(settings["timing_cache"]) if "timing_cache" in settings else None

    @property
    def trusts_busy(self) -> bool:
        """Always: events are recorded on the GPU, which no other process' threads delay."""
        return True

    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Parse a model; an engine is built for the shapes it is run with.

        TensorRT fuses whatever it can. Without `optimize` the builder only looks for fewer kernels.
        """
        return _TrtSession(self, self._parsed(model), self.level if optimize else 0)

    def version(self) -> str:
        """The installed TensorRT's version."""
        return str(self.trt.__version__)

    def device(self) -> str:
        """The GPU with its driver, and the processor that feeds it."""
        return f"{gpu_model(self.index)}, {cpu_model()}"

    def profile(self, model: str | bytes, feeds: Feeds, runs: int) -> list[Kernel]:
        """The layers of the engine, as TensorRT's profiler times them."""
        session = _TrtSession(self, self._parsed(model), self.level)
        session.bind(feeds)
        profiler = _profiler(self.trt)
        session.loop.context.profiler = profiler
        for _ in range(runs + 1):
            session.tick()
        return _kernels(session.loop.engine, profiler.times, self.trt)

    def timing_cache(self) -> str | None:
        """The file of timed kernels; TensorRT ignores one of another GPU or version, so each has its own.

        None for RTX, whose builder times nothing.
        """
        if self.spec.provider == "rtx":
            return None
        words = (self.name, self.version(), gpu_model(self.index).split(",")[0])
        name = re.sub(r"[^\w.]+", "-", "-".join(words))
        return str(self._cache or cache_folder() / f"{name}.timing")

    def config(self, shapes: Shapes, level: int | None, types: Mapping[str, bool], cache: str | None) -> Any:
        """The builder's configuration for concrete shapes."""
        from polygraphy.backend.trt import CreateConfig, Profile

        profile = Profile()
        for name, shape in shapes.items():
            profile.add(name, shape, shape, shape)
        return CreateConfig(profiles=[profile], load_timing_cache=cache, builder_optimization_level=level, **types)

    def _check_types(self) -> None:
        for key in ("fp16", "bf16", "int8"):
            if self.types.get(key) and not hasattr(self.trt.BuilderFlag, key.upper()):
                raise OptionError(
                    f"--runtime-option {key}=true: {self.name} {self.version()} computes in the model's own number "
                    "types, without such a switch; convert or quantize the model, or pip install 'tensorrt<11'"
                )

    def _parsed(self, model: str | bytes) -> tuple[Any, Any, Any]:
        """Builder, network and the parser, which owns the weights."""
        from polygraphy.backend.trt import create_network, get_trt_logger

        try:
            # A strongly typed network keeps the model's types; with switches, the builder may choose below float32.
            strong = not any(self.types.get(key) for key in ("fp16", "bf16", "int8"))
            builder, network = create_network(strongly_typed=strong)
            self.trt.init_libnvinfer_plugins(get_trt_logger(), "")
            parser = self.trt.OnnxParser(network, get_trt_logger())
            done = parser.parse_from_file(model) if isinstance(model, str) else parser.parse(model)
        except Exception as error:
            raise RuntimeBackendError(f"{self.name} does not start: {_first_line(error)}{self._hardware()}") from error
        if not done:
            raise RuntimeBackendError(f"{self.name} does not load the model: {_parser_errors(parser)}")
        return builder, network, parser

    def _hardware(self) -> str:
        """The reason that is behind most failures: there is no GPU."""
        try:
            gpu_model(self.index)
        except RuntimeBackendError as error:
            return f"; {error}"
        return ""

    def failed(self, what: str, error: Exception | str) -> RuntimeBackendError:
        """An error of the backend in our words."""
        text = error if isinstance(error, str) else _first_line(error)
        return RuntimeBackendError(f"{self.name} does not {what} the model: {text}")


class _TrtSession(ShapedSession[Any]):
    """What is kept for each set of shapes is a Polygraphy runner."""

    def __init__(self, runtime: TensorRt, parsed: tuple[Any, Any, Any], level: int | None) -> None:
        super().__init__()
        self._runtime = runtime
        self._parsed = parsed
        self._level = level
        network = parsed[1]
        self._outputs = [network.get_output(i).name for i in range(network.num_outputs)]
        layers = runtime.trt.LayerType
        quantized = any(layer.type in (layers.QUANTIZE, layers.DEQUANTIZE) for layer in network)
        self._types = {key: on for key, on in runtime.types.items() if key != "int8" or quantized}
        if runtime.types.get("int8") and not quantized:
            self.note = "int8=true changes nothing: the model has no QuantizeLinear and DequantizeLinear nodes"
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        fixed = all(size >= 0 for port in inputs for size in port.shape)
        self._aim = "load" if fixed else "run"  # what fails where no engine is made for the shapes
        if fixed:
            self.at({port.name: tuple(port.shape) for port in inputs})

    def build(self, shapes: Shapes, cache: str | None = None) -> Any:
        """The serialized engine. Building for RTX needs no GPU.

        Raises:
            RuntimeBackendError: TensorRT does not build it.
        """
        from polygraphy.backend.trt import EngineBytesFromNetwork

        config = self._runtime.config(shapes, self._level, self._types, cache)
        try:
            with warnings.catch_warnings():  # Polygraphy also calls what the installed version has deprecated
                warnings.simplefilter("ignore", DeprecationWarning)
                return EngineBytesFromNetwork(self._parsed, config=config, save_timing_cache=cache)()
        except Exception as error:
            raise self._runtime.failed(self._aim, error) from error

    def compile(self, shapes: Shapes) -> Any:
        """A runner of an engine for these shapes."""
        from polygraphy.backend.trt import TrtRunner, engine_from_bytes

        plan = self.build(shapes, self._runtime.timing_cache())
        try:
            _check(_cudart().cudaSetDevice(self._runtime.index))
            runner = TrtRunner(engine_from_bytes(plan))
            runner.activate()
        except Exception as error:
            raise self._runtime.failed(self._aim, error) from error
        weakref.finalize(self, runner.deactivate)
        return runner

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        try:
            found = self.compiled(feeds).infer(dict(feeds))
        except RuntimeBackendError:
            raise
        except Exception as error:
            raise self._runtime.failed("run", error) from error
        return [found[name].copy() for name in outputs or self._outputs]  # the runner reuses its buffers

    def bind(self, feeds: Feeds) -> None:
        results = dict(zip(self._outputs, self.run(feeds), strict=True))
        try:
            self.loop = _Loop(self.compiled(feeds).engine, feeds, results)
        except Exception as error:
            raise self._runtime.failed("run", error) from error

    def tick(self) -> None:
        try:
            self.loop.once()
        except Exception as error:
            raise self._runtime.failed("run", error) from error

    def busy_ns(self) -> int:
        """GPU time of this session's runs."""
        return int(self.loop.gpu_ns)


class _Loop:
    """Runs of an engine on buffers that stay on the GPU, one at a time, each between two events of its stream."""

    def __init__(self, engine: Any, feeds: Feeds, results: Mapping[str, Array]) -> None:
        from polygraphy import cuda

        self.engine = engine
        self.context = engine.create_execution_context()
        self.gpu_ns = 0.0
        self._stream = cuda.Stream()
        weakref.finalize(self, self._stream.free)
        self._events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self._events:
            _check(_cudart().cudaEventCreate(ctypes.byref(event)))
        self._buffers: list[Any] = []
        for name, value in feeds.items():
            _done(self.context.set_input_shape(name, value.shape), f"take {name} of shape {value.shape}")
            self._place(name, value)
        for name, value in results.items():
            self._place(name, value)

    def _place(self, name: str, value: Array) -> None:
        """Give a tensor its address; a tensor that decides shapes lies in the CPU's memory."""
        from polygraphy import cuda

        if self.engine.is_shape_inference_io(name):
            self._buffers.append(value)
            address = value.ctypes.data
        else:
            buffer = cuda.DeviceArray(value.shape, value.dtype)
            buffer.copy_from(np.ascontiguousarray(value))
            self._buffers.append(buffer)
            weakref.finalize(self, buffer.free)
            address = buffer.ptr
        _done(self.context.set_tensor_address(name, address), f"place {name}")

    def once(self) -> None:
        """Run, wait for the GPU, and add what it took."""
        cudart, stream = _cudart(), ctypes.c_void_p(self._stream.ptr)
        start, stop = self._events
        _check(cudart.cudaEventRecord(start, stream))
        _done(self.context.execute_async_v3(self._stream.ptr), "execute")
        _check(cudart.cudaEventRecord(stop, stream))
        _check(cudart.cudaEventSynchronize(stop))
        ms = ctypes.c_float()
        _check(cudart.cudaEventElapsedTime(ctypes.byref(ms), start, stop))
        self.gpu_ns += ms.value * 1e6


def _import(rtx: bool) -> Any:
    """TensorRT or its sibling; Polygraphy settles on one of them when it is loaded."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(rtx))
    try:
        from polygraphy import config
        from polygraphy.logger import G_LOGGER

        if rtx != config.USE_TENSORRT_RTX:
            raise RuntimeBackendError("tensorrt and tensorrt:rtx exclude each other within a process; start another")
        G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1  # what it prints is in our errors
        if rtx:
            import tensorrt_rtx as trt
        else:
            import tensorrt as trt
    except (ImportError, OSError) as error:
        raise RuntimeBackendError(
            f"TensorRT is installed and does not load: {_first_line(error)}; reinstall it, or use --runtime onnxruntime"
        ) from error
    return trt


def _cudart() -> Any:
    """The CUDA runtime's library, as Polygraphy found it."""
    from polygraphy import cuda

    return cuda.wrapper().handle


def _check(status: int) -> None:
    if status:
        raise RuntimeBackendError(f"CUDA error {status}")


def _done(success: bool, what: str) -> None:
    if not success:
        raise RuntimeBackendError(f"TensorRT does not {what}")


def _profiler(trt: Any) -> Any:
    """Collects milliseconds by layer, in order of first execution."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()


def _kernels(engine: Any, times: Mapping[str, list[float]], trt: Any) -> list[Kernel]:
    """Kernels with the tensors of the layers, and the ONNX nodes that TensorRT notes in their metadata."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = {layer["Name"]: layer for layer in json.loads(text)["Layers"] if isinstance(layer, dict)}
    kernels = []
    for name, found in times.items():
        layer = layers.get(name, {})
        nodes = re.findall(r"\[ONNX Layer: (.*?)\]", layer.get("Metadata", ""))
        outputs = dict.fromkeys((*_tensors(layer, "Outputs"), *nodes, name))
        ms = statistics.median(found[1:] or found)
        kernels.append(Kernel(layer.get("LayerType", name), tuple(outputs), _tensors(layer, "Inputs"), ms))
    return kernels


def _tensors(layer: Mapping[str, Any], side: str) -> tuple[str, ...]:
    return tuple(tensor["Name"] for tensor in layer.get(side, ()))


def _parser_errors(parser: Any) -> str:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    nodes = [" ".join(part for part in (error.node_operator(), error.node_name()) if part) for error in found]
    texts = [f"{node}: {error.desc()}" if node else error.desc() for node, error in zip(nodes, found, strict=True)]
    return texts[0] if texts else "the parser says no more"


def _switch(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise OptionError(f"--runtime-option {key}={value}: write {key}=true or {key}=false")
    return value == "true"


def _number(settings: Mapping[str, str], key: str, highest: int) -> int | None:
    value = settings.get(key)
    if value is None:
        return None
    if not value.isdecimal() or int(value) > highest:
        raise OptionError(f"--runtime-option {key}={value}: write a number from 0 to {highest}")
    return int(value)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
