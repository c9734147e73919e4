"""Sizes as polynomials in the widths of free factors: what a count of elements or operations becomes when units go.

A term's size is a sum of products of widths, so products and sums of sizes are as well. Written out in monomials, each
is a table over the few widths it multiplies, however many a concatenation joins.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from onnx_mdp.axes.terms import Factor, Prod, Sum, Term

Monomial = tuple[Factor, ...]
"""The factors whose widths are multiplied, in a fixed order; a power is a repetition."""


class Polynomial:
    """A sum of coefficients times products of widths. Numbers mix with polynomials in `+` and `*`."""

    def __init__(self, coefficients: Mapping[Monomial, float]) -> None:
        self.coefficients = {monomial: value for monomial, value in coefficients.items() if value}

    def __add__(self, other: Polynomial | float) -> Polynomial:
        found = dict(self.coefficients)
        for monomial, value in _polynomial(other).coefficients.items():
            found[monomial] = found.get(monomial, 0) + value
        return Polynomial(found)

    def __mul__(self, other: Polynomial | float) -> Polynomial:
        found: dict[Monomial, float] = {}
        for left, a in self.coefficients.items():
            for right, b in _polynomial(other).coefficients.items():
                monomial = tuple(sorted((*left, *right), key=id))
                found[monomial] = found.get(monomial, 0) + a * b
        return Polynomial(found)

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, divisor: int) -> Polynomial:
        """An exact division; a remainder would be no polynomial."""
        if any(value % divisor for value in self.coefficients.values()):
            raise ValueError(f"a size is no multiple of {divisor} at all widths")
        return Polynomial({monomial: value // divisor for monomial, value in self.coefficients.items()})

    def at(self, widths: Mapping[Factor, int]) -> float:
        """The value at some widths; a factor that is absent is whole."""
        return sum(
            value * math.prod(widths.get(factor, factor.size) for factor in monomial)
            for monomial, value in self.coefficients.items()
        )


def size_polynomial(term: Term, free: Collection[Factor]) -> Polynomial:
    """The size of a term as a polynomial in the widths of its `free` factors; all others are whole."""
    if isinstance(term, Factor):
        return Polynomial({(term,): 1}) if term in free else _polynomial(term.size)
    parts = [size_polynomial(part, free) for part in term.parts]
    if isinstance(term, Sum):
        return sum(parts, start=_polynomial(0))
    assert isinstance(term, Prod)
    return math.prod(parts, start=_polynomial(1))


def _polynomial(value: Polynomial | float) -> Polynomial:
    return value if isinstance(value, Polynomial) else Polynomial({(): value})
