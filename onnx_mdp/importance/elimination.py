"""Which units to drop, one after the other, when what is left is re-fitted by least squares after each.

The optimal brain surgeon (Hassibi & Stork, 1993) for units of several columns (as in Frantar & Alistarh, 2022): with
the covariance H of a layer's inputs and its weights W, dropping the columns S and re-fitting the others costs
tr(W_S^T ((H^-1)_SS)^-1 W_S), changes W by -(H^-1)_:S ((H^-1)_SS)^-1 W_S, and H^-1 by the rank |S| update that goes with
it: O(K^3) for all units of a layer of K columns together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_DAMP = 1e-3  # of the mean variance: columns are correlated, and the covariance is estimated from samples
_STEPS = 48  # units dropped at a time: one in so many of those left


@dataclass(eq=False)
class Layer:
    """One least squares problem and what each unit brings to it.

    Attributes:
        covariance: (K, K), of the layer's inputs.
        weights: (K, O); those of the re-fit after each step of `eliminate`.
        columns: of each unit, an equal number; (units, C).
        share: what the loss of all of the layer's output counts.
    """

    covariance: Array
    weights: Array
    columns: Array
    share: float
    energy: float = field(init=False)
    _inverse: Array = field(init=False)
    _alive: Array = field(init=False)

    def __post_init__(self) -> None:
        damped = _damped(self.covariance)
        self.energy = float(np.einsum("ko,ko->", self.weights, damped @ self.weights)) or 1.0
        self._inverse = np.linalg.inv(damped)
        self._alive = np.arange(len(damped))
        self.weights = self.weights.copy()

    def losses(self, units: Array) -> Array:
        """What dropping each of the units alone would add to the loss."""
        places = np.searchsorted(self._alive, self.columns[units])
        blocks = self._inverse[places[:, :, None], places[:, None, :]]
        rows = self.weights[self.columns[units]]
        return self._cost(rows, blocks)

    def drop(self, units: Array) -> float:
        """Drop units together and re-fit; the loss that adds."""
        columns = self.columns[units].reshape(-1)
        places = np.searchsorted(self._alive, columns)
        strip = self._inverse[:, places]
        solved = np.linalg.solve(strip[places], np.concatenate([self.weights[columns], strip.T], axis=1))
        outputs = self.weights.shape[1]
        loss = float(np.einsum("ko,ko->", self.weights[columns], solved[:, :outputs]))
        self.weights[self._alive] -= strip @ solved[:, :outputs]
        self.weights[columns] = 0
        self._inverse -= strip @ solved[:, outputs:]
        left = np.setdiff1d(np.arange(len(self._alive)), places)
        self._alive, self._inverse = self._alive[left], self._inverse[np.ix_(left, left)]
        return self.share * max(loss, 0.0) / self.energy

    def _cost(self, rows: Array, blocks: Array) -> Array:
        solved = np.linalg.solve(blocks, rows)
        return np.asarray(self.share * np.maximum(np.einsum("uco,uco->u", rows, solved), 0) / self.energy)


def _damped(covariance: Array) -> Array:
    """The covariance with its diagonal raised until it is positive definite by at least half of that.

    Where inputs hardly vary, rounding leaves negative eigenvalues that the usual damping does not outweigh.
    """
    k = len(covariance)
    usual = abs(_DAMP * np.trace(covariance) / max(k, 1)) + 1e-30
    largest = 2 * float(np.linalg.norm(covariance)) + 1e-30
    damp = next((more for more in (usual, 10 * usual, 100 * usual) if _is_positive(covariance, more / 2)), largest)
    return covariance + damp * np.eye(k)


def _is_positive(matrix: Array, more: float) -> bool:
    """Whether a symmetric matrix is positive definite with its diagonal raised."""
    try:
        np.linalg.cholesky(matrix + more * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Elimination:
    """Units from most to least important, and per layer the loss at each kept width 0..units."""

    order: NDArray[np.int64]
    losses: tuple[Array, ...]


def eliminate(layers: Sequence[Layer], fixed: Sequence[Array], units: int) -> Elimination:
    """Drop units in the order of what they cost, until none is left.

    Args:
        layers: whose weights are re-fitted; they are changed.
        fixed: what each unit costs where nothing can be re-fitted; (units,) each.
        units: how many there are.
    """
    alive, gone = np.arange(units), []
    total = np.sum([*fixed, np.zeros(units)], axis=0)
    losses = [np.zeros(units + 1) for _ in (*layers, *fixed)]
    while len(alive):
        count = max(1, len(alive) // _STEPS)
        costs = total[alive] + np.sum([layer.losses(alive) for layer in layers] or [np.zeros(len(alive))], axis=0)
        dropped = alive[np.argsort(costs, kind="stable")[:count]]
        alive = np.setdiff1d(alive, dropped)
        for i, layer in enumerate(layers):
            _spread(losses[i], len(alive), count, layer.drop(dropped))
        for i, values in enumerate(fixed, len(layers)):
            _spread(losses[i], len(alive), count, float(values[dropped].sum()))
        gone.append(dropped)
    order = np.concatenate(gone[::-1]).astype(np.int64)
    return Elimination(order, tuple(losses))


def _spread(losses: Array, width: int, count: int, loss: float) -> None:
    """Add a loss at a width, and in equal steps at those between it and the width before."""
    before = losses[width + count]
    losses[width : width + count] = before + loss * np.arange(count, 0, -1) / count
