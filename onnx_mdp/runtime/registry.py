"""Which runtimes there are, and which of them can be used here. Nothing heavy is imported to answer that."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Runtime, RuntimeSpec
from onnx_mdp.runtime.providers import PROVIDERS, find_provider, missing


@dataclass(frozen=True)
class _Row:
    """A backend: where it is, the packages it needs and how to get them, and its providers (None: any name)."""

    module: str
    cls: str
    packages: tuple[str, ...]
    remedy: str
    providers: tuple[str, ...] | None


_ROWS = {
    "onnxruntime": _Row("onnx_mdp.runtime.ort", "OnnxRuntime", ("onnxruntime",), "pip install onnxruntime", None),
    "openvino": _Row(
        "onnx_mdp.runtime.openvino",
        "OpenVino",
        ("openvino",),
        "pip install 'onnx-mdp[openvino]'",
        ("cpu", "gpu", "npu"),
    ),
    "tensorrt": _Row(
        "onnx_mdp.runtime.tensorrt",
        "TensorRt",
        ("polygraphy", "tensorrt"),
        "pip install 'onnx-mdp[tensorrt]'",
        ("rtx",),
    ),
}


def runtime_names() -> tuple[str, ...]:
    """Every runtime the program supports, without providers."""
    return tuple(_ROWS)


def variants() -> tuple[str, ...]:
    """Every runtime with every provider that has a short name; onnxruntime takes others by their own names."""
    ort = [f"onnxruntime:{short}" for short in PROVIDERS]
    return (*_ROWS, *ort, *(f"{name}:{short}" for name, row in _ROWS.items() for short in row.providers or ()))


def remedy(name: str) -> str:
    """What to install for a runtime with its provider; empty if all its packages are there. Imports none of them.

    Raises:
        OptionError: there is no such runtime.
    """
    spec = RuntimeSpec(name)
    row = _row(spec)
    wanted = [package for package in row.packages if find_spec(_renamed(package, spec.provider)) is None]
    if wanted:
        return row.remedy if spec.provider != "rtx" else "pip install tensorrt-rtx polygraphy"
    return missing(find_provider(spec.provider)) if spec.backend == "onnxruntime" else ""


def is_available(name: str) -> bool:
    """Whether the packages of a runtime are installed; whether its device is there only opening it tells."""
    return RuntimeSpec(name).backend in _ROWS and not remedy(name)


def open_runtime(spec: RuntimeSpec) -> Runtime:
    """The runtime of a specification.

    Raises:
        OptionError: there is no such runtime, or it has no such option.
        RuntimeBackendError: it is not installed, or the device it needs is missing.
    """
    row = _row(spec)
    wanted = remedy(spec.name)
    if wanted and "plugin" not in spec.settings():
        raise RuntimeBackendError(f"{spec.name} is not installed: {wanted}, or use --runtime onnxruntime")
    runtime: Runtime = getattr(importlib.import_module(row.module), row.cls)(spec)
    return runtime


def prover(runtime: Runtime, *, double: bool = False) -> Runtime:
    """A runtime for proofs: this one, or onnxruntime on the CPU where this one rounds more than the model's types do.

    `double` tells that the model computes in float64.
    """
    exact = runtime.keeps_precision and (runtime.keeps_double or not double)
    return runtime if exact else open_runtime(RuntimeSpec(threads=runtime.threads))


def _row(spec: RuntimeSpec) -> _Row:
    row = _ROWS.get(spec.backend)
    if row is None:
        raise OptionError(f"no runtime {spec.name!r}; choose from {', '.join(variants())}")
    if row.providers is not None and spec.provider and spec.provider not in row.providers:
        choices = ", ".join(f"{spec.backend}:{provider}" for provider in row.providers)
        raise OptionError(f"no runtime {spec.name!r}; choose from {spec.backend}, {choices}")
    return row


def _renamed(package: str, provider: str) -> str:
    """TensorRT for RTX is the same interface in another package."""
    return "tensorrt_rtx" if (package, provider) == ("tensorrt", "rtx") else package
