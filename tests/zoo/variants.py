"""The same network in other forms: as other exporters emit it, and as graph optimizers leave it."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import onnxruntime as ort

from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import Analysis, analyze
from tests.conftest import SHARED

ZOO = SHARED / "zoo"
FOLDER = ZOO / "open"


@dataclass(frozen=True)
class Anatomy:
    """What can be cut: how many groups there are of each kind and number of units, and how many blocks."""

    groups: Counter[tuple[str, int]]
    blocks: int

    def units(self) -> Counter[int]:
        """How many groups there are of each number of units."""
        counts: Counter[int] = Counter()
        for (_, units), count in self.groups.items():
            counts[units] += count
        return counts


def anatomy(analysis: Analysis) -> Anatomy:
    """What can be cut."""
    return Anatomy(Counter((group.kind, group.units) for group in analysis.groups), len(analysis.blocks))


def analysis_of(model: onnx.ModelProto) -> Analysis:
    """The analysis of a copy of a model, with one for every symbolic dimension."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    shapes = {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in copy.graph.input
        if value.name not in weights
    }
    normalize(copy, shapes)
    return analyze(read_network(copy, shapes))


def zoo_model(name: str) -> onnx.ModelProto:
    """A model of the collection, with seeded weights."""
    if str(ZOO) not in sys.path:
        sys.path.append(str(ZOO))
    from inflate import inflate

    model: onnx.ModelProto = inflate(str(FOLDER / f"{name}.onnx"))
    return model


@cache
def zoo_analysis(name: str) -> Analysis:
    """The analysis of a model of the collection."""
    return analysis_of(zoo_model(name))


def ort_basic(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model after onnxruntime's basic optimizations, which keep to standard operators."""
    path = folder / "basic.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(str(path))


def slimmed(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model after onnxslim."""
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: onnx.ModelProto = onnxslim.slim(copy)
    return result


OPTIMIZERS: dict[str, Callable[[onnx.ModelProto, Path], onnx.ModelProto]] = {
    "onnxruntime-basic": ort_basic,
    "onnxslim": slimmed,
}
