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
from onnx_mdp.groups.find import analyze
from tests.conftest import SHARED

ZOO = SHARED / "zoo"
FOLDER = ZOO / "open"
_EXPORTS = ("L17", "L20", "L13", "L11", "L17d", "B17", "D18", "D20", "D23", "D18d")


@dataclass(frozen=True)
class Anatomy:
    """What can be cut: how many groups there are of each kind and number of units, and how many blocks."""

    groups: Counter[tuple[str, int]]
    blocks: int

    def __sub__(self, other: Anatomy) -> str:
        """What only this one has, to be read by people."""
        groups = [f"{count} of {kind} {units}" for (kind, units), count in (self.groups - other.groups).items()]
        return ", ".join([*groups, f"{self.blocks} blocks"])


def zoo_models() -> list[str]:
    """Every exported model, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.onnx"))


def export_pairs() -> list[tuple[str, str]]:
    """Every export of a network after the first, with the first."""
    exports: dict[str, list[str]] = {}
    for name in zoo_models():
        network, _, form = name.partition("__")
        exports.setdefault(network, []).append(form)
    pairs = []
    for network, forms in exports.items():
        first, *others = sorted(forms, key=_EXPORTS.index)
        pairs += [(f"{network}__{first}", f"{network}__{other}") for other in others]
    return pairs


def zoo_model(name: str) -> onnx.ModelProto:
    """A model of the collection, with seeded weights."""
    if str(ZOO) not in sys.path:
        sys.path.append(str(ZOO))
    from inflate import inflate

    model: onnx.ModelProto = inflate(str(FOLDER / f"{name}.onnx"))
    return model


@cache
def zoo_anatomy(name: str) -> Anatomy:
    """What can be cut in a model of the collection."""
    return anatomy_of(zoo_model(name))


def anatomy_of(model: onnx.ModelProto) -> Anatomy:
    """What can be cut in a model, with one for every symbolic dimension; the model is left as it is."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    weights = {tensor.name for tensor in copy.graph.initializer}
    shapes = {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in copy.graph.input
        if value.name not in weights
    }
    normalize(copy, shapes)
    analysis = analyze(read_network(copy, shapes))
    return Anatomy(Counter((group.kind, group.units) for group in analysis.groups), len(analysis.blocks))


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import onnxslim

        result: onnx.ModelProto = onnxslim.slim(onnx.ModelProto.FromString(model.SerializeToString()))
    return result


OPTIMIZERS: dict[str, Callable[[onnx.ModelProto, Path], onnx.ModelProto]] = {
    "onnxruntime": ort_basic,
    "onnxslim": slimmed,
}
