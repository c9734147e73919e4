"""ONNX Runtime with any of its execution providers. The only home of `onnxruntime`.

A provider that cannot be loaded, or takes no node of a model, is an error: onnxruntime itself would run on the CPU and
say nothing. Options of the specification go to the provider, those with a dot in their name to the session, and three
are ours:

* `plugin=PACKAGE` or `plugin=FILE`: the library that brings the provider.
* `device_id=N`: which of its devices.
* `io=host`: inputs and outputs stay in the CPU's memory, and each timed run copies them to the device and back.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.graph.kernels import Named, name_nodes
from onnx_mdp.graph.temporary import temporary_folder
from onnx_mdp.runtime.base import Array, Feeds, Kernel, Runtime, RuntimeSpec, Session, cpu_model
from onnx_mdp.runtime.folder import cache_folder
from onnx_mdp.runtime.nvidia import gpu_model
from onnx_mdp.runtime.plugins import find_plugin
from onnx_mdp.runtime.providers import CPU, PROVIDERS, Provider, find_provider, library_file

ort.set_default_logger_severity(4)  # what its messages say is in our errors
_NVIDIA = 0x10DE

_NO_KERNEL = (
    "; it has no kernel for this operator on numbers of this type here (on a CPU, most operators have none for "
    "bfloat16): compute in float32, the weights may stay as they are, each behind a Cast"
)


class OnnxRuntime(Runtime):
    """Sequential execution on `threads` threads with all graph optimizations, on one execution provider."""

    def __init__(self, spec: RuntimeSpec) -> None:
        super().__init__(spec)
        settings = spec.settings()
        self._device = _whole(settings, "device_id")
        self._on_device = _one_of(settings.pop("io", "device"), "io", ("device", "host")) == "device"
        plugin = settings.pop("plugin", "")
        self.provider = _registered(plugin, spec.provider) if plugin else find_provider(spec.provider)
        if self.provider.plugin and not plugin:
            self.provider = _registered(self.provider.plugin, self.provider.name)
        self._entries = {key: value for key, value in settings.items() if "." in key}
        given = {key: value for key, value in settings.items() if "." not in key}
        if self.provider is CPU and given:
            raise OptionError(f"--runtime-option {next(iter(given))}: onnxruntime's CPU provider has no such option")
        if self.provider.threads in given:
            raise OptionError(f"--runtime-option {self.provider.threads}: give the threads as --threads")
        made = dict(self.provider.defaults)
        if self.provider.threads:
            made[self.provider.threads] = str(self.threads)
        if self.provider.cache:
            made[self.provider.cache] = str(cache_folder())
        self._provider_options = made | given
        short = [key for key, known in PROVIDERS.items() if known.name == self.provider.name]
        self.name = "onnxruntime" if self.provider is CPU else f"onnxruntime:{[*short, self.provider.name][0]}"
        self.profiles = self.provider is CPU  # elsewhere the profiler times the launch of a kernel, not the kernel
        self.keeps_precision = self.provider.exact

    @property
    def trusts_busy(self) -> bool:
        """At one thread, for providers that do all work on the calling thread."""
        return self.threads == 1 and self.provider.cpu_clock

    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Load a model; without `optimize` its graph runs as written."""
        session = self._load(model, self._options(optimize=optimize))
        place = ("cuda", self._device, -1) if self.provider.gpu and self._on_device else ("cpu", 0, -1)
        if place[0] == "cuda" and self.provider.plugin:
            place = ("gpu", self._device, _NVIDIA)  # a CPU build of onnxruntime knows the device by its vendor alone
        return _OrtSession(session, place, self._note(session))

    def version(self) -> str:
        """The installed onnxruntime's version."""
        return str(ort.__version__)

    def device(self) -> str:
        """The processor, and the GPU with its driver where the provider runs on one."""
        return f"{gpu_model(self._device)}, {cpu_model()}" if self.provider.gpu else cpu_model()

    def profile(self, model: str | bytes, feeds: Feeds, runs: int) -> list[Kernel]:
        """The kernels of the optimized graph, timed by onnxruntime's profiler.

        The profiler's events have no usable names: several kernels share one, others have none. So the optimized
        graph is written to a file, its nodes are named, and that graph is what runs under the profiler.
        """
        if not self.profiles:
            return super().profile(model, feeds, runs)
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
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.provider is not CPU:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for key, value in self._entries.items():
            options.add_session_config_entry(key, value)
        return options

    def _load(self, model: str | bytes, options: Any) -> Any:
        """A session that has the provider; onnxruntime's own fallback to the CPU is off, but it is not complete."""
        if self.provider.gpu:
            _preload()
        providers = self._providers(options)
        try:
            session = ort.InferenceSession(model, options, providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no public base
            where = "" if self.provider is CPU else f" on {self.provider.name}"
            remedy = _NO_KERNEL if "Could not find an implementation" in str(error) else ""
            raise RuntimeBackendError(
                f"onnxruntime does not load the model{where}: {_first_line(error)}{remedy}"
            ) from error
        if self.provider.name not in session.get_providers():
            reason = _reason(self.provider)
            raise RuntimeBackendError(
                f"onnxruntime cannot use {self.provider.name} and would run on the CPU: {reason}; use --runtime "
                f"onnxruntime for the CPU{f', or {self.provider.remedy}' if self.provider.remedy else ''}"
            )
        return session

    def _providers(self, options: Any) -> list[Any]:
        """Providers by name with their options; a plugin's devices are added to the session's options instead."""
        if self.provider is CPU:
            return [CPU.name]
        if not self.provider.plugin:
            _check_listed(self.provider)
            same = {"device_id": str(self._device)}
            fallback = [(name, same) for name in self.provider.fallback]
            return [(self.provider.name, self._provider_options), *fallback, CPU.name]
        devices = [device for device in ort.get_ep_devices() if device.ep_name == self.provider.name]
        if self._device >= len(devices):
            raise RuntimeBackendError(
                f"{self.provider.name} has {len(devices)} devices on this machine, device_id={self._device} is not "
                "among them; use --runtime onnxruntime for the CPU"
            )
        given = {key: value for key, value in self._provider_options.items() if key != "device_id"}
        options.add_provider_for_devices([devices[self._device]], given)
        return []

    def _note(self, session: Any) -> str:
        """What another provider computes instead.

        Raises:
            RuntimeBackendError: that is everything.
        """
        if self.provider is CPU or not hasattr(session, "get_provider_graph_assignment_info"):
            return ""
        nodes = [
            (part.ep_name, node) for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()
        ]
        left = Counter(node.op_type for provider, node in nodes if provider != self.provider.name)
        if nodes and left.total() == len(nodes):
            raise RuntimeBackendError(
                f"onnxruntime does not load the model on {self.provider.name}: the provider takes none of its "
                f"{len(nodes)} nodes, and others would run them all; use --runtime onnxruntime for the CPU"
            )
        others = " and ".join(sorted({provider for provider, _ in nodes} - {self.provider.name}))
        kinds = ", ".join(f"{number} {op}" for op, number in left.most_common(4))
        return f"{self.provider.name} leaves {left.total()} of {len(nodes)} nodes to {others}: {kinds}" if left else ""


def _whole(settings: dict[str, str], key: str) -> int:
    value = settings.get(key, "0")
    if not value.isdecimal():
        raise OptionError(f"--runtime-option {key}={value}: write a number, such as {key}=0")
    return int(value)


def _one_of(value: str, key: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise OptionError(f"--runtime-option {key}={value}: write {' or '.join(f'{key}={c}' for c in choices)}")
    return value


def _check_listed(provider: Provider) -> None:
    if provider.name not in ort.get_available_providers():
        remedy = provider.remedy or "add --runtime-option plugin=PACKAGE if a package brings it"
        raise RuntimeBackendError(
            f"onnxruntime {ort.__version__} here has no {provider.name}, only "
            f"{', '.join(ort.get_available_providers())}: {remedy}, or use --runtime onnxruntime"
        )


def _registered(asked: str, name: str) -> Provider:
    """The provider that a plugin brings."""
    plugin = find_plugin(asked)
    known = find_provider(name or plugin.name)
    try:
        brought = _register(plugin.library, plugin.name or known.name)
    except Exception as error:
        raise RuntimeBackendError(
            f"onnxruntime does not register {plugin.library.name} of plugin={asked}: {_first_line(error)}; use "
            "--runtime onnxruntime for the CPU"
        ) from error
    if not brought:
        raise RuntimeBackendError(
            f"plugin={asked} finds no device it supports on this machine; use --runtime onnxruntime for the CPU"
        )
    found = known.name if known.name in brought else min(brought)
    return replace(known, name=found, plugin=asked, library="", gpu=known.gpu or brought[found])


@cache
def _register(library: Path, name: str) -> dict[str, bool]:
    """The providers that a library brings devices for, and whether it is an NVIDIA GPU.

    It can be registered once in a process.
    """
    before = {device.ep_name for device in ort.get_ep_devices()}
    ort.register_execution_provider_library(name, str(library))
    return {
        device.ep_name: device.device.vendor_id == _NVIDIA
        for device in ort.get_ep_devices()
        if device.ep_name not in before
    }


@cache
def _preload() -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages if they are there; what is missing is said by `_reason`."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _reason(provider: Provider) -> str:
    """Why a provider's library does not load: onnxruntime only logs it."""
    library = library_file(provider)
    try:
        if library:
            ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return "its device or a library it needs is missing"


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
    """Bound tensors lie at `place`: device type, index and vendor, as `OrtValue` counts them."""

    def __init__(self, session: Any, place: tuple[str, int, int] = ("cpu", 0, -1), note: str = "") -> None:
        self.note = note
        self._session = session
        self._place = place
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
            binding.bind_ortvalue_input(name, self._placed(value))
        for name, result in zip(self._outputs, results, strict=True):
            binding.bind_ortvalue_output(name, self._placed(result))
        self._binding = binding

    def tick(self) -> None:
        self._session.run_with_iobinding(self._binding)
        if self._place[0] != "cpu":
            self._binding.synchronize_outputs()

    def _placed(self, value: Array) -> Any:
        device, index, vendor = self._place
        if device == "cpu":
            return ort.OrtValue.ortvalue_from_numpy(value)
        try:
            return ort.OrtValue.ortvalue_from_numpy(value, device, index, vendor)
        except Exception as error:
            raise RuntimeBackendError(
                f"onnxruntime does not place a tensor on {device} {index}: {_first_line(error)}; add --runtime-option "
                "io=host, and runs are timed with the copies to and from the device"
            ) from error


def _first_line(error: Exception) -> str:
    """The message without the place in onnxruntime's own source that some begin with."""
    text = re.sub(r"^/\S+\.cc:\d+ .*?\) (?=[A-Z])", "", str(error).strip())
    return (text or type(error).__name__).splitlines()[0]
