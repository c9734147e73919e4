"""How much the positions of a normalized stream matter to the outputs: one class token may outweigh 196 others.

Where positions are put together from several sources, as a class token and patches are, those of each source are
disturbed by the same share of their own size, and what that does to the outputs is measured.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.axes.terms import Sum
from onnx_mdp.divergence import Divergence
from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.part import part
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.walk import Walk

Array = NDArray[Any]
Indices = NDArray[np.int64]

_INPUTS = 8  # to measure on
_NOISE = 0.2  # of a row's standard deviation
_PARTS = 8  # more sources than these are not told apart
_LEAST = 1e-2  # times the mean weight: what a position counts at least
_POWER = 0.5  # of what was measured: a few rows that are all that counts are too few to fit to


@dataclass(frozen=True, eq=False)
class PositionWeights:
    """What rows at each position count, one on average, and the positions of each source."""

    weights: Array
    parts: tuple[Indices, ...]

    def picked(self, picks: Indices) -> Array:
        """The weights of picked positions, each of which stands for those of its source that were not picked."""
        found = self.weights[picks]
        for places in self.parts:
            among = np.isin(picks, places)
            found = np.where(among, found * len(places) / max(int(among.sum()), 1), found)
        return found


def parts_of(weights: PositionWeights | None) -> tuple[Indices, ...]:
    """The positions of each source; none where all are alike."""
    return () if weights is None else weights.parts


class Positions:
    """Measures the weights of a stream's positions when they are first asked for.

    Args:
        coupling: of the dense network.
        inputs: of which the first few are used.
        runtime: what the network runs on.
    """

    def __init__(self, coupling: Coupling, inputs: Inputs, runtime: Runtime) -> None:
        self._coupling = coupling
        self._model = coupling.network.model
        self._inputs = inputs.take(0, min(max(_INPUTS, inputs.batch), inputs.count))
        self._runtime = runtime
        self._known: dict[str, PositionWeights | None] = {}
        self._divergence: Divergence | None = None

    def of(self, stream: str) -> PositionWeights | None:
        """The weights of a tensor's positions on its middle axis; None where all of them are alike."""
        if stream not in self._known:
            parts = self._parts(stream)
            self._known[stream] = self._measured(stream, parts) if parts else None
        return self._known[stream]

    def _parts(self, stream: str) -> tuple[Indices, ...]:
        """The positions of each source."""
        terms = self._coupling.axes.get(stream, ())
        if len(terms) != 3 or not isinstance(terms[1], Sum):
            return ()
        sizes = [term.size for term in terms[1].parts if term.size]
        ends = np.cumsum([0, *sizes])
        return tuple(map(np.arange, ends[:-1], ends[1:])) if 2 <= len(sizes) <= _PARTS else ()

    def _measured(self, stream: str, parts: tuple[Indices, ...]) -> PositionWeights | None:
        outputs = list(self._coupling.network.outputs)
        runs = list(Walk(self._model, self._inputs, self._runtime, 0).run([stream, *outputs]))
        if self._divergence is None:
            self._divergence = Divergence.fit([run[name] for name in outputs] for run in runs)
        feeds = {name: value for name, value in runs[0].items() if name not in outputs}
        model = part(self._model, feeds, outputs)
        names = [value.name for value in model.graph.input]
        with loadable(model) as reference:
            session = self._runtime.open(reference)
        costs = []
        for places in parts:
            rng = np.random.default_rng(zlib.crc32(stream.encode()))
            noisy = ({**run, stream: _disturbed(run[stream], places, rng)} for run in runs)
            found = (session.run({name: run[name] for name in names}, outputs) for run in noisy)
            costs.append(self._divergence.divergence(found))
        weights = np.empty(sum(map(len, parts)))
        for places, cost in zip(parts, costs, strict=True):
            weights[places] = cost / len(places)
        if not np.isfinite(weights).all() or weights.sum() <= 0:
            return None
        weights = np.maximum(weights / weights.mean(), _LEAST) ** _POWER
        return PositionWeights(weights / weights.mean(), parts)


def _disturbed(values: Array, places: Indices, rng: np.random.Generator) -> Array:
    """The tensor with noise at some positions, in proportion to each row's own spread."""
    found = np.array(values)
    rows = found[:, places]
    noise = rng.standard_normal(rows.shape) * rows.std(axis=-1, keepdims=True)
    found[:, places] = (rows + _NOISE * noise).astype(found.dtype)
    return found
