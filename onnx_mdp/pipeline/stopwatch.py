"""Compares a pruned model with the dense one: both in one process, run in turn, so drift hits both alike.

Comparisons are kept in the latency table like all that is measured, so that a search which measured nothing new is
repeated to the last bit. What a result rests on is measured again each time: the table counts only if that agrees.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from onnx_mdp.engine.base import Engine, Timing
from onnx_mdp.graph.external import Loadable, loadable
from onnx_mdp.graph.weights import structure
from onnx_mdp.latency.measure import Meter, sizes_text
from onnx_mdp.runtime.base import Feeds

_BUSY = 1.05  # wall over the runtime's own clock beyond which a run was disturbed
_SECONDS = (0.8, 3.2)
_CAREFUL = (1.6, 3.2)
BRIEF = (0.8, 1.6)  # for what is measured again before it counts
_DRIFT = 0.01  # between a comparison and the same one before, beyond which the older one no longer counts
_ANEW, _CONFIRMED = "as the dense one", "in several processes"
_SURE = 0.005  # standard error of the mean of several processes' ratios that will do
_PROCESSES = 6  # at most, of one confirmation
_SLOWER = 1.03  # times the dense model's best time, beyond which a comparison is made again
_TRIES = 2  # times at most, and fewer where that did not help before
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


def foreseen(dense_ms: float, share: float, precision: float) -> Comparison:
    """A comparison that a latency table predicts."""
    return Comparison(dense_ms, share * dense_ms, dense_ms, share * dense_ms, "table", precision)


@dataclass(frozen=True, eq=False)
class Memory:
    """Comparisons with one dense model as rows of a latency table: two each, one a model.

    Attributes:
        meter: keeps them.
        dense: the dense model's structure.
        feeds: the inputs of both models.
    """

    meter: Meter
    dense: str
    feeds: Feeds

    def recall(self, model: str, kind: str) -> Comparison | None:
        """The comparison of a kind with a model of this structure, if there is one."""
        dense, pruned = (self.meter.entry(text) for text in self._texts(model, kind))
        if dense is None or pruned is None:
            return None
        clock = "wall" if dense.ms == dense.wall_ms else "cpu"
        return Comparison(dense.ms, pruned.ms, dense.wall_ms, pruned.wall_ms, clock, pruned.spread)

    def keep(self, model: str, kind: str, found: Comparison) -> None:
        """Keep a comparison of a kind with a model of this structure."""
        pairs = ((found.dense_ms, found.dense_wall_ms), (found.pruned_ms, found.pruned_wall_ms))
        timings = (Timing(ms, wall_ms, found.precision, 1) for ms, wall_ms in pairs)
        self.meter.store(dict(zip(self._texts(model, kind), timings, strict=True)))

    def _texts(self, model: str, kind: str) -> tuple[str, str]:
        text = f"whole model {model} in turn with {self.dense}, {kind}, {sizes_text(self.feeds)}"
        return f"{text}: the latter", f"{text}: the former"


class Stopwatch:
    """Times models against one dense model on one set of inputs.

    After a comparison, `note` is what the user should know about how the dense model is run.

    Args:
        engine: where they run.
        dense: what a runtime loads of the dense model.
        feeds: the inputs.
        precision: that of table entries, as a share.
        memory: keeps comparisons, if given.
    """

    def __init__(
        self, engine: Engine, dense: str | bytes, feeds: Feeds, precision: float, memory: Memory | None = None
    ) -> None:
        self._engine = engine
        self._dense = dense
        self._feeds = feeds
        self._memory = memory
        self._fastest_ms = math.inf  # of the dense model so far
        self._tries = _TRIES
        self.note = ""
        self.precision = precision / _SHARPER

    def anew(self, pruned: Loadable) -> Comparison:
        """Compare, even if it was done before; but what was found then counts, unless this contradicts it."""
        model, fresh = self._structure(pruned), self._compared(pruned, _SECONDS)
        return self._agreed(model, _ANEW, fresh) or self._kept(model, _ANEW, fresh)

    def confirm(self, pruned: Loadable, before: Comparison) -> Comparison:
        """Compare again in new processes: in one, and in further ones for as long as they contradict each other.

        What memory a process is given, and what its neighbors leave it of the caches, is its own for as long as it
        lives. The mean of those counts that were disturbed least: which find the dense model as fast as the fastest.
        The one before does not, as the plan was chosen for it, and asks for a second one where it is not precise.
        """
        model, found = self._structure(pruned), [before]
        least = 2 if before.precision <= self.precision else 3
        while len(found) < least or (len(found) < _PROCESSES and standard_error(one.ratio for one in found) > _SURE):
            self._engine.renew()
            again = self._compared(pruned, _CAREFUL)
            if len(found) == 1 and (known := self._agreed(model, _CONFIRMED, again)):
                return known
            found.append(again)
        return self._kept(model, _CONFIRMED, _least_disturbed(found[1:]))

    def compare(self, pruned: Loadable, seconds: tuple[float, float] = _SECONDS) -> Comparison:
        """Alternate the two models until their ratio is known well enough, or for as long as may be spent."""
        model, kind = self._structure(pruned), f"up to {seconds[1]:g} s"
        known = self._memory.recall(model, kind) if self._memory else None
        return known or self._kept(model, kind, self._compared(pruned, seconds))

    def _structure(self, model: Loadable) -> str:
        """What a comparison is kept under; the model itself is not held, as a large one is then made again."""
        return structure(model() if callable(model) else model) if self._memory else ""

    def _kept(self, model: str, kind: str, found: Comparison) -> Comparison:
        if self._memory:
            self._memory.keep(model, kind, found)
        return found

    def _agreed(self, model: str, kind: str, fresh: Comparison) -> Comparison | None:
        """What was found before, if a fresh comparison agrees with it; in today's milliseconds if these differ."""
        known = self._memory.recall(model, kind) if self._memory else None
        if known is None or abs(math.log(fresh.ratio / known.ratio)) > _DRIFT:
            return None
        if abs(math.log(fresh.dense_ms / known.dense_ms)) <= _DRIFT:
            return known
        return replace(fresh, pruned_ms=known.ratio * fresh.dense_ms, precision=known.precision)

    def _compared(self, pruned: Loadable, seconds: tuple[float, float]) -> Comparison:
        """Compare, and again while the dense model is slower than it was: something disturbs the machine, or did not.

        Where that does not pass, the machine is as slow as it is from then on, and less time is spent on the next one.
        """
        with loadable(pruned) as model:
            found = self._duel(model, seconds)
            for _ in range(self._tries):
                if found.dense_ms <= _SLOWER * self._fastest_ms:
                    break
                found = min(found, self._duel(model, seconds), key=_product)
        calm = found.dense_ms <= _SLOWER * self._fastest_ms
        self._tries = min(self._tries + 1, _TRIES) if calm else max(self._tries - 1, 0)
        self._fastest_ms = min(found.dense_ms, self._fastest_ms) if calm else found.dense_ms
        return found

    def _duel(self, model: str | bytes, seconds: tuple[float, float]) -> Comparison:
        duel = self._engine.duel((self._dense, self._feeds), (model, self._feeds), seconds, self.precision)
        self.note = duel.note
        disturbed = sum(duel.wall) > _BUSY * sum(duel.busy)
        if self._engine.facts.trusts_busy and disturbed:
            dense, ratio, clock = duel.busy[0], duel.busy_ratio, "cpu"
        else:
            dense, ratio, clock = duel.wall[0], duel.wall_ratio, "wall"
        return Comparison(dense, ratio * dense, *duel.wall, clock, duel.precision)


def standard_error(ratios: Iterable[float]) -> float:
    """The standard error of the mean of two or more ratios, as a share of it."""
    logs = [math.log(ratio) for ratio in ratios]
    return statistics.stdev(logs) / math.sqrt(len(logs))


def _least_disturbed(found: Sequence[Comparison]) -> Comparison:
    """The fastest one, with the mean ratio of all that found the dense model as fast."""
    fastest = min(found, key=_product)
    ratio = statistics.geometric_mean(one.ratio for one in found if one.dense_ms <= _SLOWER * fastest.dense_ms)
    return replace(fastest, pruned_ms=ratio * fastest.dense_ms)


def _product(one: Comparison) -> float:
    return one.dense_ms * one.pruned_ms
