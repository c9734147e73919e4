"""Counts as terms of the program: every monomial of widths is a table over the choices it multiplies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters

import numpy as np

from onnx_mdp.axes.polynomial import Monomial
from onnx_mdp.axes.terms import Factor, leaves, size
from onnx_mdp.groups.count import Count, Step
from onnx_mdp.solve.problem import Table, Term

Names = tuple[str, ...]
Place = tuple[Names, str | None]


def diagonal(names: Sequence[str], table: Table) -> tuple[Names, Table]:
    """A table over different choices, where some of its axes are one choice."""
    unique = tuple(dict.fromkeys(names))
    axes = "".join(ascii_letters[unique.index(name)] for name in names)
    return unique, np.einsum(f"{axes}->{ascii_letters[: len(unique)]}", table)


def merged(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms, those over the same choices and block added up in the axis order of the first of them."""
    found: dict[tuple[frozenset[str], str | None], Term] = {}
    for term in terms:
        key = (frozenset(term.choices), term.gate)
        first = found.setdefault(key, Term(term.choices, np.zeros(term.table.shape), term.gate))
        moved = term.table.transpose([term.choices.index(name) for name in first.choices])
        found[key] = Term(first.choices, first.table + moved, term.gate)
    return tuple(found.values())


@dataclass(frozen=True, eq=False)
class CountTerms:
    """Makes terms of counts.

    Attributes:
        names: the choice of each free factor.
        widths: the widths of each choice's levels.
        like: terms whose choices and blocks come up again: theirs are the axis orders, as solvers then share columns.
    """

    names: Mapping[Factor, str]
    widths: Mapping[str, tuple[int, ...]]
    like: Sequence[Term]

    def terms(self, count: Count) -> tuple[Term, ...]:
        """The count as a sum of terms."""
        orders = {(frozenset(term.choices), term.gate): term.choices for term in self.like}
        found = []
        for term in merged([*self._products(count), *map(self._step, count.steps)]):
            order = orders.get((frozenset(term.choices), term.gate), term.choices)
            axes = [term.choices.index(name) for name in order]
            found.append(Term(order, term.table.transpose(axes), term.gate))
        return tuple(found)

    def _products(self, count: Count) -> Iterator[Term]:
        for block, part in count.parts.items():
            for monomial, value in part.coefficients.items():
                yield self._product(monomial, value, block)

    def _product(self, monomial: Monomial, value: float, block: str | None) -> Term:
        table = np.array(float(value))
        for factor in monomial:
            table = np.multiply.outer(table, np.array(self.widths[self.names[factor]], float))
        return Term(*diagonal([self.names[factor] for factor in monomial], table), block)

    def _step(self, step: Step) -> Term:
        free = [leaf for leaf in dict.fromkeys(leaves(step.term)) if leaf in self.names]
        names = tuple(dict.fromkeys(self.names[leaf] for leaf in free))
        shape = tuple(len(self.widths[name]) for name in names)
        table = np.zeros(shape)
        for index in np.ndindex(shape):
            chosen = {name: self.widths[name][i] for name, i in zip(names, index, strict=True)}
            left = size(step.term, {leaf: chosen[self.names[leaf]] for leaf in free})
            table[index] = step.amount * (left != step.term.size)
        return Term(names, table, step.block)
