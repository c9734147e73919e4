"""From the sum of a table's entries to the latency of the whole model, with the uncertainty of that step.

The ratio of the measured whole model to the table's sum is a random function of the logarithm of the sum: a constant,
a slope, a part that plans of nearly the same latency share, and a part of each plan's own. A Gaussian process with
these four parts (Rasmussen and Williams, 2006, chapter 2) is fitted to the whole models measured so far; every round
of the closed loop adds one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Standard deviations of the ratio's logarithm, chosen on the models of tools/bench_latency.py.
_CONSTANT = 0.5
_SLOPE = 0.1
_NEAR = 0.02
_OWN = 0.012
_LENGTH = 0.08  # of the logarithm of the sum over which plans count as near


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of a whole model and the standard deviation of that."""

    ms: float
    deviation: float


@dataclass(eq=False)
class Correction:
    """What whole models measured so far tell about others. Both lists are in milliseconds."""

    sums: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    def add(self, table_ms: float, measured_ms: float) -> None:
        """Take one more whole model into account."""
        if table_ms > 0 and measured_ms > 0:
            self.sums.append(table_ms)
            self.measured.append(measured_ms)

    def predict(self, table_ms: float) -> Prediction:
        """The latency of a whole model whose entries sum to `table_ms`."""
        if not self.sums:
            return Prediction(table_ms, _CONSTANT * table_ms)
        known, at = np.log(self.sums), np.array([math.log(max(table_ms, 1e-9))])
        center = float(known.mean())
        ratios = np.log(np.array(self.measured) / np.array(self.sums))
        prior = float(np.median(ratios))
        covariance = _covariance(known, known, center) + _OWN**2 * np.eye(len(known))
        towards = _covariance(at, known, center)[0]
        mean = prior + float(towards @ np.linalg.solve(covariance, ratios - prior))
        own = float(_covariance(at, at, center)[0, 0]) + _OWN**2
        variance = own - float(towards @ np.linalg.solve(covariance, towards))
        ms = table_ms * math.exp(mean)
        return Prediction(ms, ms * math.sqrt(max(variance, 0.0)))

    def table_ms(self, ms: float) -> float:
        """The sum of entries that is predicted to take `ms`: the inverse of `predict`, by fixed point."""
        table_ms = ms
        for _ in range(20):
            table_ms *= ms / self.predict(table_ms).ms
        return table_ms


def _covariance(a: Vector, b: Vector, center: float) -> Vector:
    distance = a[:, None] - b[None]
    slope = _SLOPE**2 * (a - center)[:, None] * (b - center)[None]
    return np.asarray(_CONSTANT**2 + slope + _NEAR**2 * np.exp(-0.5 * (distance / _LENGTH) ** 2))
