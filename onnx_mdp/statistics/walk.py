"""Walks through a model over many inputs: what is behind is computed once and kept, what is ahead may still change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.part import live, part
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Runtime

Array = NDArray[Any]
Batch = Mapping[str, Array]


@dataclass
class _Kept:
    """The tensors that nodes from a position on need, for all batches: none if they are more than `limit` bytes."""

    position: int
    names: tuple[str, ...]
    limit: float
    steps: int
    batches: list[dict[str, Array]] = field(default_factory=list)
    exceeds: bool = False

    def add(self, batch: Batch) -> None:
        """Keep those of a batch, if those of all are likely to be little enough."""
        if self.exceeds:
            return
        self.batches.append({name: batch[name] for name in self.names})
        size = sum(array.nbytes for array in self.batches[-1].values())
        self.limit -= size
        if self.limit < 0 or (len(self.batches) == 1 and self.limit < size * (self.steps - 1)):
            self.exceeds = True
            self.batches.clear()


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

    def run(self, names: Sequence[str], until: int = 0) -> Iterator[Batch]:
        """The tensors, batch after batch; once all are taken, this stands at `until` if it was before, as by `advance`.

        That is for less than both: nodes that both need are run once.
        """
        kept = self._keeping(until)
        for batch in self._computed([*names, *kept.names]):
            kept.add(batch)
            yield batch
        self._stand(kept)

    def advance(self, position: int) -> None:
        """Keep what the nodes from `position` on need, if that is little enough."""
        kept = self._keeping(position)
        if kept.exceeds:
            return
        for batch in self._computed(kept.names):
            kept.add(batch)
            if kept.exceeds:
                return
        self._stand(kept)

    def _keeping(self, position: int) -> _Kept:
        if position <= self.position:
            return _Kept(self.position, (), 0, 0, exceeds=True)
        names = live(self.model, position, list(next(iter(self._inputs.batches()))))
        return _Kept(position, tuple(names), self._limit, self._inputs.steps)

    def _stand(self, kept: _Kept) -> None:
        if not kept.exceeds:
            self._kept, self.position = kept.batches, kept.position

    def _computed(self, names: Sequence[str]) -> Iterator[Batch]:
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

    def _batches(self) -> Iterator[dict[str, Array]]:
        yield from self._inputs.batches() if self._kept is None else self._kept
