"""The exact mixed-integer linear form of a program, and the way back from its solution.

A level is a one-hot vector of binaries w, a block a binary k. For a term over several choices, y >= 0 has one entry
per combination, and its marginals equal the one-hots: with binary w that leaves exactly one entry at 1 (the
reformulation-linearization technique; Sherali and Adams, 1990). Inside a block the one-hots are replaced by v <= w
that sum to k, so a removed block's terms vanish. A choice that matters only inside one block has one-hots that sum to
k themselves: no copy, and no level to choose when the block is gone. Terms over the same choices and block share y.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.solve.problem import Problem, Term, magnitude

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mip:
    """minimize cost x + offset subject to lower <= A x <= upper, bounds on x, and x integer where `integer` is set.

    A is stored by rows: row r holds `values[start[r]:start[r+1]]` at columns `columns[start[r]:start[r+1]]`.
    """

    cost: Vector
    offset: float
    column_lower: Vector
    column_upper: Vector
    integer: NDArray[np.bool_]
    row_lower: Vector
    row_upper: Vector
    start: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: Vector


Decode = Callable[[Vector], tuple[dict[str, int], dict[str, bool]]]
Hots = list[int]


def linearize(problem: Problem) -> tuple[Mip, Decode]:
    """The program as a MIP, and the function from its solution vector to levels and kept blocks."""
    builder = _Builder(problem)
    return builder.mip(), builder.decode


def columns_of(problem: Problem) -> int:
    """How many columns its linearization has, but for copies of one-hots inside of blocks."""
    terms = (*problem.objective, *(term for budget in problem.budgets for term in budget.terms))
    products = {(term.choices, term.gate): term.table.size for term in terms if len(term.choices) > 1}
    return sum(len(choice.widths) for choice in problem.choices) + len(problem.gates) + sum(products.values())


@dataclass
class _Columns:
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)

    def add(self, count: int, *, integer: bool) -> Hots:
        first = len(self.upper)
        self.upper += [1.0] * count
        self.integer += [integer] * count
        return list(range(first, first + count))


class _Builder:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.columns = _Columns()
        self.rows: list[tuple[float, float, dict[int, float]]] = []
        self.levels = {c.name: self.columns.add(len(c.widths), integer=True) for c in problem.choices}
        self.kept = {gate.name: self.columns.add(1, integer=True)[0] for gate in problem.gates}
        self._gated: dict[tuple[str, str], Hots] = {}
        self._joint: dict[tuple[tuple[str, ...], str | None], NDArray[np.int64]] = {}
        self._homes = _homes(problem)
        for name, hots in self.levels.items():
            home = self._homes.get(name)
            total = {self.kept[home]: -1.0} if home else {}
            self._row(0 if home else 1, 0 if home else 1, {**dict.fromkeys(hots, 1.0), **total})
        for gate in problem.gates:
            if gate.inside:
                self._row(-np.inf, 0, {self.kept[gate.name]: 1.0, self.kept[gate.inside]: -1.0})
        self._link()

    def mip(self) -> Mip:
        cost, offset = self._sum(self.problem.objective)
        for budget in self.problem.budgets:
            entries, constant = self._sum(budget.terms)
            # Solvers meet rows to an absolute tolerance: the largest entry sets the unit. (Of the tables: what sums to
            # nearly nothing in a row is rounding.)
            unit = 1 / magnitude(budget.terms)
            row = {column: entry * unit for column, entry in entries.items()}
            self._row(-np.inf, (budget.limit - constant) * unit, row)
        width = len(self.columns.upper)
        costs = np.zeros(width)
        costs[list(cost)] = list(cost.values())
        return Mip(
            cost=costs,
            offset=offset,
            column_lower=np.zeros(width),
            column_upper=np.array(self.columns.upper),
            integer=np.array(self.columns.integer),
            row_lower=np.array([low for low, _, _ in self.rows], float),
            row_upper=np.array([high for _, high, _ in self.rows], float),
            start=np.cumsum([0] + [len(entries) for _, _, entries in self.rows]),
            columns=np.array([c for _, _, entries in self.rows for c in entries], np.int64),
            values=np.array([v for _, _, entries in self.rows for v in entries.values()], float),
        )

    def decode(self, x: Vector) -> tuple[dict[str, int], dict[str, bool]]:
        levels = {name: int(np.argmax(x[hots])) for name, hots in self.levels.items()}
        return levels, {name: bool(x[column] > 0.5) for name, column in self.kept.items()}

    def _row(self, low: float, high: float, entries: Mapping[int, float]) -> None:
        self.rows.append((low, high, dict(entries)))

    def _link(self) -> None:
        widths = {choice.name: choice.widths for choice in self.problem.choices}
        for link in self.problem.links:
            entries = {col: float(w) for col, w in zip(self.levels[link.total], widths[link.total], strict=True)}
            for part, count in link.parts:
                for col, width in zip(self.levels[part], widths[part], strict=True):
                    entries[col] = entries.get(col, 0.0) - count * width
            self._row(link.fixed, link.fixed, entries)

    def _sum(self, terms: tuple[Term, ...]) -> tuple[dict[int, float], float]:
        entries: dict[int, float] = {}
        constant = 0.0
        for term in terms:
            if not term.choices and term.gate is None:
                constant += float(term.table)
                continue
            for column, weight in zip(self._places(term).ravel(), np.ravel(term.table), strict=True):
                if weight:
                    entries[int(column)] = entries.get(int(column), 0.0) + float(weight)
        return entries, constant

    def _places(self, term: Term) -> NDArray[np.int64]:
        """The columns that indicate each entry of a term's table."""
        if not term.choices:
            return np.array(self.kept[term.gate or ""])
        hots = [self._hots(name, term.gate) for name in term.choices]
        if len(hots) == 1:
            return np.array(hots[0])
        key = (term.choices, term.gate)
        if key not in self._joint:
            self._joint[key] = self._product(hots)
        return self._joint[key]

    def _hots(self, name: str, gate: str | None) -> Hots:
        """A choice's one-hot columns; inside a block, a copy that sums to the block's bit."""
        if gate is None or gate == self._homes.get(name):
            return self.levels[name]
        if (name, gate) not in self._gated:
            copies = self.columns.add(len(self.levels[name]), integer=False)
            for copy, hot in zip(copies, self.levels[name], strict=True):
                self._row(-np.inf, 0, {copy: 1.0, hot: -1.0})
            self._row(0, 0, {**dict.fromkeys(copies, 1.0), self.kept[gate]: -1.0})
            self._gated[name, gate] = copies
        return self._gated[name, gate]

    def _product(self, hots: list[Hots]) -> NDArray[np.int64]:
        shape = [len(axis) for axis in hots]
        y = np.array(self.columns.add(int(np.prod(shape)), integer=False)).reshape(shape)
        for axis, columns in enumerate(hots):
            for i, hot in enumerate(columns):
                entries = dict.fromkeys(np.take(y, i, axis=axis).ravel().tolist(), 1.0)
                self._row(0, 0, {**entries, hot: -1.0})
        return y


def _homes(problem: Problem) -> dict[str, str]:
    """For choices that count only while one block is kept, that block: the innermost that all of their terms lie in."""
    inside = {gate.name: gate.inside for gate in problem.gates}
    chains: dict[str, list[str]] = {}
    for term in (*problem.objective, *(term for budget in problem.budgets for term in budget.terms)):
        for name in term.choices:
            chain = _chain(term.gate, inside)
            chains[name] = [gate for gate in chains.get(name, chain) if gate in chain]
    linked = {name for link in problem.links for name in (link.total, *(part for part, _ in link.parts))}
    return {name: chain[0] for name, chain in chains.items() if chain and name not in linked}


def _chain(gate: str | None, inside: Mapping[str, str | None]) -> list[str]:
    """A block and those around it, innermost first."""
    chain = []
    while gate is not None:
        chain.append(gate)
        gate = inside[gate]
    return chain
