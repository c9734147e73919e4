"""Assembles the program from scores and latency tables, and reads plans out of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_mdp.axes.terms import Factor, Sum
from onnx_mdp.axes.terms import Term as AxisTerm
from onnx_mdp.groups.blocks import parent_blocks
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.base import Scores
from onnx_mdp.latency.correct import Sums
from onnx_mdp.latency.levels import sum_parts
from onnx_mdp.latency.tables import RegionTable
from onnx_mdp.pipeline.budgets import CountTerms, diagonal
from onnx_mdp.pipeline.constraints import Constraints, Limit
from onnx_mdp.rewrite.plan import Plan, plan_of_widths
from onnx_mdp.solve.problem import Answer, Budget, Choice, Gate, Link, Problem, Term, value

Entry = tuple[RegionTable, tuple[int, ...]]


@dataclass(eq=False)
class Program:
    """Everything the solver needs, in terms of groups and regions.

    `levels` are the candidate widths of each group, `sums` those of each sum that some region depends on. Tied groups
    are one choice, named after the first of them. `beside` is a program that this one is solved together with: of
    the same groups and levels, on another device or at other sizes of the inputs.
    """

    analysis: Analysis
    scores: Scores
    tables: Sequence[RegionTable]
    levels: Mapping[Factor, tuple[int, ...]]
    sums: Mapping[AxisTerm, tuple[int, ...]]
    constraints: Constraints = field(default_factory=Constraints)
    beside: Program | None = None

    def __post_init__(self) -> None:
        self._names: dict[AxisTerm, str] = {group.factor: group.name for group in self.analysis.groups}
        self._names |= {group.factor: tie[0].name for tie in self.constraints.ties for group in tie}
        self._names |= self._sum_names()
        parents = parent_blocks(self.analysis.blocks)
        self._gates = tuple(Gate(block.name, parents[block.name]) for block in self.analysis.blocks)
        self._widths = {self._names[term]: widths for term, widths in [*self.levels.items(), *self.sums.items()]}
        self._choices = tuple(Choice(name, widths) for name, widths in self._widths.items())
        self._links = tuple(self._link(term) for term in self.sums if isinstance(term, Sum))
        self._damage = tuple(self._damage_terms())
        self._latency: tuple[Term, ...] = ()
        self.refresh()
        self.budgets = tuple(map(self._budget, self.constraints.limits))

    def refresh(self) -> None:
        """Take newly measured table entries into account."""
        merged: dict[tuple[tuple[str, ...], str | None], Term] = {}
        for table in self.tables:
            names, values = diagonal([self._names[term] for term in table.region.variables], table.table())
            key = (names, table.region.block)
            before = merged[key].table if key in merged else 0.0
            merged[key] = Term(names, before + values, table.region.block)
        self._latency = tuple(merged.values())

    def problem(self, budget: float, others: Sequence[tuple[Program, float]] = ()) -> Problem:
        """Least damage with table latency within `budget` milliseconds, within all limits.

        Args:
            budget: milliseconds.
            others: programs that are beside this one, and the milliseconds of each.
        """
        every = [(self, budget), *others]
        limits = [Budget(f"latency {i}", one._latency, ms) for i, (one, ms) in enumerate(every, 1)]
        choices = {choice.name: choice for one, _ in every for choice in one._choices}
        links = {link.total: link for one, _ in every for link in one._links}
        budgets = (*limits, *self.budgets)
        return Problem(tuple(choices.values()), self._gates, tuple(links.values()), self._damage, budgets)

    def unhurried(self) -> Problem:
        """Least damage within all limits, whatever the latency."""
        return Problem(self._choices, self._gates, self._links, self._damage, self.budgets)

    def fastest(self) -> Problem:
        """Least table latency within all limits, whatever the damage."""
        return Problem(self._choices, self._gates, self._links, self._latency, self.budgets)

    def within(self, damage: float) -> Problem:
        """Least table latency within all limits, with at most this damage."""
        limit = Budget("damage", self._damage, damage)
        return Problem(self._choices, self._gates, self._links, self._latency, (limit, *self.budgets))

    def damage_of(self, answer: Answer) -> float:
        """What an answer costs."""
        return value(self._damage, answer.levels, answer.kept)

    def least(self, budget: Budget) -> Problem:
        """The least that one of the limits' budgets can be, whatever the damage and the other limits."""
        return Problem(self._choices, self._gates, self._links, budget.terms, ())

    def sums_of(self, answer: Answer) -> Sums:
        """Table milliseconds of an answer, and what they would be with no block removed."""
        everything = dict.fromkeys(answer.kept, True)
        full = value(self._latency, answer.levels, everything)
        return Sums(value(self._latency, answer.levels, answer.kept), full)

    def dense_latency(self) -> float:
        """Table milliseconds of the dense model."""
        full = {choice.name: len(choice.widths) - 1 for choice in self._choices}
        return value(self._latency, full, {gate.name: True for gate in self._gates})

    def plan(self, answer: Answer) -> Plan:
        """The units and blocks an answer keeps."""
        widths = {
            group.name: group.units if self._is_gone(group, answer) else self._width(group, answer)
            for group in self.analysis.groups
        }
        removed = tuple(name for name, kept in answer.kept.items() if not kept)
        return plan_of_widths(self.analysis, self.scores.order, widths, removed)

    def _width(self, group: Group, answer: Answer) -> int:
        return self.levels[group.factor][answer.levels[self._names[group.factor]]]

    def _is_gone(self, group: Group, answer: Answer) -> bool:
        """Whether the group goes with a removed block; its width then means nothing."""
        home = self.analysis.homes.get(group.name)
        return home is not None and not answer.kept[home]

    def entries(self, answer: Answer) -> list[Entry]:
        """The table entries an answer rests on."""
        return [
            (table, tuple(answer.levels[self._names[term]] for term in table.region.variables))
            for table in self.tables
            if table.region.block is None or answer.kept[table.region.block]
        ]

    def _sum_names(self) -> dict[AxisTerm, str]:
        """Names of sums; one that a program beside this has too, of the same widths, is the same choice."""
        self._sums: dict[tuple[object, ...], str] = dict(self.beside._sums) if self.beside else {}
        first = len(self._sums)
        return {term: self._sums.setdefault(self._key(term), f"sum {first + i}") for i, term in enumerate(self.sums)}

    def _key(self, term: AxisTerm) -> tuple[object, ...]:
        """What a sum is, whatever its factors are called elsewhere."""
        return (*self._parts(term), self.sums[term]) if isinstance(term, Sum) else (term,)

    def _link(self, term: Sum) -> Link:
        return Link(self._names[term], *self._parts(term))

    def _parts(self, term: Sum) -> tuple[tuple[tuple[str, int], ...], int]:
        fixed, counts = sum_parts(term, self.levels)
        parts: dict[str, int] = {}
        for leaf, count in counts.items():
            parts[self._names[leaf]] = parts.get(self._names[leaf], 0) + count
        return tuple(parts.items()), fixed

    def _budget(self, limit: Limit) -> Budget:
        if limit.count is None:
            removed = [Term((), np.array(-1.0), gate.name) for gate in self._gates]
            return Budget(limit.option, (Term((), np.array(float(len(removed)))), *removed), limit.most)
        names = {factor: self._names[factor] for factor in self.levels}
        terms = CountTerms(names, self._widths, self._latency).terms(limit.count)
        return Budget(limit.option, terms, limit.most - limit.fixed)

    def _damage_terms(self) -> list[Term]:
        widths = {group.name: self.levels[group.factor] for group in self.analysis.groups}
        choice = {group.name: self._names[group.factor] for group in self.analysis.groups}
        terms = [
            Term((choice[curve.group],), curve.damage[list(widths[curve.group])], curve.block)
            for curve in self.scores.curves
        ]
        around = {gate.name: gate.inside for gate in self._gates}
        for name, damage in self.scores.removal.items():  # inside a removed block, there is nothing left to remove
            terms += [Term((), np.array(damage), around[name]), Term((), np.array(-damage), name)]
        return terms
