"""The seam to a runtime."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class Session(ABC):
    """A model loaded in a runtime. `tick` repeats the last `bind` without Python-side overhead, for timing."""

    @abstractmethod
    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        """The asked outputs (all of them by default) for one set of inputs."""

    @abstractmethod
    def bind(self, feeds: Feeds) -> None:
        """Fix the inputs that `tick` runs on."""

    @abstractmethod
    def tick(self) -> None:
        """Run once on the bound inputs and drop the outputs."""


class Runtime(ABC):
    """A way to run models on one device; `onnx_mdp.runtime.registry` knows which exist and which are installed."""

    name: ClassVar[str]

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @abstractmethod
    def open(self, model: str | bytes, *, optimize: bool = True) -> Session:
        """Load a model from a path or from memory.

        Raises:
            RuntimeBackendError: the runtime does not load it.
        """

    @abstractmethod
    def version(self) -> str:
        """Version of the backend."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What a latency depends on besides the model."""
        return Fingerprint(self.name, self.version(), cpu_model(), self.threads)


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
