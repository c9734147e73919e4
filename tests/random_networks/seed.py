"""The seed of a run: taken from ONNX_MDP_SEED, or drawn."""

from __future__ import annotations

import os
import secrets

SEED = int(os.environ.get("ONNX_MDP_SEED") or secrets.randbelow(2**32))
