"""Second moments of a site's rows, and what least squares makes of them.

With rows x (and a one for the bias) and targets y, the moments A = sum x x^T, B = sum x y^T and c = sum y^2 hold all
that least squares needs: the best weights, and the error of any weights, on these rows or on others. They are summed
up in double precision, batch by batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_BLOCK = 1 << 15  # rows multiplied at a time in single precision


class Gram:
    """Moments of rows with an appended one, and of targets, per group: (G, K + 1, K + 1), (G, K + 1, O) and (G, O).

    Rows wait until there are K of them: to add moments up takes as much memory traffic for one row as for many. They
    are summed up less the mean of the first ones, which single precision then does not have to hold beside what inputs
    that hardly vary differ by.
    """

    def __init__(self, a: Array, b: Array, c: Array) -> None:
        self._a, self._b, self._c = a, b, c
        self._waiting: list[tuple[Array, Array]] = []
        self._shift: Array | None = None  # (G, K), subtracted from the rows in the sums

    @staticmethod
    def empty(groups: int, columns: int, outputs: int) -> Gram:
        """Moments of nothing."""
        k = columns + 1
        return Gram(np.zeros((groups, k, k)), np.zeros((groups, k, outputs)), np.zeros((groups, outputs)))

    @property
    def a(self) -> Array:
        """Sum of x x^T."""
        self._settle()
        return self._a

    @property
    def b(self) -> Array:
        """Sum of x y^T."""
        self._settle()
        return self._b

    @property
    def c(self) -> Array:
        """Sum of y^2."""
        self._settle()
        return self._c

    @property
    def rows(self) -> float:
        """Sum of the rows' weights, rounded as in A: moments less those of the mean cancel to the last digits."""
        return float(self.a[0, -1, -1])

    def add(self, x: Array, y: Array, weights: Array | None = None) -> None:
        """Count rows (G, R, K) and their targets (G, R, O), each by its weight (R,) where given."""
        for start in range(0, x.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            self._add(x[:, part], y[:, part], None if weights is None else weights[part])

    def _add(self, x: Array, y: Array, weights: Array | None) -> None:
        if self._shift is None:
            begun = self._a[0, -1, -1] > 0  # by other moments, which are not shifted
            self._shift = np.asarray(np.zeros(x.shape[::2]) if begun else x.mean(axis=1), np.float32)
        x = np.concatenate([x - self._shift[:, None], np.ones((*x.shape[:2], 1), np.float32)], axis=2)
        if weights is not None:
            root = np.sqrt(weights, dtype=np.float32)[None, :, None]
            x, y = x * root, y * root
        self._waiting.append((x, y))
        count = sum(rows.shape[1] for rows, _ in self._waiting)
        if count >= min(x.shape[2], _BLOCK):
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        x, y = (np.concatenate(parts, axis=1) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        turned = x.swapaxes(1, 2)
        self._a += turned @ x
        self._b += turned @ y
        self._c += np.square(y, dtype=np.float64).sum(axis=1)

    def _settle(self) -> None:
        """Sums of the rows as they are; whatever is added later is not shifted."""
        self._sum_up()
        if self._shift is not None and self._shift.any():
            shift = self._shift.astype(np.float64)
            self._b[:, :-1] += shift[:, :, None] * self._b[:, -1:]
            self._a[:, :-1] += shift[:, :, None] * self._a[:, -1:]
            self._a[:, :, :-1] += self._a[:, :, -1:] * shift[:, None]
            self._shift = np.zeros_like(self._shift)

    def __add__(self, other: Gram) -> Gram:
        return Gram(self.a + other.a, self.b + other.b, self.c + other.c)

    def error(self, matrix: Array, bias: Array) -> Array:
        """Mean squared error of y = x W + b per output channel; (G, O)."""
        w = np.concatenate([matrix, bias[:, None, :]], axis=1)
        found = self.c + np.einsum("gko,gko->go", w, self.a @ w - 2 * self.b)
        return np.asarray(np.maximum(found, 0) / max(self.rows, 1e-30))

    def fit(self, matrix: Array, bias: Array, ridge: float, *, free: bool) -> tuple[Array, Array]:
        """Weights and bias of least error, drawn towards the given ones by `ridge` times the mean of A's diagonal.

        Without `free` the bias stays as it is.
        """
        prior = np.concatenate([matrix, bias[:, None, :]], axis=1)
        k = matrix.shape[1]
        gap = self.b - self.a @ prior
        damp = ridge * np.trace(self.a[:, :k, :k], axis1=1, axis2=2)[:, None] / max(k, 1) + 1e-12 * self.rows + 1e-30
        a = self.a.copy()
        a[:, range(k), range(k)] += damp
        if not free:
            return matrix + _solved(a[:, :k, :k], gap[:, :k]), bias
        a[:, k, k] += 1e-9 * self.rows
        found = prior + _solved(a, gap)
        return found[:, :k], found[:, k]


def _solved(a: Array, b: Array) -> Array:
    """A^-1 B for positive definite A, by least squares where rounding says otherwise."""
    try:
        return np.asarray(np.linalg.solve(a, b))
    except np.linalg.LinAlgError:
        return np.stack([np.linalg.lstsq(left, right, rcond=None)[0] for left, right in zip(a, b, strict=True)])
