"""Libraries that bring an execution provider to onnxruntime: found by package name or path, without onnxruntime."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from onnx_mdp.errors import OptionError

_PATTERNS = ("*onnxruntime_providers_*.so", "*onnxruntime_providers_*.dll", "*onnxruntime_providers_*.dylib")


@dataclass(frozen=True)
class Plugin:
    """A plugin library, and the name to register it under; empty where only the user can tell."""

    library: Path
    name: str


def find_plugin(asked: str) -> Plugin:
    """The plugin of a file, or of an installed package such as `onnxruntime_ep_nv_tensorrt_rtx`.

    Packages follow a convention: `get_library_path()` and `get_ep_name()`; without them the library is looked for in
    the package's folder.

    Raises:
        OptionError: there is neither such a file nor such a package, or no library in it.
    """
    path = Path(asked)
    if path.is_file():
        return Plugin(path.resolve(), "")
    module = asked.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    if spec is None:
        raise OptionError(f"plugin={asked}: neither a file nor an installed package; pip install it, or give the path")
    package = importlib.import_module(module)
    name = str(package.get_ep_name()) if hasattr(package, "get_ep_name") else ""
    if hasattr(package, "get_library_path"):
        return Plugin(Path(package.get_library_path()), name)
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    found = [file for folder in folders for pattern in _PATTERNS for file in sorted(folder.glob(pattern))]
    if not found:
        raise OptionError(f"plugin={asked}: the package holds no onnxruntime_providers library; give the path")
    return Plugin(found[0], name)
