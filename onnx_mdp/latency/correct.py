"""From the sum of a table's entries to the latency of the whole model, with the uncertainty of that step.

The ratio of the measured whole model to the table's sum is a random function of two logarithms, that of the sum before
blocks are removed and that of what removing leaves of it: a constant, a slope along each, a part that plans near in
both share, and a part of each plan's own. A Gaussian process with these parts (Rasmussen and Williams, 2006, chapter 2)
is fitted to the whole models measured so far; every round of the closed loop adds one.
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
_LENGTH = 0.08  # of either logarithm over which plans count as near


@dataclass(frozen=True)
class Sums:
    """Milliseconds that the entries of a whole model add up to, and that they would with all blocks kept."""

    kept: float
    full: float


@dataclass(frozen=True)
class Prediction:
    """The share of the dense model's latency that a model takes, and the standard deviation of that."""

    share: float
    deviation: float


@dataclass(eq=False)
class Correction:
    """What whole models measured so far tell about others: their sums, and latencies as shares of the dense model's."""

    sums: list[Sums] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, sums: Sums, share: float) -> None:
        """Take one more whole model into account."""
        if sums.kept > 0 and share > 0:
            self.sums.append(sums)
            self.shares.append(share)

    def predict(self, sums: Sums) -> Prediction:
        """The latency of a whole model; at least one must have been added."""
        known, at = _places(self.sums), _places([sums])
        center = known.mean(axis=0)
        ratios = np.log([share / s.kept for share, s in zip(self.shares, self.sums, strict=True)])
        prior = float(np.median(ratios))
        covariance = _covariance(known - center, known - center) + _OWN**2 * np.eye(len(known))
        towards = _covariance(at - center, known - center)[0]
        mean = prior + float(towards @ np.linalg.solve(covariance, ratios - prior))
        variance = float(_covariance(at - center, at - center)[0, 0]) + _OWN**2
        variance -= float(towards @ np.linalg.solve(covariance, towards))
        share = sums.kept * math.exp(mean)
        return Prediction(share, share * math.sqrt(max(variance, 0.0)))


def _places(sums: list[Sums]) -> Vector:
    return np.array([[math.log(max(s.full, 1e-9)), math.log(max(s.kept, 1e-9) / max(s.full, 1e-9))] for s in sums])


def _covariance(a: Vector, b: Vector) -> Vector:
    distance = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    return np.asarray(_CONSTANT**2 + _SLOPE**2 * (a @ b.T) + _NEAR**2 * np.exp(-0.5 * distance / _LENGTH**2))
