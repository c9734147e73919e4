"""Matrices that a model stores more than once: one weight, however many copies an exporter or optimizer made of it.

A layer that is applied twice, or a table that is also the last projection, is stored once by one exporter and for each
use by another, as it is or transposed. What the normal form copies for unrelated layers is no sign of that: vectors and
small tables (`onnx_mdp.graph.unshare`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.unshare import tables
from onnx_mdp.graph.weights import FLOATS, array

_CORNER = 8  # elements along each axis: enough to tell weights apart that are not equal


@dataclass(frozen=True)
class Twin:
    """A weight that equals another one, or its transpose."""

    first: str
    second: str
    transposed: bool


def find_twins(graph: onnx.GraphProto) -> tuple[Twin, ...]:
    """Every weight of two and more dimensions that equals one before it, with the first of its like.

    Weights are read one by one, and compared whole only where their corners are equal: O(bytes of the weights that
    have a dimension list in common).
    """
    alike: dict[tuple[int, tuple[int, ...]], list[onnx.TensorProto]] = defaultdict(list)
    copied = tables(graph)
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS and len(tensor.dims) > 1 and tensor.name not in copied:
            alike[tensor.data_type, tuple(sorted(tensor.dims))].append(tensor)
    return tuple(twin for some in alike.values() if len(some) > 1 for twin in _twins_among(some))


def _twins_among(tensors: Iterable[onnx.TensorProto]) -> Iterator[Twin]:
    seen: dict[bytes, list[onnx.TensorProto]] = defaultdict(list)
    for tensor in tensors:
        values = array(tensor)
        corner = values[(slice(_CORNER),) * values.ndim]
        if np.all(corner == corner.flat[0]):
            continue  # a constant, not something learned
        firsts = seen[min(corner.tobytes(), corner.T.tobytes()) if corner.ndim == 2 else corner.tobytes()]
        twin = next((twin for first in firsts if (twin := _compared(first, tensor, values))), None)
        if twin is None:
            firsts.append(tensor)
        else:
            yield twin


def _compared(first: onnx.TensorProto, second: onnx.TensorProto, values: Array) -> Twin | None:
    other = array(first)
    if np.array_equal(other, values):
        return Twin(first.name, second.name, transposed=False)
    if values.ndim == 2 and np.array_equal(other.T, values):
        return Twin(first.name, second.name, transposed=True)
    return None
