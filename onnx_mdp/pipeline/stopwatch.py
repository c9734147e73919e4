"""Compares a pruned model with the dense one: both in one process, run in turn, so drift hits both alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_mdp.graph.external import Loadable, loadable
from onnx_mdp.runtime.base import Feeds, Runtime, Session
from onnx_mdp.runtime.timing import alternate

_BUSY = 1.05  # wall over CPU time beyond which a one-thread run was disturbed


@dataclass(frozen=True)
class Comparison:
    """Median milliseconds of the dense and the pruned model by one clock.

    `clock` is wall time; at one thread it is CPU time when the machine was too busy for wall time to mean anything.
    """

    dense_ms: float
    pruned_ms: float
    dense_wall_ms: float
    pruned_wall_ms: float
    clock: str

    @property
    def ratio(self) -> float:
        """Pruned over dense."""
        return self.pruned_ms / self.dense_ms


class Stopwatch:
    """Times models against one dense session on one set of inputs."""

    def __init__(self, runtime: Runtime, dense: str | bytes, feeds: Feeds) -> None:
        self._runtime = runtime
        self._feeds = feeds
        self._dense: Session = runtime.open(dense)
        self._dense.bind(feeds)
        self.note = self._dense.note

    def compare(self, pruned: Loadable, seconds: float) -> Comparison:
        """Alternate the two models for about `seconds`."""
        with loadable(pruned) as reference:
            session = self._runtime.open(reference)
        session.bind(self._feeds)
        samples = np.array(alternate([self._dense, session], seconds))
        (dense_wall, dense_cpu), (pruned_wall, pruned_cpu) = np.median(samples, axis=1).tolist()
        busy = self._runtime.trusts_busy and dense_wall + pruned_wall > _BUSY * (dense_cpu + pruned_cpu)
        if busy:
            return Comparison(dense_cpu, pruned_cpu, dense_wall, pruned_wall, "cpu")
        return Comparison(dense_wall, pruned_wall, dense_wall, pruned_wall, "wall")
