"""A program as a graph of variables and factors: what the decomposition works on.

Every choice and every block becomes a variable with a number; a block has the states 0 (removed) and 1 (kept). Terms
over the same choices and block become one factor, with a table of what it adds to the objective and one of what it
adds to the budget. A link makes its total a function of the sum of its parts; sums are built part by part in one
order, as variables of their own, so that the widths of a chain of concats (each adds one part to the last) form a
chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.solve.problem import Link, Problem, Term

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scope = tuple[int, ...]
_MOST_SUMS = 1 << 16
_DOMINANCE_WORK = 1 << 19


class TooDenseError(Exception):
    """The elimination would need tables over the limit; never leaves `solve`."""


@dataclass(frozen=True, eq=False)
class Factor:
    """What one combination of states costs and spends; `hard` is 0 where it is allowed and infinite where not.

    It counts only while `gate` and the blocks around it are kept. None stands for a table of zeros.
    """

    scope: Scope
    gate: int | None
    cost: Floats | None = None
    spent: Floats | None = None
    hard: Floats | None = None


@dataclass(frozen=True, eq=False)
class Function:
    """The state of `target` as a table over the states of `parts`; -1 where none fits, which a hard factor forbids."""

    target: int
    parts: Scope
    index: Ints


@dataclass(frozen=True, eq=False)
class Model:
    """Variables by number: choices first, then blocks, then sums.

    `sizes` counts states; `kept_levels` are the levels of each choice that are not dominated; `paths` lists each
    block with those around it, innermost first.
    """

    choices: tuple[str, ...]
    gates: tuple[str, ...]
    sizes: tuple[int, ...]
    kept_levels: tuple[Ints, ...]
    paths: Mapping[int, Scope]
    factors: tuple[Factor, ...]
    functions: Mapping[int, Function]


def make_model(problem: Problem, spending: Sequence[Term]) -> Model:
    """The graph of a program whose one budget sums `spending`.

    Raises:
        TooDenseError: a link's parts add up to too many different sums.
    """
    builder = _Builder(problem)
    merged = builder.merge(problem.objective, spending)
    factors = [Factor(scope, gate, cost, spent) for (scope, gate), (cost, spent) in merged.items()]
    keep = builder.filter_levels(factors)
    for link in problem.links:
        builder.add_link(link)
    return Model(
        choices=tuple(choice.name for choice in problem.choices),
        gates=tuple(gate.name for gate in problem.gates),
        sizes=tuple(len(keep[v]) if v < len(keep) else size for v, size in enumerate(builder.sizes)),
        kept_levels=tuple(keep),
        paths=builder.paths,
        factors=(*(_restrict(factor, keep) for factor in factors), *builder.hard),
        functions=builder.functions,
    )


def at_state(model: Model, variable: int, state: int) -> Model:
    """The model with a choice, no function of others, at one of its states: an axis of length 1. Tables are views."""
    one = slice(state, state + 1)

    def cut(table: Floats | None, scope: Scope) -> Floats | None:
        return None if table is None else table[tuple(one if v == variable else slice(None) for v in scope)]

    def cut_factor(f: Factor) -> Factor:
        return Factor(f.scope, f.gate, cut(f.cost, f.scope), cut(f.spent, f.scope), cut(f.hard, f.scope))

    def cut_function(f: Function) -> Function:
        return replace(f, index=f.index[tuple(one if v == variable else slice(None) for v in f.parts)])

    levels = model.kept_levels
    return replace(
        model,
        sizes=tuple(1 if v == variable else size for v, size in enumerate(model.sizes)),
        kept_levels=tuple(kept[one] if v == variable else kept for v, kept in enumerate(levels)),
        factors=tuple(cut_factor(f) if variable in f.scope else f for f in model.factors),
        functions={t: cut_function(f) if variable in f.parts else f for t, f in model.functions.items()},
    )


class _Builder:
    def __init__(self, problem: Problem) -> None:
        self.numbers = {choice.name: i for i, choice in enumerate(problem.choices)}
        self.gates = {gate.name: len(self.numbers) + i for i, gate in enumerate(problem.gates)}
        self.widths: dict[int, Ints] = {i: np.array(c.widths, np.int64) for i, c in enumerate(problem.choices)}
        self.sizes = [*(len(c.widths) for c in problem.choices), *(2 for _ in problem.gates)]
        self.paths = {number: self._path(problem, name) for name, number in self.gates.items()}
        self.linked = {self.numbers[n] for link in problem.links for n in (link.total, *(p for p, _ in link.parts))}
        self.functions: dict[int, Function] = {}
        self.hard: list[Factor] = []
        self._sums: dict[tuple[tuple[int, int], ...], int] = {}

    def _path(self, problem: Problem, name: str) -> Scope:
        inside = {gate.name: gate.inside for gate in problem.gates}
        path, at = [], name
        while True:
            path.append(self.gates[at])
            around = inside[at]
            if around is None:
                return tuple(path)
            at = around

    def merge(
        self, objective: Iterable[Term], spending: Iterable[Term]
    ) -> dict[tuple[Scope, int | None], tuple[Floats | None, Floats | None]]:
        """The summed tables of terms over the same choices in the same block: (cost, spent)."""
        merged: dict[tuple[Scope, int | None], list[Floats | None]] = {}
        for column, terms in enumerate((objective, spending)):
            for term in terms:
                numbers = [self.numbers[name] for name in term.choices]
                scope = tuple(sorted(set(numbers)))
                # One axis per choice in the order of numbers; a choice that is named twice keeps its diagonal.
                local = [scope.index(number) for number in numbers]
                table = np.einsum(np.asarray(term.table, np.float64), local, list(range(len(scope))))
                sums = merged.setdefault((scope, self.gates[term.gate] if term.gate else None), [None, None])
                before = sums[column]
                sums[column] = table if before is None else before + table
        return {key: (cost, spent) for key, (cost, spent) in merged.items()}

    def filter_levels(self, factors: Sequence[Factor]) -> list[Ints]:
        """For each choice the levels that no other level beats in every table at every level of the others."""
        around: list[list[Factor]] = [[] for _ in self.numbers]
        for factor in factors:
            for variable in factor.scope:
                around[variable].append(factor)
        return [
            np.arange(self.sizes[v]) if v in self.linked else _undominated(v, self.sizes[v], around[v])
            for v in self.numbers.values()
        ]

    def add_link(self, link: Link) -> None:
        """Make the total a function of the sum of its parts."""
        total = self.numbers[link.total]
        counts: dict[int, int] = {}
        for name, count in link.parts:
            counts[self.numbers[name]] = counts.get(self.numbers[name], 0) + count
        parts = tuple(sorted(counts.items()))
        if not parts:
            self._forbid((total,), self.widths[total] != link.fixed)
            return
        whole = self._sum(parts)
        if total in self.functions:  # a second link on one total
            self._forbid((total, whole), np.not_equal.outer(self.widths[total], self.widths[whole] + link.fixed))
            return
        self._define(total, (whole,), self.widths[whole] + link.fixed)

    def _sum(self, parts: tuple[tuple[int, int], ...]) -> int:
        """The variable that is the weighted sum of parts, by way of the sums of the first one, two, ... of them."""
        before: int | None = None
        for end, (last, count) in enumerate(parts, start=1):
            added = count * self.widths[last]
            if parts[:end] not in self._sums:
                sums = added if before is None else np.add.outer(self.widths[before], added)
                self._sums[parts[:end]] = self._new(np.unique(sums))
                self._define(self._sums[parts[:end]], (last,) if before is None else (before, last), sums)
            before = self._sums[parts[:end]]
        return self._sums[parts]

    def _new(self, widths: Ints) -> int:
        if len(widths) > _MOST_SUMS:
            raise TooDenseError(f"the parts of a link add up to more than {_MOST_SUMS} different sums")
        self.widths[len(self.sizes)] = widths
        self.sizes.append(len(widths))
        return len(self.sizes) - 1

    def _define(self, target: int, parts: Scope, sums: Ints) -> None:
        """Make `target` the state whose width is the given sum; widths may come in any order."""
        widths = self.widths[target]
        order = np.argsort(widths, kind="stable")
        spot = np.clip(np.searchsorted(widths[order], sums), 0, len(widths) - 1)
        index = np.where(widths[order][spot] == sums, order[spot], -1)
        self.functions[target] = Function(target, parts, index)
        self._forbid(parts, index < 0)

    def _forbid(self, scope: Scope, where: NDArray[np.bool_]) -> None:
        if where.any():
            order = np.argsort(scope)
            table = np.where(np.transpose(where, order), np.inf, 0.0)
            self.hard.append(Factor(tuple(sorted(scope)), None, hard=table))


def _undominated(variable: int, size: int, factors: Sequence[Factor]) -> Ints:
    """Levels that no other level is at most as dear as everywhere; of equal levels the last stays."""
    tables = [t for f in factors for t in (_by_level(f, variable, f.cost), _by_level(f, variable, f.spent)) if t.size]
    if size < 2 or size * sum(table.size for table in tables) > _DOMINANCE_WORK:
        return np.arange(size)
    rows = np.concatenate(tables, axis=1) if tables else np.zeros((size, 0))
    below = np.all(rows[:, None, :] <= rows[None, :, :], axis=2)  # below[i, j]: i is nowhere dearer than j
    later = np.greater.outer(np.arange(size), np.arange(size))
    beaten = (below & (~below.T | later)).any(axis=0)
    return np.flatnonzero(~beaten)


def _by_level(factor: Factor, variable: int, table: Floats | None) -> Floats:
    if table is None:
        return np.zeros((0, 0))
    return np.moveaxis(table, factor.scope.index(variable), 0).reshape(table.shape[factor.scope.index(variable)], -1)


def _restrict(factor: Factor, keep: Sequence[Ints]) -> Factor:
    """A factor on the levels that are left."""

    def cut(table: Floats | None) -> Floats | None:
        for axis, variable in enumerate(factor.scope):
            if table is not None and len(keep[variable]) < table.shape[axis]:
                table = np.take(table, keep[variable], axis=axis)
        return table

    return Factor(factor.scope, factor.gate, cut(factor.cost), cut(factor.spent))
