"""What the system tells about NVIDIA GPUs, through the driver's own tool: no package is imported for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from onnx_mdp.errors import RuntimeBackendError


@cache
def gpu_model(index: int = 0) -> str:
    """Name, driver and power limit of the GPU that CUDA counts as `index`.

    The power limit is part of it because it decides how long the clocks stay up.

    Raises:
        RuntimeBackendError: there is no such GPU, or no driver.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise RuntimeBackendError("no NVIDIA driver: nvidia-smi is not installed; use --runtime onnxruntime on the CPU")
    # CUDA counts only what CUDA_VISIBLE_DEVICES names, nvidia-smi counts all; PCI order is assumed of both.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    chosen = visible[index] if index < len(visible) else str(index)
    query = [tool, f"--id={chosen}", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    fields = [field.strip() for field in found.stdout.strip().split(",")]
    if found.returncode or len(fields) != 3:
        reason = (found.stdout or found.stderr).strip().splitlines()
        raise RuntimeBackendError(f"GPU {chosen} is not usable: {reason[0] if reason else 'nvidia-smi is silent'}")
    return f"{fields[0]}, driver {fields[1]}, {fields[2]}"
