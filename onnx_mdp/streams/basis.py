"""Linear maps along a factor, wherever in an axis it lies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_mdp.axes.terms import Factor, Prod, Sum, Term, leaves, size
from onnx_mdp.graph.shapes import Array

_RIDGE = 1e-4  # of a moment's mean eigenvalue: what its weakest directions count at least
_TINY = 1e-6  # the same, where directions are not cut off by it but made up for
Widths = Mapping[Factor, int]


def along(values: Array, axis: int, term: Term, factor: Factor, matrix: Array, widths: Widths | None = None) -> Array:
    """The values with a square matrix applied to the positions of a factor on one axis; in double precision.

    `widths` are the sizes of factors that are not whole.
    """
    moved = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    return np.moveaxis(_last(moved, term, factor, matrix, widths or {}), -1, axis)


def along_heads(values: Array, axis: int, units: Array, matrices: Array, inverse: Array) -> Array:
    """The values with a square matrix of each head applied on one axis; in double precision.

    Args:
        values: of any shape.
        axis: of `values`.
        units: positions on the axis, (heads, occurrences, units).
        matrices: (heads, units, units).
        inverse: positions at which it is the inverse transpose of the matrix instead.
    """
    found = np.moveaxis(np.array(values, np.float64), axis, -1)
    for places, matrix in zip(units, matrices, strict=True):
        for place in places:
            own = np.linalg.inv(matrix).T if np.isin(place[0], inverse) else matrix
            found[..., place] = found[..., place] @ own.T
    return np.moveaxis(found, -1, axis)


def by_head(term: Term, factor: Factor, heads: Factor | None) -> Array:
    """The positions of every occurrence of a factor on an axis, by head; (heads or 1, occurrences, units)."""
    units = instances(term, factor)
    if heads is None:
        return units[None]
    head = np.empty(term.size, np.int64)
    head[instances(term, heads)] = np.arange(heads.size)
    return units[np.argsort(head[units[:, 0]], kind="stable")].reshape(heads.size, -1, factor.size)


def _last(values: Array, term: Term, factor: Factor, matrix: Array, widths: Widths) -> Array:
    if term is factor:
        return np.asarray(values @ matrix.T)
    if isinstance(term, Sum):
        ends = np.cumsum([size(part, widths) for part in term.parts])
        parts = np.split(values, ends[:-1], axis=-1)
        turned = [_last(p, t, factor, matrix, widths) for p, t in zip(parts, term.parts, strict=True)]
        return np.concatenate(turned, axis=-1)
    if isinstance(term, Prod) and factor in leaves(term):
        sizes = [size(part, widths) for part in term.parts]
        grid = values.reshape(*values.shape[:-1], *sizes)
        for i, part in enumerate(term.parts):
            if factor in leaves(part):
                place = i - len(sizes)
                grid = np.moveaxis(_last(np.moveaxis(grid, place, -1), part, factor, matrix, widths), -1, place)
        return grid.reshape(values.shape)
    return values


def instances(term: Term, factor: Factor) -> Array:
    """The positions of every occurrence of a factor on an axis; (occurrences, units)."""
    if term is factor:
        return np.arange(factor.size)[None]
    if isinstance(term, Sum):
        starts = np.cumsum([0] + [part.size for part in term.parts[:-1]])
        found = [start + instances(part, factor) for start, part in zip(starts, term.parts, strict=True)]
        return np.concatenate(found)
    if isinstance(term, Prod) and factor in leaves(term):
        place = next(i for i, part in enumerate(term.parts) if factor in leaves(part))
        grid = np.moveaxis(np.arange(term.size).reshape([part.size for part in term.parts]), place, -1)
        return grid.reshape(-1, grid.shape[-1])[:, instances(term.parts[place], factor)].reshape(-1, factor.size)
    return np.empty((0, factor.size), np.int64)


def transferred(values: Array, before: Term, after: Term, factor: Factor) -> Array | None:
    """The numbers of units on another axis that holds them; None where either axis holds more, or they differ."""
    places, others = instances(before, factor), instances(after, factor)
    if places.size < before.size or others.size < after.size or np.ptp(values[places], axis=0).any():
        return None
    result = np.empty(after.size)
    result[others] = values[places[0]]
    return result


def centering(width: int) -> Array:
    """The matrix that subtracts the mean."""
    return np.eye(width) - 1 / width


def reflection(width: int) -> Array:
    """The reflection between the last unit vector and the direction of all ones; symmetric and orthogonal.

    It takes vectors whose last element is zero to vectors of zero mean.
    """
    vector = np.full(width, -1 / np.sqrt(width))
    vector[-1] += 1
    norm = vector @ vector
    return np.eye(width) - (2 / norm) * np.outer(vector, vector) if norm > 0 else np.eye(width)


def principal(moment: Array, *, centered: bool) -> Array:
    """The principal directions of a second moment as rows, the strongest first.

    With `centered` the last row is the direction of all ones, and the others are orthogonal to it.
    """
    inner = _inner(len(moment), centered=centered)
    return _completed(_directions(inner @ moment @ inner.T) @ inner, centered=centered)


def most_wanted(moment: Array, wanted: Array, *, centered: bool) -> Array:
    """Orthonormal rows such that from the first k of them least squares makes the most of what is read, for every k.

    With x of second moment H read by matrices of outer product G, the k numbers that least squares makes the most of
    are those of U^T H^(-1/2) x, with U the strongest eigenvectors of H^(1/2) G H^(1/2) (reduced rank regression).
    """
    inner = _inner(len(moment), centered=centered)
    h, g = inner @ moment @ inner.T, inner @ wanted @ inner.T
    values, vectors = _spectrum(h, _RIDGE)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    rows = _directions(root @ g @ root) @ inverse
    return _completed(np.linalg.qr(rows.T)[0].T @ inner, centered=centered)


def balanced(left: Array, right: Array) -> Array:
    """Rows that change the basis of left vectors, and by their inverse transpose that of right ones.

    All inner products stay. Left and right vectors then have the same diagonal second moment, largest first, so that
    the first k units keep the most of all inner products: the trace of left moment times right moment is the mean
    square of these. (Balanced truncation: Moore, 1981.) With what is read on the left and the matrices that read it on
    the right, the first k units are those of reduced rank regression, with nothing left to fit.
    """
    (values, vectors), (others, directions) = _spectrum(left, _TINY), _spectrum(right, _TINY)
    turns, sizes, _ = np.linalg.svd((vectors * np.sqrt(values)).T @ (directions * np.sqrt(others)))
    signs = np.sign(turns[np.abs(turns).argmax(axis=0), np.arange(len(turns))])
    return np.asarray(((vectors / np.sqrt(values)) @ (turns * signs) * np.sqrt(sizes)).T)


def _spectrum(moment: Array, ridge: float) -> tuple[Array, Array]:
    """Eigenvalues, none of which is too small to divide by, and eigenvectors."""
    values, vectors = np.linalg.eigh(moment)
    return np.maximum(values, 0) + ridge * max(float(values.mean()), 1e-30), vectors


def _inner(width: int, *, centered: bool) -> Array:
    """An orthonormal basis as rows: of the vectors of zero mean, or of all."""
    return reflection(width)[:-1] if centered else np.eye(width)


def _completed(rows: Array, *, centered: bool) -> Array:
    """An orthonormal basis of all vectors: that of zero mean with the direction of all ones in the end."""
    width = rows.shape[1]
    return np.vstack([rows, np.full(width, width**-0.5)]) if centered else rows


def _directions(moment: Array) -> Array:
    _, vectors = np.linalg.eigh(moment)
    rows = vectors.T[::-1]
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])  # eigenvectors have no sign of their own
    return np.asarray(rows * signs[:, None])
