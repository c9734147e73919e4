"""The collection: stripped exports of real architectures, filled with seeded weights (see its ZOO.md)."""

from __future__ import annotations

import fnmatch
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_mdp.runtime.base import Array

ROOT = Path(__file__).resolve().parent.parent.parent
_FAINT = 1e-7  # standard deviation
DEFAULT = ROOT.parent / "shared" / "zoo" / "open"


def model_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The folder's models whose name has one of the patterns in it, all of them without a pattern."""
    files = sorted(folder.glob("*.onnx"))
    wanted = [p if any(c in p for c in "*?[") else f"*{p}*" for p in patterns]
    return [file for file in files if not wanted or any(fnmatch.fnmatch(file.stem, p) for p in wanted)]


def inflate(file: Path, seed: int = 0) -> onnx.ModelProto:
    """The model with seeded weights in place of those that were stripped."""
    model: onnx.ModelProto = _inflater(file).inflate(str(file), seed)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            _revive(tensor)
    return model


def _revive(tensor: onnx.TensorProto) -> None:
    """Scale up a weight so small that its layer adds nothing to its bias: no cut of it could be felt."""
    values = numpy_helper.to_array(tensor)
    deviation = float(values.std())
    if 0 < deviation < _FAINT:
        scaled = values * np.float32(1 / (deviation * math.sqrt(values[0].size)))
        tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def inputs(file: Path, model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """Seeded inputs that are valid for the model; every symbolic dimension is one."""
    feeds: dict[str, Array] = _inflater(file).make_inputs(model, seed)
    return feeds


def _inflater(file: Path) -> Any:
    """The collection's own module, which lies beside its folder of models."""
    home = str(file.resolve().parent.parent)
    if home not in sys.path:
        sys.path.append(home)
    return importlib.import_module("inflate")
