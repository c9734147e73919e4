"""Which runtimes there are, and which of them can be used here."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from onnx_mdp.errors import OptionError, RuntimeBackendError
from onnx_mdp.runtime.base import Runtime, RuntimeSpec

_ROWS = {"onnxruntime": ("onnx_mdp.runtime.ort", "OnnxRuntime", "onnxruntime")}


def runtime_names() -> tuple[str, ...]:
    """Every runtime the program supports."""
    return tuple(_ROWS)


def is_available(name: str) -> bool:
    """Whether the runtime's package is installed; imports nothing."""
    return name in _ROWS and find_spec(_ROWS[name][2]) is not None


def open_runtime(spec: RuntimeSpec) -> Runtime:
    """The runtime of a specification.

    Raises:
        OptionError: there is no such runtime.
        RuntimeBackendError: it is not installed.
    """
    if spec.name not in _ROWS:
        raise OptionError(f"no runtime {spec.name!r}; choose from {', '.join(_ROWS)}")
    module, cls, package = _ROWS[spec.name]
    if not is_available(spec.name):
        raise RuntimeBackendError(f"{spec.name} is not installed: pip install {package}")
    runtime: Runtime = getattr(importlib.import_module(module), cls)(spec)
    return runtime
