"""The same network in other forms: as other exporters emit it, and as graph optimizers leave it."""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

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
    """A model of the collection, with seeded weights; those that were equal when it was exported are equal."""
    if str(ZOO) not in sys.path:
        sys.path.append(str(ZOO))
    from inflate import KEY, inflate, tensors

    stripped = onnx.load(str(FOLDER / f"{name}.onnx"))
    recipes = [json.loads(entry.value) for entry in stripped.metadata_props if entry.key == KEY]
    model: onnx.ModelProto = inflate(stripped)
    stored = list(tensors(model))
    _make_equal((stored[i], tuple(recipe)) for i, *recipe in itertools.chain(*recipes))
    return model


def _make_equal(filled: Iterable[tuple[onnx.TensorProto, tuple[Any, ...]]]) -> None:
    """Give matrices one content where the collection tells that of all: the same mean and deviation, to four digits.

    The collection fills each on its own, also those that one exporter stored twice: as they are, or transposed.
    """
    first: dict[tuple[Any, ...], onnx.TensorProto] = {}
    for tensor, recipe in filled:
        if recipe[0] != "n" or len(tensor.dims) != 2:
            continue
        other = first.setdefault((tensor.data_type, *sorted(tensor.dims), *recipe), tensor)
        values = numpy_helper.to_array(other)
        same = values if values.shape == tuple(tensor.dims) else values.T
        tensor.raw_data = np.ascontiguousarray(same).tobytes()


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
