"""The seam to a runtime."""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from onnx_mdp.errors import OptionError, RuntimeBackendError

Array = NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Kernel:
    """One kernel of a profiled run: what it computes, by the model's names as far as the runtime keeps them.

    Attributes:
        op: the runtime's name of the operator.
        outputs: tensors or nodes of the model that it computes; names the model lacks are the runtime's own.
        inputs: tensors that it reads; they place a kernel that the runtime inserted, such as a change of layout.
        ms: median milliseconds of a run.
    """

    op: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    ms: float


@dataclass(frozen=True)
class RuntimeSpec:
    """What makes a runtime, as plain data that can be sent to another process.

    Attributes:
        name: of the runtime, with a provider after a colon where it has several, such as `onnxruntime:cuda`.
        threads: CPU threads.
        options: the runtime's own options, each as `key=value`.
    """

    name: str = "onnxruntime"
    threads: int = 1
    options: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        """The name up to the colon."""
        return self.name.partition(":")[0]

    @property
    def provider(self) -> str:
        """What follows the colon; empty where nothing does."""
        return self.name.partition(":")[2]

    def settings(self) -> dict[str, str]:
        """The options as a mapping.

        Raises:
            OptionError: one has another form than `key=value`, or a key is given twice.
        """
        found: dict[str, str] = {}
        for option in self.options:
            key, equals, value = option.partition("=")
            if not (key and equals):
                raise OptionError(f"--runtime-option {option}: write key=value, such as device_id=1")
            if found.setdefault(key, value) != value:
                raise OptionError(f"--runtime-option {option}: {key} is already {found[key]}; give it once")
        return found


class Session(ABC):
    """A model loaded in a runtime. `tick` repeats the last `bind` without Python-side overhead, for timing.

    Attributes:
        note: what the user should know about how the model is run, such as nodes that another device computes.
    """

    note: str = ""

    @abstractmethod
    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        """The asked outputs (all of them by default) for one set of inputs."""

    @abstractmethod
    def bind(self, feeds: Feeds) -> None:
        """Fix the inputs that `tick` runs on."""

    @abstractmethod
    def tick(self) -> None:
        """Run once on the bound inputs and drop the outputs; returns when the device is done."""

    def busy_ns(self) -> int:
        """A clock of the work done: it advances only while the device works for this thread's runs.

        By default the CPU time of the calling thread, which is what a runtime on one thread uses.
        """
        return time.thread_time_ns()


class Runtime(ABC):
    """A way to run models on one device; `onnx_mdp.runtime.registry` knows which exist and which are installed.

    Attributes:
        name: as in a specification, without what is the default.
        profiles: whether `profile` can be asked.
        keeps_precision: whether it computes in the model's own number types and to their rounding, so that two
            equal models compare equal to 1e-5 on it. Where it does not, proofs are made on another runtime.
        keeps_double: whether float64 stays float64.
        busy_clock: what `Session.busy_ns` counts, in words.
    """

    name: str
    profiles: bool = False
    keeps_precision: bool = True
    keeps_double: bool = True
    busy_clock: ClassVar[str] = "CPU time"

    def __init__(self, spec: RuntimeSpec) -> None:
        self.spec = spec
        self.threads = spec.threads

    @property
    def trusts_busy(self) -> bool:
        """Whether a session's `busy_ns` is the latency on an idle machine; else only wall time is."""
        return self.threads == 1

    @abstractmethod
    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Load a model from a path or from memory.

        Without `optimize` its operators are kept apart as written as far as the runtime can, which matters to
        models that round to integers: fused operators round elsewhere.

        Raises:
            RuntimeBackendError: the runtime does not load it.
        """

    @abstractmethod
    def version(self) -> str:
        """Version of the backend."""

    def profile(self, model: str | bytes, feeds: Feeds, runs: int) -> list[Kernel]:
        """The kernels of a model in execution order, timed within whole runs.

        Raises:
            RuntimeBackendError: the runtime has no such profile, or does not run the model.
        """
        raise RuntimeBackendError(f"{self.name} does not time single kernels")

    @property
    def fingerprint(self) -> Fingerprint:
        """What a latency depends on besides the model: the options are part of the runtime's name."""
        options = sorted(self.spec.options)
        return Fingerprint(" ".join([self.name, *options]), self.version(), self.device(), self.threads)

    def device(self) -> str:
        """What the models run on, as precisely as the system tells."""
        return cpu_model()


@dataclass(frozen=True)
class Fingerprint:
    """Identity of a device and runtime: latencies are comparable where it is equal."""

    runtime: str
    version: str
    device: str
    threads: int

    def __str__(self) -> str:
        return f"{self.runtime} {self.version}, {self.device}, {self.threads} thread{'s' * (self.threads > 1)}"


def cpu_model() -> str:
    """The processor's marketing name and vector extensions, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", named.get("Features", "")).split())
    vector = next((flag for flag in ("amx_bf16", "avx512f", "avx2", "sve", "asimd") if flag in flags), "")
    family = "-".join(named.get(key, "") for key in ("cpu family", "model", "stepping"))
    return " ".join(part for part in (named.get("model name", platform.machine()), family, vector) if part)
