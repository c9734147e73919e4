"""Axis terms: how the positions along one tensor axis are composed of independent factors.

Every axis of every tensor is a term:

    Factor(n)      n interchangeable units; one still unbound after unification is one prunable group
    Prod(a, b)     row-major merge, position = i_a * |b| + i_b       (reshape, flatten, grouped conv, heads)
    Sum(a, b)      the positions of a, then those of b               (concat, split, slice, pad)

`Prod(())` is the axis of size one, written `UNIT`. Terms are immutable; sizes are O(1), everything else is
linear in the number of parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Factor:
    """An axis variable of `size` units, compared by identity."""

    size: int


@dataclass(frozen=True, slots=True)
class Prod:
    """Row-major product of its parts; the last part varies fastest."""

    parts: tuple[Term, ...]
    size: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(part.size for part in self.parts))


@dataclass(frozen=True, slots=True)
class Sum:
    """Its parts one after the other."""

    parts: tuple[Term, ...]
    size: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(part.size for part in self.parts))


Term = Factor | Prod | Sum
Kept = Mapping[Factor, Indices]
"""Surviving units per factor, ascending; a factor that is absent is whole."""

UNIT = Prod(())


def fresh(size: int) -> Term:
    """A new term of `size` positions that nothing is known of yet."""
    if size == 0:
        return Sum(())
    return UNIT if size == 1 else Factor(size)


def prod(parts: Iterable[Term]) -> Term:
    """Row-major product in normal form: nested products flattened, units dropped, one part bare."""
    flat = [f for part in parts for f in factors(part)]
    return flat[0] if len(flat) == 1 else Prod(tuple(flat))


def concat(parts: Iterable[Term]) -> Term:
    """Sum in normal form: nested sums flattened, empty parts dropped, one part bare."""
    flat = [a for part in parts for a in addends(part) if a.size]
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def factors(term: Term) -> tuple[Term, ...]:
    """The parts of a product; any other term is its own single factor."""
    return term.parts if isinstance(term, Prod) else (term,)


def addends(term: Term) -> tuple[Term, ...]:
    """The parts of a sum; any other term is its own single addend."""
    return term.parts if isinstance(term, Sum) else (term,)


def leaves(term: Term) -> Iterator[Factor]:
    """Every factor of the term, from left to right, with repetitions."""
    if isinstance(term, Factor):
        yield term
        return
    for part in term.parts:
        yield from leaves(part)


def size(term: Term, widths: Mapping[Factor, int]) -> int:
    """Positions left when each factor keeps `widths[factor]` units (all of them where absent)."""
    if isinstance(term, Factor):
        return widths.get(term, term.size)
    sizes = [size(part, widths) for part in term.parts]
    return math.prod(sizes) if isinstance(term, Prod) else sum(sizes)


def keep(term: Term, kept: Kept) -> Indices:
    """Surviving positions along the axis, ascending."""
    if isinstance(term, Factor):
        return np.asarray(kept.get(term, np.arange(term.size)), dtype=np.int64)
    if isinstance(term, Sum):
        starts = np.cumsum([0] + [part.size for part in term.parts[:-1]])
        return np.concatenate([keep(part, kept) + start for part, start in zip(term.parts, starts, strict=True)])
    positions = np.zeros(1, dtype=np.int64)
    for part in term.parts:
        positions = (positions[:, None] * part.size + keep(part, kept)[None, :]).ravel()
    return positions


def fold(term: Term, leaf: Factor, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of `values` (one per position) over the positions of each unit of `leaf`; shape (leaf.size,)."""
    if term is leaf:
        return values
    total = np.zeros(leaf.size)
    if isinstance(term, Sum):
        ends = np.cumsum([part.size for part in term.parts])
        for part, end in zip(term.parts, ends, strict=True):
            total += fold(part, leaf, values[end - part.size : end])
    elif isinstance(term, Prod):
        grid = values.reshape([part.size for part in term.parts])
        for axis, part in enumerate(term.parts):
            others = tuple(i for i in range(len(term.parts)) if i != axis)
            total += fold(part, leaf, grid.sum(axis=others))
    return total


def units(term: Term, leaf: Factor, positions: Indices) -> Indices:
    """The units of `leaf` that occur at `positions` of the axis, ascending: the inverse of `keep`."""
    marks = np.zeros(term.size)
    marks[positions] = 1.0
    return np.flatnonzero(fold(term, leaf, marks)).astype(np.int64)
