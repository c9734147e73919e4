"""What a program's budgets decide before anything is solved.

A block without which a budget cannot be met is none that may go: it is taken for a part of the network. With few
removals allowed, or none, that leaves a budget on them nothing to bind, and the program one budget less.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from onnx_mdp.solve.problem import Budget, Gate, Problem, Term, largest

_ROUNDING = 1e-12  # of the largest entries' sum


def needed(problem: Problem) -> frozenset[str]:
    """Gates that no solution within the budgets closes."""
    gates = {gate.name: gate for gate in problem.gates}
    found: set[str] = set()
    for budget in problem.budgets:
        lost = _lost(budget, gates)
        room = budget.limit - sum(_least(term) for term in budget.terms) + _ROUNDING * largest(budget.terms)
        for name in gates:
            if lost.get(name, 0.0) > room:
                found.update(_around(name, gates))
    return frozenset(found)


def without(problem: Problem, gates: Collection[str]) -> Problem:
    """The program in which these gates are open always, and are none."""
    if not gates:
        return problem
    inside = {gate.name: gate for gate in problem.gates}

    def outer(name: str | None) -> str | None:
        return next((gate for gate in _around(name, inside) if gate not in gates), None)

    def freed(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple(term if term.gate not in gates else replace(term, gate=outer(term.gate)) for term in terms)

    return replace(
        problem,
        gates=tuple(replace(gate, inside=outer(gate.inside)) for gate in problem.gates if gate.name not in gates),
        objective=freed(problem.objective),
        budgets=tuple(replace(budget, terms=freed(budget.terms)) for budget in problem.budgets),
    )


def _least(term: Term) -> float:
    least = float(term.table.min())
    return least if term.gate is None else min(0.0, least)


def _lost(budget: Budget, gates: Mapping[str, Gate]) -> dict[str, float]:
    """By how much the least that a budget's terms add up to rises when a gate is closed."""
    lost: dict[str, float] = {}
    for term in budget.terms:
        for name in _around(term.gate, gates):
            lost[name] = lost.get(name, 0.0) - _least(term)
    return lost


def _around(name: str | None, gates: Mapping[str, Gate]) -> list[str]:
    """A gate and those it lies inside of."""
    found: list[str] = []
    while name is not None:
        found.append(name)
        name = gates[name].inside
    return found
