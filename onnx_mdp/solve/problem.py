"""The program in its own words.

    minimize    sum of objective terms
    subject to  sum of each budget's terms <= its limit
                one level per choice; the widths of linked choices add up

A term is a table over the levels of some choices. It counts its entry, and nothing once its block, or a block that
one lies inside of, is removed. The damage d of removing a block is the constant d, gated by the block around it if any,
and a term -d gated by the block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

PROVEN = 1e-4  # the gap below which a plan passes for the best


@dataclass(frozen=True)
class Choice:
    """Something to choose one level of; `widths` is what each level counts in links."""

    name: str
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Gate:
    """A removable block; `inside` names the smallest block around it."""

    name: str
    inside: str | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """`table` has one axis per choice; a term without choices is a number."""

    choices: tuple[str, ...]
    table: Table
    gate: str | None = None


@dataclass(frozen=True)
class Link:
    """The width of `total` is `fixed` plus the sum of count * width over `parts`."""

    total: str
    parts: tuple[tuple[str, int], ...]
    fixed: int = 0


@dataclass(frozen=True, eq=False)
class Budget:
    """The sum of `terms` may not exceed `limit`."""

    name: str
    terms: tuple[Term, ...]
    limit: float


@dataclass(frozen=True, eq=False)
class Problem:
    """A program to minimize."""

    choices: tuple[Choice, ...]
    gates: tuple[Gate, ...]
    links: tuple[Link, ...]
    objective: tuple[Term, ...]
    budgets: tuple[Budget, ...]


class Status(StrEnum):
    """How a solve ended; every solver speaks this vocabulary."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """What a solver found. Without a solution `levels` and `kept` are empty and `objective` is infinite.

    `bound` is proven: no solution has a lower objective. `gap` is (objective - bound) / max(|objective|, 1e-9).
    `notice` says why another solver than the asked one answered; it is empty where the asked one did.
    """

    status: Status
    objective: float
    bound: float
    levels: Mapping[str, int]
    kept: Mapping[str, bool]
    solver: str
    seconds: float
    notice: str = ""

    @property
    def gap(self) -> float:
        """Relative distance between the objective and the proven bound."""
        if not self.has_plan:
            return float("inf")
        return max(0.0, self.objective - self.bound) / max(abs(self.objective), 1e-9)

    @property
    def has_plan(self) -> bool:
        """Whether there are levels and blocks to read."""
        return self.objective < float("inf")

    def recounted(self, objective: float, least: float) -> Answer:
        """The same plan at damage counted otherwise; no plan is known to do less than `least` at most."""
        found = replace(self, objective=objective, bound=min(objective, least))
        return found if found.gap <= PROVEN else replace(found, status=Status.FEASIBLE)

    def is_same_plan(self, other: Answer) -> bool:
        """Whether another answer chooses the same levels and blocks."""
        return self.levels == other.levels and self.kept == other.kept


def open_gates(gates: Iterable[Gate], kept: Mapping[str, bool]) -> dict[str, bool]:
    """Whether each block is kept and so is every block around it."""
    by_name = {gate.name: gate for gate in gates}

    def is_open(name: str | None) -> bool:
        return name is None or (kept[name] and is_open(by_name[name].inside))

    return {name: is_open(name) for name in by_name}


def largest(terms: Iterable[Term]) -> float:
    """The sum of the largest magnitude of each term: the scale of what their sums are rounded to."""
    return float(sum(np.abs(term.table).max(initial=0.0) for term in terms))


def magnitude(terms: Iterable[Term]) -> float:
    """The largest magnitude of any entry; 1 where all are zero. A unit in which numbers are neither large nor small."""
    return float(max((np.abs(term.table).max(initial=0.0) for term in terms), default=0.0)) or 1.0


def value(terms: Iterable[Term], levels: Mapping[str, int], opened: Mapping[str, bool]) -> float:
    """The exact sum of terms at a solution."""
    return float(
        sum(
            term.table[tuple(levels[name] for name in term.choices)]
            for term in terms
            if term.gate is None or opened[term.gate]
        )
    )
