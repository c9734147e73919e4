"""Where runtimes keep what they learn about a device between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_path() -> Path:
    """`onnx-mdp` in the user's cache folder, whether it is there or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnx-mdp"


def cache_folder() -> Path:
    """`onnx-mdp` in the user's cache folder, made if it is not there."""
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
