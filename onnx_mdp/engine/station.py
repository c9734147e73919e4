"""What runs beside a runtime, in the process that measures.

Machines are shared and noisy. So models are timed in turn, a few milliseconds each, with a canary: a fixed small model
whose time tells how fast the machine is at the moment. A pass that the canary finds 20 % slow is counted 20 % shorter,
and the median over the passes is what counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from onnx_mdp.engine import pinning
from onnx_mdp.engine.base import Asked, Duel, Facts, Failure, Model, Timing
from onnx_mdp.engine.turns import Samples, counted, turns
from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.graph.sample import matmul_chain
from onnx_mdp.runtime.base import Kernel, RuntimeSpec, Session
from onnx_mdp.runtime.registry import open_runtime
from onnx_mdp.runtime.timing import sample

_CANARY_WIDTH = 96
_CANARY_PASSES = 9


class Station:
    """A runtime with a canary, and the latest model that others were compared with."""

    def __init__(self, spec: RuntimeSpec) -> None:
        self.runtime = open_runtime(spec)
        runtime = self.runtime
        self.facts = Facts(runtime.fingerprint, runtime.profiles, runtime.trusts_busy)
        self._first: tuple[str | bytes, Session] | None = None

    def canary_ms(self) -> float:
        """The canary's present time in milliseconds."""
        pinning.pin(self.runtime.threads)
        self._canary.tick()
        samples = [sample(self._canary, 0.003)[self._clock] for _ in range(_CANARY_PASSES)]
        return statistics.median(samples) / 1e6

    def time(self, models: Sequence[Model], asked: Asked) -> list[Timing | Failure]:
        """Time models in turn; one that does not load or run is a failure."""
        pinning.pin(self.runtime.threads)
        opened = [self._open(*model) for model in models]
        sessions = [session for session in opened if isinstance(session, Session)]
        timings = iter(self._timings(sessions, asked))
        return [found if isinstance(found, Failure) else next(timings) for found in opened]

    def duel(self, first: Model, second: Model, seconds: tuple[float, float], precision: float) -> Duel:
        """Run two models in turn until their ratio is known to `precision`; the first stays loaded for the next."""
        if self._first is None or self._first[0] != first[0]:
            self._first = first[0], self.runtime.open(first[0])
            self._first[1].bind(first[1])
        other = self.runtime.open(second[0])
        other.bind(second[1])
        pair = [self._first[1], other]
        samples, spent = turns(pair, self.runtime.threads, seconds[0]), seconds[0]
        best = counted(samples, self._clock)
        while (reached := _precision(_ratios(best)[self._clock])) > precision and spent < seconds[1]:
            samples = np.concatenate([samples, turns(pair, self.runtime.threads, seconds[0])], axis=1)
            best = counted(samples, self._clock)
            spent += seconds[0]
        (wall_a, busy_a), (wall_b, busy_b) = np.median(best, axis=1).tolist()
        wall_ratio, busy_ratio = np.median(_ratios(best), axis=1).tolist()
        return Duel(
            (wall_a, wall_b), (busy_a, busy_b), wall_ratio, busy_ratio, reached, samples.shape[1], self._first[1].note
        )

    def profile(self, model: Model, runs: int) -> list[Kernel]:
        """The kernels of a model, timed over some runs."""
        pinning.pin(self.runtime.threads)
        return self.runtime.profile(*model, runs)

    @property
    def _clock(self) -> int:
        return 1 if self.runtime.trusts_busy else 0

    @cached_property
    def _canary(self) -> Session:
        model, feeds = matmul_chain(_CANARY_WIDTH)
        session = self.runtime.open(model.SerializeToString())
        session.bind(feeds)
        return session

    def _open(self, model: str | bytes, feeds: object) -> Session | Failure:
        try:
            session = self.runtime.open(model)
            session.bind(feeds)  # type: ignore[arg-type]
            session.tick()
        except RuntimeBackendError as error:
            return Failure(str(error))
        return session

    def _timings(self, sessions: Sequence[Session], asked: Asked) -> list[Timing]:
        self._canary.tick()
        canary: list[float] = []
        samples: list[list[tuple[float, float, int]]] = [[] for _ in sessions]
        for index in range(asked.passes[1]):
            canary.append(sample(self._canary, asked.seconds)[self._clock] / 1e6)
            for session, found in zip(sessions, samples, strict=True):
                if index < asked.passes[0] or _precision(_normal(found, canary, self._clock)) > asked.precision:
                    found.append((*sample(session, asked.seconds), index))
        reference = asked.canary_ms or statistics.median(canary)
        return [_timing(found, canary, reference, self._clock) for found in samples]


def _normal(found: Sequence[tuple[float, float, int]], canary: Sequence[float], clock: int) -> Samples:
    """Milliseconds per millisecond of the canary in the same pass."""
    return np.array([row[clock] / 1e6 / canary[row[2]] for row in found])


def _timing(found: Sequence[tuple[float, float, int]], canary: Sequence[float], reference: float, clock: int) -> Timing:
    normal = _normal(found, canary, clock)
    return Timing(
        ms=float(np.median(normal)) * reference,
        wall_ms=statistics.median(row[0] for row in found) / 1e6,
        precision=_precision(normal),
        count=len(found),
    )


def _precision(samples: Samples) -> float:
    """Half-width of the 95 % interval of a median, from the median absolute deviation, as a share of the median."""
    middle = float(np.median(samples))
    deviation = 1.4826 * float(np.median(np.abs(samples - middle)))
    return 1.96 * 1.2533 * deviation / len(samples) ** 0.5 / middle if middle else 0.0


def _ratios(samples: Samples) -> Samples:
    """Second over first in each turn: one row per clock."""
    return np.asarray((samples[1] / np.maximum(samples[0], 1e-9)).T)
