"""Refuses programs that no solver could make sense of, naming the place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from onnx_mdp.errors import ProblemError
from onnx_mdp.solve.problem import Problem, Term


def check_problem(problem: Problem) -> None:
    """Check that a program is well formed and all its numbers are finite.

    Raises:
        ProblemError: it is not; the message names the place.
    """
    levels = {choice.name: len(choice.widths) for choice in problem.choices}
    gates = {gate.name: gate.inside for gate in problem.gates}
    _check_names("choice", [choice.name for choice in problem.choices])
    _check_names("block", [gate.name for gate in problem.gates])
    _check_names("budget", [budget.name for budget in problem.budgets])
    for name, count in levels.items():
        if not count:
            raise ProblemError(f"choice {name}: has no levels; give it at least one")
    _check_nesting(gates)
    _check_links(problem, levels)
    _check_terms("objective", problem.objective, levels, gates)
    for budget in problem.budgets:
        _check_terms(f"budget {budget.name}", budget.terms, levels, gates)
        if not np.isfinite(budget.limit):
            raise ProblemError(
                f"budget {budget.name}: limit {budget.limit} is not a finite number; leave the budget out"
            )


def _check_names(kind: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ProblemError(f"{kind} {name}: is given {count} times; names must differ")


def _check_nesting(gates: Mapping[str, str | None]) -> None:
    for name, inside in gates.items():
        if inside is not None and inside not in gates:
            raise ProblemError(f"block {name}: lies inside {inside}, and there is no such block")
    for name in gates:
        seen, at = {name}, gates[name]
        while at is not None:
            if at in seen:
                raise ProblemError(f"block {name}: lies inside itself, by way of {at}; blocks must nest")
            seen.add(at)
            at = gates[at]


def _check_links(problem: Problem, levels: Mapping[str, int]) -> None:
    for link in problem.links:
        for name in (link.total, *(part for part, _ in link.parts)):
            if name not in levels:
                raise ProblemError(f"link of {link.total}: there is no choice {name}")


def _check_terms(place: str, terms: Iterable[Term], levels: Mapping[str, int], gates: Mapping[str, str | None]) -> None:
    for number, term in enumerate(terms):
        where = f"{place}, term {number}"
        for name in term.choices:
            if name not in levels:
                raise ProblemError(f"{where}: there is no choice {name}")
        if term.gate is not None and term.gate not in gates:
            raise ProblemError(f"{where}: there is no block {term.gate}")
        shape = tuple(levels[name] for name in term.choices)
        table = np.asarray(term.table)
        if table.shape != shape:
            raise ProblemError(f"{where}: the table is {_text(table.shape)}, its choices have {_text(shape)} levels")
        finite = np.isfinite(table)
        if not finite.all():
            at = tuple(int(i) for i in np.argwhere(~finite)[0])
            entry = f" at levels {at}" if at else ""
            raise ProblemError(f"{where}: the table holds {table[at]}{entry}; every entry must be a finite number")


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
