"""Compares a pruned model with the dense one: both in one process, run in turn, so drift hits both alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnx_mdp.engine.base import Engine
from onnx_mdp.graph.external import Loadable, loadable
from onnx_mdp.runtime.base import Feeds

_BUSY = 1.05  # wall over the runtime's own clock beyond which a run was disturbed
_SECONDS = (0.8, 5.0)
BRIEF = (0.8, 2.5)  # for what is measured again before it counts
_SHARPER = 4  # whole models are compared this much more precisely than table entries: they decide


@dataclass(frozen=True)
class Comparison:
    """Median milliseconds of the dense and the pruned model by one clock.

    `clock` is wall time; at one thread it is CPU time when the machine was too busy for wall time to mean anything.
    `precision` is the half-width of the 95 % interval around the ratio of the two, as a share of it.
    """

    dense_ms: float
    pruned_ms: float
    dense_wall_ms: float
    pruned_wall_ms: float
    clock: str
    precision: float

    @property
    def ratio(self) -> float:
        """Pruned over dense."""
        return self.pruned_ms / self.dense_ms

    def same(self) -> Comparison:
        """The dense model compared with itself."""
        return replace(self, pruned_ms=self.dense_ms, pruned_wall_ms=self.dense_wall_ms)


class Stopwatch:
    """Times models against one dense model on one set of inputs.

    After a comparison, `note` is what the user should know about how the dense model is run.
    """

    def __init__(self, engine: Engine, dense: str | bytes, feeds: Feeds, precision: float) -> None:
        self._engine = engine
        self._dense = dense
        self._feeds = feeds
        self.note = ""
        self.precision = precision / _SHARPER

    def confirm(self, pruned: Loadable, before: Comparison) -> Comparison:
        """Compare again in a new process; the geometric mean of the two ratios counts, on the second one's clock."""
        self._engine.renew()
        again = self.compare(pruned)
        ratio = math.sqrt(before.ratio * again.ratio)
        return replace(again, pruned_ms=ratio * again.dense_ms, precision=max(before.precision, again.precision))

    def compare(self, pruned: Loadable, seconds: tuple[float, float] = _SECONDS) -> Comparison:
        """Alternate the two models until their ratio is known well enough, or for as long as may be spent."""
        with loadable(pruned) as model:
            duel = self._engine.duel((self._dense, self._feeds), (model, self._feeds), seconds, self.precision)
        self.note = duel.note
        disturbed = sum(duel.wall) > _BUSY * sum(duel.busy)
        if self._engine.facts.trusts_busy and disturbed:
            dense, ratio, clock = duel.busy[0], duel.busy_ratio, "cpu"
        else:
            dense, ratio, clock = duel.wall[0], duel.wall_ratio, "wall"
        return Comparison(dense, ratio * dense, *duel.wall, clock, duel.precision)
