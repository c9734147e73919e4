"""Second moments of activations over calibration inputs, in chunks that respect a memory limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_mdp.axes.terms import leaves
from onnx_mdp.graph.expose import exposed
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.base import Vector
from onnx_mdp.inputs.arrays import Inputs
from onnx_mdp.runtime.base import Runtime

_CHUNK_BYTES = 48 << 20
AxisKey = tuple[str, int]


def axis_key(tensor: str, axis: int) -> AxisKey:
    """The name under which the moments along an axis are kept."""
    return tensor, axis


@dataclass
class Moments:
    """Sums of squares per position of some axes and of whole tensors, with the counts to average them."""

    axes: dict[AxisKey, Vector] = field(default_factory=dict)
    totals: dict[str, tuple[float, int]] = field(default_factory=dict)
    runs: int = 0

    def along(self, key: AxisKey) -> Vector:
        """Mean square at each position of an axis."""
        return self.axes[key] / max(self.runs, 1)

    def mean(self, tensor: str) -> float:
        """Mean square of a tensor's elements."""
        total, count = self.totals[tensor]
        return total / max(count, 1)


def collect_moments(
    analysis: Analysis, inputs: Inputs, runtime: Runtime, progress: Callable[[int, int], None]
) -> Moments:
    """Run the network over all inputs and sum up what the activation scorer asks for."""
    axes = list(_asked_axes(analysis))
    whole = [name for block in analysis.blocks for name in (block.branch, block.entry)]
    tensors = list(dict.fromkeys([*(tensor for tensor, _ in axes), *whole]))
    moments = Moments()
    chunks = list(_chunks(analysis, tensors, inputs.batch))
    for number, chunk in enumerate(chunks):
        session = runtime.open(exposed(analysis.network.model, chunk).SerializeToString())
        asked = [(t, a) for t, a in axes if t in set(chunk)]
        moments.runs = 0
        for feeds in inputs.batches():
            found = dict(zip(chunk, session.run(feeds, chunk), strict=True))
            moments.runs += 1
            _add(moments, found, asked, set(whole))
            progress(number * inputs.steps + moments.runs, len(chunks) * inputs.steps)
    return moments


def _add(moments: Moments, found: dict[str, np.ndarray], asked: Iterable[AxisKey], whole: set[str]) -> None:
    for tensor, axis in asked:
        values = found[tensor]
        others = tuple(i for i in range(values.ndim) if i != axis)
        square = np.square(values, dtype=np.float64).mean(axis=others)
        moments.axes[tensor, axis] = moments.axes.get((tensor, axis), np.zeros(len(square))) + square
    for tensor in found.keys() & whole:
        total, count = moments.totals.get(tensor, (0.0, 0))
        square_sum = float(np.square(found[tensor], dtype=np.float64).sum())
        moments.totals[tensor] = (total + square_sum, count + found[tensor].size)


def _asked_axes(analysis: Analysis) -> Iterator[AxisKey]:
    free = {group.factor for group in analysis.groups}
    for contraction in analysis.coupling.contractions:
        if not free.isdisjoint(leaves(contraction.term)):
            for tensor, axis in contraction.operands:
                if tensor not in analysis.network.weights:
                    yield axis_key(tensor, axis)


def _chunks(analysis: Analysis, tensors: Sequence[str], batch: int) -> Iterator[list[str]]:
    """Groups of tensors that fit into memory together at the given batch."""
    chunk: list[str] = []
    used = 0
    for tensor in tensors:
        size = math.prod(analysis.network.shapes[tensor]) * 4 * batch
        if chunk and used + size > _CHUNK_BYTES:
            yield chunk
            chunk, used = [], 0
        chunk.append(tensor)
        used += size
    if chunk:
        yield chunk
