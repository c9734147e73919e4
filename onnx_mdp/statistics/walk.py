"""Walks through a model over many inputs: what is behind is computed once and kept, what is ahead may still change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.part import live, part
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Runtime

Array = NDArray[Any]
Batch = Mapping[str, Array]


class Walk:
    """Tensors of a model over all batches of its inputs.

    `limit` is the number of bytes that may be kept. Whatever lies before `position` must not change any more; the
    weights after it may.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Inputs, runtime: Runtime, limit: int) -> None:
        self.model = model
        self.position = 0
        self._inputs = inputs
        self._runtime = runtime
        self._limit = limit
        self._kept: list[dict[str, Array]] | None = None

    def fork(self, model: onnx.ModelProto) -> Walk:
        """A walk through a model that is the same up to here, from the tensors that are kept."""
        other = Walk(model, self._inputs, self._runtime, self._limit)
        other._kept = self._kept
        return other

    def run(self, names: Sequence[str]) -> Iterator[Batch]:
        """The tensors, batch after batch."""
        known = next(self._batches())
        computed = [name for name in dict.fromkeys(names) if name not in known]
        if not computed:
            yield from self._batches()
            return
        model = part(self.model, known, computed)
        read = [value.name for value in model.graph.input]
        with loadable(model) as reference:
            session = self._runtime.open(reference)
        for batch in self._batches():
            found = session.run({name: batch[name] for name in read}, computed)
            yield {**batch, **dict(zip(computed, found, strict=True))}

    def advance(self, position: int) -> None:
        """Keep what the nodes from `position` on need, if that is little enough."""
        if position <= self.position:
            return
        names = live(self.model, position, list(next(iter(self._inputs.batches()))))
        kept: list[dict[str, Array]] = []
        left = self._limit
        for batch in self.run(names):
            kept.append({name: batch[name] for name in names})
            left -= sum(array.nbytes for array in kept[-1].values())
            if left < 0 or (len(kept) == 1 and left < self._limit - self._limit / self._inputs.steps):
                return
        self._kept, self.position = kept, position

    def _batches(self) -> Iterator[dict[str, Array]]:
        yield from self._inputs.batches() if self._kept is None else self._kept
